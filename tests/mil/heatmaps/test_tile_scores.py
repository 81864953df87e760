"""Tile scores of runs of every target: against predictions, attention and hand values."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from making import SEED
from witness import DIM, Trained, Witness, facts, grid, instances

from features.bags.bag import read_header, write_bag
from features.bags.loaded import read_bag
from mil.data.splits import known_slides
from mil.heatmaps.tile_scores import TileScores, percentiles, rows_in_store, tile_scores, top_tiles
from mil.inference.loaded_run import load_run
from mil.models.ensemble import Ensemble, load_ensemble
from mil.run.folder import RunFolder
from mil.train import train
from wsi.errors import BagError, RequestError
from wsi.store.tile_store import TileStore

NEW = "0077_7"


def scores_of(run: Path, bag: Path, store: TileStore, ensemble: Ensemble | None = None) -> TileScores:
    ensemble = ensemble or load_ensemble(RunFolder(run), "cpu")
    return tile_scores(ensemble, read_header(bag), store, known_slides(run))


def bag_of(folder: Path, store: TileStore, image_id: str = NEW) -> Path:
    rows = instances(np.random.default_rng(SEED), store.n_tiles, positive=True)
    path = folder / f"{image_id}.h5"
    write_bag(path, [rows], store.coords_l0_yx(), facts(image_id))
    return path


def probabilities(run: Path, scores: TileScores) -> np.ndarray:
    """What the pushes come to: the softmax of their sums, with the calibration's floor."""
    assert scores.push_CN is not None
    floor = load_ensemble(RunFolder(run), "cpu").calibration.floor
    powers = np.exp(scores.push_CN.sum(axis=1))
    return np.asarray(floor + (1 - len(powers) * floor) * powers / powers.sum())


def test_scores_agree_with_prediction_and_attention(trained: Trained, small_store: TileStore, tmp_path: Path) -> None:
    bag = bag_of(tmp_path, small_store)
    found, run = scores_of(trained.out, bag, small_store), load_run(trained.out, "cpu")
    assert (len(found), found.models, found.out_of_fold, found.label) == (small_store.n_tiles, 3, False, None)
    np.testing.assert_allclose(found.attention_N, run.attention(read_bag(bag)), atol=1e-9)
    assert list(run.predict(bag).values()) == pytest.approx(found.outputs_C.tolist())
    assert found.factor_N.mean() == pytest.approx(1)
    assert found.tiles_yx.tolist() == small_store.tiles_yx.tolist()
    assert found.push_way == "sum"
    assert found.push_how.startswith("Exact")
    np.testing.assert_allclose(probabilities(trained.out, found), found.outputs_C, atol=1e-6)
    np.testing.assert_allclose(found.push_of("CE"), -found.push_of("LAA"), atol=1e-9)
    with pytest.raises(RequestError, match="expected one of CE, LAA, found 'XX'"):
        found.push_of("XX")


def test_disagreement_is_the_spread_over_models_and_the_mean_is_theirs(
    trained: Trained, small_store: TileStore, tmp_path: Path
) -> None:
    bag, ensemble = bag_of(tmp_path, small_store), load_ensemble(RunFolder(trained.out), "cpu")
    found = scores_of(trained.out, bag, small_store)
    alone = [scores_of(trained.out, bag, small_store, replace(ensemble, members=(own,))) for own in ensemble.members]
    assert all(own.disagreement_N is None for own in alone)
    factors = np.stack([own.factor_N for own in alone])
    np.testing.assert_allclose(found.factor_N, factors.mean(axis=0), atol=1e-9)
    assert found.disagreement_N is not None
    by_hand = np.sqrt(((factors - factors.mean(axis=0)) ** 2).sum(axis=0) / 2)
    np.testing.assert_allclose(found.disagreement_N, by_hand, atol=1e-9)
    assert found.push_CN is not None
    pushes = np.stack([own.push_CN for own in alone])  # type: ignore[misc]
    np.testing.assert_allclose(found.push_CN, pushes.mean(axis=0), atol=1e-9)


def test_a_slide_of_the_training_is_asked_of_the_models_that_have_not_seen_it(
    trained: Trained, small_store: TileStore
) -> None:
    image_id = small_store.image_id
    found = scores_of(trained.out, trained.witness.bags / f"{image_id}.h5", small_store)
    assert (found.models, found.out_of_fold, found.label) == (1, True, "LAA")
    with (trained.out / "oof.csv").open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["image_id"] == image_id]
    assert found.outputs_C.tolist() == pytest.approx([float(row["p_CE"]), float(row["p_LAA"])], abs=1e-6)


def test_views_of_a_tile_count_together_and_tiles_left_out_are_not_there(
    trained: Trained, small_store: TileStore, tmp_path: Path
) -> None:
    chosen, path = np.array([3, 0, 3, 5]), tmp_path / f"{NEW}.h5"
    rows = instances(np.random.default_rng(SEED), len(chosen), positive=True)
    write_bag(path, [rows], small_store.coords_l0_yx()[chosen], facts(NEW))
    found = scores_of(trained.out, path, small_store)
    attention = load_run(trained.out, "cpu").attention(read_bag(path))
    assert found.store_rows_N.tolist() == [0, 3, 5]
    np.testing.assert_allclose(found.attention_N, [attention[1], attention[0] + attention[2], attention[3]], atol=1e-9)
    np.testing.assert_allclose(probabilities(trained.out, found), found.outputs_C, atol=1e-6)


def test_a_bag_of_other_tiles_is_refused(trained: Trained, small_store: TileStore, tmp_path: Path) -> None:
    path = tmp_path / f"{NEW}.h5"
    coords = small_store.coords_l0_yx().copy()
    coords[2] += 1
    coords[-1] += (0, 10**6)
    write_bag(path, [np.ones((len(coords), DIM), np.float16)], coords, facts(NEW))
    with pytest.raises(BagError, match="2 of them not in the store"):
        scores_of(trained.out, path, small_store)


@pytest.mark.parametrize("order", [1, -1])
def test_rows_find_their_tiles_in_any_order(small_store: TileStore, tmp_path: Path, order: int) -> None:
    header = read_header(bag_of(tmp_path, small_store))
    wanted = np.arange(small_store.n_tiles)[::order]
    assert rows_in_store(small_store.coords_l0_yx()[::order], small_store, header).tolist() == wanted.tolist()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen patients, a feature of whose tiles tells a number, and a manifest of it for every kind of target."""
    folder, rng = tmp_path_factory.mktemp("cohort"), np.random.default_rng(SEED)
    lines = ["image_id,patient_id,value,time,event,label"]
    for patient in range(18):
        share = patient / 17
        rows = rng.normal(size=(30, DIM)).astype(np.float16)
        rows[: round(30 * share), 2] += 3
        write_bag(folder / f"{patient:03d}_0.h5", [rows], grid(30), facts(f"{patient:03d}_0"))
        lines.append(
            f"{patient:03d}_0,{patient:03d},{50 + 10 * share},{2 - share},{patient % 3 > 0:d},{'ab'[patient % 2]};c"
        )
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


Fit = Callable[..., Path]


@pytest.fixture(scope="module")
def fit(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    def made(**settings: object) -> Path:
        out = tmp_path_factory.mktemp("runs") / "run"
        settings = {"folds": 2, "epochs": 6, "baselines": (), "hidden": 16, "attention": 8} | settings
        assert train(Witness(cohort, cohort / "manifest.csv").options(out, **settings)).exit_code == 0
        return out

    return made


@pytest.mark.parametrize("target", ["value", "survival"])
def test_pushes_of_values_and_risks_add_up_from_what_is_known_without_looking(
    fit: Fit, small_store: TileStore, tmp_path: Path, target: str
) -> None:
    run, bag = fit(target=target, seeds=2), bag_of(tmp_path, small_store)
    found = scores_of(run, bag, small_store)
    assert found.models == 4
    assert found.push_CN is not None
    total = found.push_from_C + found.push_CN.sum(axis=1)
    np.testing.assert_allclose(total, found.outputs_C, atol=1e-4)
    assert list(load_run(run, "cpu").predict(bag).values()) == pytest.approx(total.tolist(), abs=1e-4)
    with (run / "oof.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["level"] == "slide"]
    if target == "value":
        assert 50 < found.push_from_C[0] < 60, "the mean of the training"
        assert "value" in found.push_how
    else:
        risks = [float(row["logit_risk"]) for row in rows]
        moved = json.loads((run / "calibration.json").read_text())
        assert found.push_from_C[0] == pytest.approx(np.mean(risks) + moved["shift"][0], abs=1e-6)
    seen = load_ensemble(RunFolder(run), "cpu").of_fold(1)
    if target == "survival":
        fold = [float(row["logit_risk"]) for row in rows if row["fold"] == "1"]
        known = replace(known_slides(run), folds={NEW: 1})
        apart = tile_scores(load_ensemble(RunFolder(run), "cpu"), read_header(bag), small_store, known)
        assert (apart.models, len(seen.members)) == (2, 2)
        assert apart.push_from_C[0] == pytest.approx(np.mean(fold) + moved["folds"][1]["shift"][0], abs=1e-6)
        assert apart.disagreement_N is not None


@pytest.mark.parametrize("head", ["dsmil", "max_pool", "mean_pool"])
def test_labels_of_heads_that_sum_take_the_maximum_or_need_a_gradient(
    fit: Fit, small_store: TileStore, tmp_path: Path, head: str
) -> None:
    run, bag = fit(target="labels", head=head), bag_of(tmp_path, small_store)
    found = scores_of(run, bag, small_store)
    told = np.log(found.outputs_C / (1 - found.outputs_C))
    assert found.push_CN is not None
    assert found.push_CN.shape == (len(found.outputs), small_store.n_tiles)
    assert found.attends == (head != "mean_pool")
    if head == "dsmil":
        np.testing.assert_allclose(found.push_CN.sum(axis=1), told, atol=1e-4)
        assert (found.push_way, found.push_how[:6]) == ("sum", "Exact:")
    elif head == "max_pool":
        assert (found.push_way, "highest" in found.push_how) == ("max", True)
    else:
        np.testing.assert_allclose(found.factor_N, 1)
        assert found.disagreement_N is None
        assert found.push_how.startswith("Estimated (gradient times input)")


def test_ranks_and_tops() -> None:
    assert percentiles(np.array([0.5, 0.1, 0.1, 0.3])).tolist() == pytest.approx([1, 1 / 6, 1 / 6, 2 / 3])
    assert percentiles(np.array([1.0])).tolist() == [1]
    assert top_tiles(np.array([0.1, 0.5, 0.2, 0.5]), 3).tolist() == [1, 3, 2]


def test_large_bags_give_the_same_scores_as_small_ones(
    trained: Trained, small_store: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mil.ragged import instances as ragged

    bag = bag_of(tmp_path, small_store)
    whole = scores_of(trained.out, bag, small_store)
    monkeypatch.setattr(ragged, "STREAM_ABOVE", 5)
    monkeypatch.setitem(ragged.CHUNK, "cpu", 3)
    streamed = scores_of(trained.out, bag, small_store)
    for name in ("attention_N", "push_CN", "disagreement_N", "outputs_C"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), atol=1e-6)
    assert torch.is_grad_enabled()
