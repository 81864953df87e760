"""`gigamil embed`: vectors compared with plain computations, and what train, verify and share make of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from witness import DIM, Trained, facts, grid

from cli.app import app
from features.bags.bag import BagHeader, read_coords, read_features, read_header, write_bag
from features.bags.options import VerifyBagsOptions
from features.bags.verify import verify_bags
from mil.data.cohort import shared_recipe
from mil.data.encoder_lineage import lineages
from mil.data.splits import known_slides
from mil.embedding.embed import embed
from mil.embedding.options import EmbedOptions
from mil.inference.options import SimilarOptions
from mil.inference.similar import similar
from mil.run.folder import RunFolder
from mil.train import train
from mil.training.options import TrainOptions
from wsi.errors import RecipeMismatchError, RequestError
from wsi.progress.outcome import Status

SETTINGS = {"folds": 3, "epochs": 2, "hidden": 16, "head": "mean_pool", "baselines": (), "lr": 3e-3}


def embedded(trained: Trained, out: Path, **changes: object) -> Path:
    summary = embed(EmbedOptions(bags=(trained.witness.bags,), out=out, **changes))  # type: ignore[arg-type]
    assert summary.exit_code == 0
    return out


@pytest.fixture(scope="module")
def means(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded(trained, tmp_path_factory.mktemp("means"))


def test_a_bag_of_one_row_keeps_what_the_tiles_bag_told(trained: Trained, means: Path) -> None:
    tiles, vector = (read_header(folder / "0001_0.h5") for folder in (trained.witness.bags, means))
    rows = read_features(tiles.path).astype(np.float64)
    assert (vector.n_tiles, vector.dim, vector.encoder) == (1, DIM, "mean@made")
    np.testing.assert_allclose(read_features(vector.path)[0], rows.mean(axis=0), rtol=1e-6)
    assert read_features(vector.path).dtype == np.float32
    assert read_coords(vector.path).tolist() == [[0, 0]]
    same = ("image_id", "mpp", "tile_px", "tile_px_l0", "level0_shape_yx")
    assert [getattr(vector, name) for name in same] == [getattr(tiles, name) for name in same]
    assert vector.recipe == {**tiles.recipe, "slide_encoder": {"name": "mean"}}
    assert verify_bags(VerifyBagsOptions(bags=(means,))).exit_code == 0
    assert read_header(means / "0900_0.h5").n_tiles == 0


def test_a_second_run_skips_and_another_encoder_or_bag_does_not(trained: Trained, means: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = EmbedOptions(bags=(trained.witness.bags / "0001_0.h5",), out=out)
    assert [o.status for o in embed(one).outcomes] == [Status.DONE]
    before = (out / "0001_0.h5").read_bytes()
    assert [o.status for o in embed(one).outcomes] == [Status.SKIPPED]
    with pytest.raises(RecipeMismatchError, match=r'slide_encoder.name: found "mean", wanted "max"'):
        embed(replace(one, encoder="max"))
    assert embed(replace(one, encoder="max", overwrite=True)).exit_code == 0
    assert embed(replace(one, overwrite=True)).exit_code == 0
    assert (out / "0001_0.h5").read_bytes() == before
    changed = tmp_path / "other" / "0001_0.h5"
    changed.parent.mkdir()
    write_bag(changed, [np.ones((3, DIM), np.float16)], grid(3), facts("0001_0"))
    assert [o.status for o in embed(replace(one, bags=(changed,))).outcomes] == [Status.DONE]
    assert read_features(out / "0001_0.h5").tolist() == [[1.0] * DIM]


def test_bad_bags_fail_by_name_and_files_of_others_stay(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    (tmp_path / "bags" / "0001_0.h5").write_bytes((trained.witness.bags / "0001_0.h5").read_bytes())
    (tmp_path / "bags" / "bad_0.h5").write_bytes(b"no bag")
    options = EmbedOptions(bags=(tmp_path / "bags",), out=tmp_path / "out")
    summary = embed(options)
    assert {o.item_id: o.status for o in summary.outcomes} == {"0001_0": Status.DONE, "bad_0": Status.FAILED}
    (tmp_path / "out" / "0001_0.h5").write_bytes(b"somebody's own")
    with pytest.raises(RequestError, match="0001_0"):
        embed(options)
    assert (tmp_path / "out" / "0001_0.h5").read_bytes() == b"somebody's own"
    found = CliRunner().invoke(app, ["embed", str(tmp_path / "bags"), "-o", str(tmp_path / "bags")])
    assert found.exit_code == 2
    assert len(found.output.strip().splitlines()) == 1


def plain_point(folder: Path, rows: np.ndarray) -> np.ndarray:
    """Return what the last layer of a gated ABMIL sees, in numpy, from its file of weights."""
    file = safetensors.numpy.load_file(folder / "weights.safetensors")
    weights = {key: own.astype(np.float64) for key, own in file.items()}
    limit = json.loads((folder / "model.json").read_text())["spec"]["limit"]
    rows = np.clip((rows - weights["mean_D"]) * weights["scale_D"], -limit or -np.inf, limit or np.inf)

    def linear(name: str, values: np.ndarray) -> np.ndarray:
        return values @ weights[f"head.rows.{name}.weight"].T + weights[f"head.rows.{name}.bias"]

    hidden = np.maximum(linear("embed.0", rows), 0)
    tanh, gate = np.split(linear("gate", hidden), 2, axis=1)
    scores = linear("score", np.tanh(tanh) / (1 + np.exp(-gate)))[:, 0]
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum() @ hidden)


def test_a_runs_embedding_is_its_models_points_beside_each_other(trained: Trained, tmp_path: Path) -> None:
    out = embedded(trained, tmp_path, encoder=str(trained.out))
    run, header = RunFolder(trained.out), read_header(out / "0003_0.h5")
    rows = read_features(trained.witness.bags / "0003_0.h5").astype(np.float64)
    wanted = np.concatenate([plain_point(run.model(run.head, fold, 0), rows) for fold in range(3)])
    np.testing.assert_allclose(read_features(header.path)[0], wanted, rtol=2e-4, atol=1e-5)
    one = embedded(trained, tmp_path / "one", encoder=str(trained.out), fold=1)
    np.testing.assert_array_equal(read_features(one / "0003_0.h5")[0], read_features(header.path)[0][64:128])


def test_train_refuses_patients_whom_the_embeddings_run_has_seen(trained: Trained, tmp_path: Path) -> None:
    known = known_slides(trained.out)
    by_fold = [embedded(trained, tmp_path / str(k), encoder=str(trained.out), fold=k) for k in range(3)]
    everything = embedded(trained, tmp_path / "all", encoder=str(trained.out))
    settings = {"manifest": trained.witness.manifest, "splits": trained.out / "splits.csv", **SETTINGS}
    with pytest.raises(RequestError, match=r"trained with no fold held out and has seen (\d+) of the \1 patients"):
        train(TrainOptions(bags=(everything,), out=tmp_path / "run", **settings))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="trained with its fold 0 of 3 held out and has seen"):
        train(TrainOptions(bags=(by_fold[0],), out=tmp_path / "run", **settings))  # type: ignore[arg-type]
    (lineage,) = lineages([read_header(by_fold[2] / "0003_0.h5")])
    own = {known.patients[i] for i, fold in known.folds.items() if fold == 2}
    others = {known.patients[i] for i, fold in known.folds.items() if fold != 2}
    assert (lineage.seen(own), lineage.seen(others)) == ([], sorted(others))
    options = TrainOptions(bags=tuple(by_fold), fusion="folds", out=tmp_path / "run", **settings)  # type: ignore[arg-type]
    assert train(options).exit_code == 0


def test_the_lineage_of_the_tile_encoder_passes_through(trained: Trained, tmp_path: Path) -> None:
    lineage = {"recipe_hash": "r", "splits_hash": "s", "fold": 0, "n_folds": 3, "classes": [], "patients_sha256": ["p"]}
    told = replace(facts("a_0"), provenance={"encoder": {"name": "made", "lineage": lineage, "licence": "X"}})
    (tmp_path / "tiles").mkdir()
    write_bag(tmp_path / "tiles" / "a_0.h5", [np.ones((2, DIM), np.float16)], grid(2), told)
    embed(EmbedOptions(bags=(tmp_path / "tiles",), out=tmp_path / "out"))
    header = read_header(tmp_path / "out" / "a_0.h5")
    assert [own.as_dict() for own in lineages([header])] == [lineage]
    assert header.provenance["encoder"]["licence"] == "X"


def test_train_and_similar_take_them(trained: Trained, means: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = TrainOptions(bags=(means,), manifest=trained.witness.manifest, out=run, **SETTINGS)  # type: ignore[arg-type]
    assert train(options).exit_code == 0
    table = SimilarOptions(run=run, bags=(means / "0001_0.h5",), known=(means,), out=tmp_path / "s.csv")
    assert similar(table).exit_code == 0
    (tmp_path / "slide.tiff").write_bytes(b"II*\0")
    found = CliRunner().invoke(app, ["predict", str(run), str(tmp_path / "slide.tiff"), "-o", str(tmp_path / "p.csv")])
    assert found.exit_code == 2
    assert "made by another program" in found.output or "one vector a slide" in found.output


def test_what_cannot_be_asked_is_refused_in_one_line(trained: Trained, means: Path, tmp_path: Path) -> None:
    bags = (trained.witness.bags,)
    for options, why in (
        (EmbedOptions(bags=bags, out=tmp_path, encoder="nobody"), "expected one of mean"),
        (EmbedOptions(bags=bags, out=tmp_path, fold=1), "--fold is for the folder of a run"),
        (EmbedOptions(bags=bags, out=tmp_path, encoder=str(trained.out), fold=7), "has folds 0 to 2"),
        (EmbedOptions(bags=bags, out=tmp_path, encoder=str(trained.out), random_weights=1), "leave --weights"),
        (EmbedOptions(bags=(means,), out=tmp_path), "one vector for the slide already"),
        (EmbedOptions(bags=(means,), out=tmp_path, encoder=str(trained.out)), "one vector for the slide already"),
    ):
        with pytest.raises(RequestError, match=why):
            embed(options)
    assert not list(tmp_path.iterdir())


def test_a_run_without_its_splits_gives_no_embedding(trained: Trained, tmp_path: Path) -> None:
    """As one that was pulled from a hub: whom it has seen could not be told."""
    shutil.copytree(trained.out, tmp_path / "run")
    (tmp_path / "run" / "splits.csv").unlink()
    with pytest.raises(RequestError, match="tells whom its models have seen"):
        embed(EmbedOptions(bags=(trained.witness.bags,), out=tmp_path / "out", encoder=str(tmp_path / "run")))


def test_one_recipe_for_all_slides(means: Path) -> None:
    headers: list[BagHeader] = [read_header(path) for path in sorted(means.glob("*.h5"))[:5]]
    assert len({json.dumps(shared_recipe(own.recipe), sort_keys=True) for own in headers}) == 1
