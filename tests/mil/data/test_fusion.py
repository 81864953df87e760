"""Bags of several encoders in one run: joined tile by tile, or by the mean of their models' logits."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from witness import DIM, Witness, facts, grid

from features.bags.bag import read_coords, read_features, write_bag
from features.encoders.lineage import Lineage, patient_sha256
from mil.heatmaps.heatmap import heatmap
from mil.heatmaps.options import HeatmapOptions
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.run.folder import RunFolder
from mil.run.scores import read_scores
from mil.train import train
from mil.training.options import TrainOptions
from wsi.errors import RequestError

QUICK = {"folds": 2, "epochs": 3, "hidden": 16, "baselines": (), "device": "cpu", "seeds": 1}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> tuple[Witness, Path, Path]:
    """A cohort, and two further encoders' bags of it: on the same tiles, and on every second one of them."""
    witness = write_cohort(tmp_path_factory.mktemp("first"), n_patients=18)
    same, other = tmp_path_factory.mktemp("same"), tmp_path_factory.mktemp("other")
    for path in witness.bags.glob("*.h5"):
        rows, coords = read_features(path), read_coords(path)
        narrow = replace(facts(path.stem), encoder="narrow")
        write_bag(same / path.name, [(rows[:, :5] * 2).astype(np.float16)], coords, narrow)
        write_bag(other / path.name, [rows[::2, :7]], grid(len(rows[::2])) + 1, narrow)
    return witness, same, other


def options(witness: Witness, out: Path, bags: tuple[Path, ...], fusion: str, **changes: object) -> TrainOptions:
    return TrainOptions(bags=bags, manifest=witness.manifest, out=out, fusion=fusion, **(QUICK | changes))  # type: ignore[arg-type]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_concatenated_bags_give_the_run_of_bags_that_were_written_joined(
    two: tuple[Witness, Path, Path], tmp_path: Path
) -> None:
    witness, same, _ = two
    for path in witness.bags.glob("*.h5"):
        joined = np.concatenate([read_features(path), read_features(same / path.name)], axis=1)
        write_bag(tmp_path / "joined" / path.name, [joined], read_coords(path), facts(path.stem))
    train(options(witness, tmp_path / "fused", (witness.bags, same), "concat"))
    train(options(witness, tmp_path / "plain", (tmp_path / "joined",), "none"))
    assert (tmp_path / "fused" / "oof.csv").read_bytes() == (tmp_path / "plain" / "oof.csv").read_bytes()
    recipe = RunFolder(tmp_path / "fused").recipe
    assert (recipe["bags"]["dim"], recipe["bags"]["encoder"]) == (DIM + 5, "made + narrow")


def test_late_fusion_is_the_mean_of_the_logits_of_each_encoders_models(
    two: tuple[Witness, Path, Path], tmp_path: Path
) -> None:
    witness, _, other = two
    train(options(witness, tmp_path / "run", (witness.bags, other), "late", workers=2))
    run = RunFolder(tmp_path / "run")
    assert run.models_per_fold == 2
    dims = [json.loads((run.model(run.head, 0, seed) / "model.json").read_text())["spec"]["dim"] for seed in (0, 1)]
    assert dims == [DIM, 7]
    wanted: dict[str, np.ndarray] = {}
    for fold in (0, 1):
        tables = [read_scores(run.model(run.head, fold, seed) / "scores.csv") for seed in (0, 1)]
        for i, image_id in enumerate(tables[0].image_ids):
            if tables[0].test_S[i]:
                at = tables[1].image_ids.index(image_id)
                wanted[image_id] = (tables[0].logits_SC[i] + tables[1].logits_SC[at]) / 2
    slides = [row for row in table(run.path / "oof.csv") if row["level"] == "slide"]
    assert len(slides) == len(wanted)
    for row in slides:
        assert [float(row["logit_CE"]), float(row["logit_LAA"])] == pytest.approx(wanted[row["image_id"]].tolist())


def test_each_fold_has_the_bags_of_the_encoder_that_held_it_out(
    two: tuple[Witness, Path, Path], write_cohort: Callable[..., Witness], tmp_path: Path
) -> None:
    witness, _, _ = two
    train(options(witness, tmp_path / "plain", (witness.bags,), "none"))
    splits = tmp_path / "plain" / "splits.csv"
    fold_of = {row["patient_id"]: row["fold"] for row in table(splits)}
    folders = (tmp_path / "bags0", tmp_path / "bags1")
    for fold, folder in enumerate(folders):
        seen = tuple(sorted(patient_sha256(p) for p, own in fold_of.items() if own != str(fold)))
        lineage = Lineage("recipe", "splits", fold, 2, ("CE", "LAA"), seen)
        for path in witness.bags.glob("*.h5"):
            told = replace(facts(path.stem), provenance={"encoder": {"name": "made", "lineage": lineage.as_dict()}})
            write_bag(folder / path.name, [read_features(path)[:, : 9 + fold]], read_coords(path), told)
    out = tmp_path / "run"
    train(options(witness, out, folders, "folds", splits=splits))
    run = RunFolder(out)
    assert run.models_per_fold == 1
    dims = [json.loads((run.model(run.head, fold, 0) / "model.json").read_text())["spec"]["dim"] for fold in (0, 1)]
    assert dims == [9, 10]
    request = PredictOptions(run=(out,), items=folders, out=tmp_path / "out.csv", device="cpu")
    assert predict(request).exit_code == 0
    assert len(table(request.out)) == 18
    with pytest.raises(RequestError, match=r"has seen (\d+) of the \1 patients that fold 0 tests.*--fusion folds"):
        train(options(witness, tmp_path / "no", folders[::-1], "folds", splits=splits))
    with pytest.raises(RequestError, match="a folder of bags for each of 3 folds, found 2"):
        train(options(witness, tmp_path / "no", folders, "folds", folds=3))


def test_the_first_encoders_models_are_those_of_a_run_of_its_own(
    two: tuple[Witness, Path, Path], tmp_path: Path
) -> None:
    witness, _, other = two
    train(options(witness, tmp_path / "late", (witness.bags, other), "late"))
    train(options(witness, tmp_path / "alone", (witness.bags,), "none"))
    one, same = (RunFolder(tmp_path / n).model("gated_abmil", 1, 0) / "scores.csv" for n in ("late", "alone"))
    assert one.read_bytes() == same.read_bytes()


@pytest.mark.parametrize("fusion", ["concat", "late"])
def test_a_fused_run_predicts_from_the_same_encoders_in_the_same_order(
    two: tuple[Witness, Path, Path], tmp_path: Path, fusion: str
) -> None:
    witness, same, _ = two
    out = tmp_path / "run"
    train(options(witness, out, (witness.bags, same), fusion))
    request = PredictOptions(run=(out,), items=(witness.bags, same), out=tmp_path / "out.csv", device="cpu")
    assert predict(request).exit_code == 0
    rows = table(request.out)
    assert len(rows) == 18
    assert len({row["CE"] for row in rows}) == 18
    with pytest.raises(RequestError, match="order of encoders"):
        predict(PredictOptions(run=(out,), items=(same, witness.bags), out=tmp_path / "b.csv", device="cpu"))
    with pytest.raises(RequestError, match="two or more"):
        predict(PredictOptions(run=(out,), items=(same,), out=tmp_path / "b.csv", device="cpu"))
    with pytest.raises(RequestError, match="several encoders"):
        heatmap(HeatmapOptions(run=out, bags=(same,), stores=(same,), out=tmp_path / "maps"))


def test_bags_of_other_tiles_cannot_be_concatenated(two: tuple[Witness, Path, Path], tmp_path: Path) -> None:
    witness, _, other = two
    with pytest.raises(RequestError, match=r"different tiles.*--fusion late"):
        train(options(witness, tmp_path / "run", (witness.bags, other), "concat"))


@pytest.mark.parametrize("fusion", ["concat", "late"])
def test_a_slide_that_one_encoder_lacks_is_named_and_counts_as_empty(
    two: tuple[Witness, Path, Path], tmp_path: Path, fusion: str
) -> None:
    witness, same, _ = two
    part = tmp_path / "part"
    part.mkdir()
    for path in same.glob("*.h5"):
        if path.stem != "0001_0":
            (part / path.name).write_bytes(path.read_bytes())
    (part / "0002_0.h5").write_bytes(b"no bag")
    summary = train(options(witness, tmp_path / "run", (witness.bags, part), fusion, epochs=1))
    rows = {row["image_id"]: row for row in table(tmp_path / "run" / "oof.csv")}
    assert (rows["0001_0"]["p_CE"], rows["0002_0"]["p_CE"]) == ("0.5", "0.5")
    assert {o.item_id for o in summary.outcomes if o.reason} == {"0001_0", "0002_0"}


def test_a_fusion_of_one_encoder_or_with_a_teacher_is_refused(two: tuple[Witness, Path, Path], tmp_path: Path) -> None:
    witness, same, _ = two
    with pytest.raises(RequestError, match="two or more"):
        train(options(witness, tmp_path / "run", (witness.bags,), "late"))
    with pytest.raises(RequestError, match="exclude each other"):
        options(witness, tmp_path / "run", (witness.bags, same), "late", teacher=tmp_path)
    with pytest.raises(RequestError, match="--fusion early: expected one of"):
        options(witness, tmp_path / "run", (witness.bags, same), "early")
