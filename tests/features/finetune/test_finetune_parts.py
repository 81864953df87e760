"""The parts of fine-tuning that are functions: draws, batches, augmentation, folds, attention, rates, measures."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.encoders.lineage import Lineage, patient_sha256, splits_hash
from features.encoders.spec import EncoderSpec
from features.finetune.attention import AttentionTables
from features.finetune.augment import draw_change, turned
from features.finetune.batches import VALIDATION, draw_tiles, tile_weights
from features.finetune.inputs import TrainInput
from features.finetune.optimizer import size_of
from features.finetune.options import FinetuneOptions
from features.finetune.pieces import Piece
from features.folds import make_folds, read_folds, splits_table
from features.learning.average import average_into
from features.learning.batches import PieceRequest, bounds, requests, steps_of
from features.learning.colours import coloured
from features.learning.measure import measures
from features.learning.optimizer import learning_rate
from features.learning.slides import Slide
from mil.data.splits import read_splits
from mil.targets.metrics import METRICS, ones
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError
from wsi.store.tile_store import TileStore


def some_slides(*counts: int) -> list[Slide]:
    """Slides of patients p0, p0, p1, p2, ...; classes alternate over patients."""
    owners = [max(0, number - 1) for number in range(len(counts))]
    return [
        Slide(f"p{owner}_{number}", f"p{owner}", owner % 2, Path("none"), np.arange(count) * 2)
        for number, (owner, count) in enumerate(zip(owners, counts, strict=True))
    ]


def options(**wrong: object) -> FinetuneOptions:
    known = {"stores": (Path("s"),), "manifest": Path("m"), "encoder": "timm:a", "out": Path("w.safetensors")}
    return FinetuneOptions(**(known | wrong))  # type: ignore[arg-type]


@given(
    n_tiles=st.integers(1, 300), batch=st.integers(1, 40), ranks=st.integers(1, 4), parts=st.integers(1, 3),
    mixup=st.booleans(),
)  # fmt: skip
def test_ranks_and_parts_divide_the_same_batches(n_tiles: int, batch: int, ranks: int, parts: int, mixup: bool) -> None:
    n_steps = steps_of(n_tiles, batch)
    found: dict[int, list[int]] = {step: [] for step in range(n_steps)}
    for rank in range(ranks):
        own = range(rank * parts, (rank + 1) * parts)
        for request in requests(n_tiles, n_steps, 0, own, ranks * parts, mixup=mixup):
            rows = request.rows.tolist()
            if mixup:  # each tile's partner is the next of the batch, and the last one's is the first
                batch_rows = list(range(*bounds(n_tiles, n_steps)[request.step]))
                assert rows[1:] == [batch_rows[(row - batch_rows[0] + 1) % len(batch_rows)] for row in rows[:-1]]
                rows = rows[:-1]
            found[request.step] += rows
    assert [row for step in found for row in found[step]] == list(range(n_tiles))
    assert max(map(len, found.values())) - min(map(len, found.values())) <= 1


def test_a_draw_is_a_function_of_seed_and_epoch_and_is_drawn_anew() -> None:
    slides = some_slides(40, 3, 30)
    first, again, other, validation = (
        draw_tiles(slides, 8, 2, seed, epoch) for seed, epoch in ((1, 0), (1, 0), (1, 1), (1, VALIDATION))
    )
    assert len(first) == 8 + 3 + 8
    np.testing.assert_array_equal(first.tiles, again.tiles)
    np.testing.assert_array_equal(first.slides, again.slides)
    drawn = [set(zip(draw.slides.tolist(), draw.tiles.tolist(), strict=True)) for draw in (first, other)]
    assert all(len(tiles) == 19 for tiles in drawn)
    assert drawn[0] != drawn[1]
    assert set(first.tiles.tolist()) <= set(range(0, 80, 2))
    assert (np.diff(validation.slides) >= 0).all()
    assert not (np.diff(first.slides) >= 0).all()


@given(counts=st.lists(st.integers(1, 50), min_size=3, max_size=8))
def test_classes_and_patients_weigh_the_same_however_many_tiles_they_have(counts: list[int]) -> None:
    slides = some_slides(*counts)
    weights = tile_weights(slides, counts, 2)
    total = np.array(weights) * counts
    assert np.isclose(total.sum(), sum(counts))
    per_patient: dict[str, float] = {}
    for slide, share in zip(slides, total.tolist(), strict=True):
        per_patient[slide.patient_id] = per_patient.get(slide.patient_id, 0.0) + share
    for label in (0, 1):
        own = [per_patient[p] for p in {s.patient_id for s in slides if s.label == label}]
        np.testing.assert_allclose(own, own[0])
        np.testing.assert_allclose(sum(own), sum(counts) / 2)


def test_the_eight_turns_are_all_different_and_keep_the_pixels() -> None:
    tile = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    views = [turned(tile, turn) for turn in range(8)]
    assert len({view.tobytes() for view in views}) == 8
    assert all(sorted(view[channel].ravel()) == sorted(tile[channel].ravel()) for view in views for channel in range(3))


def test_a_change_belongs_to_its_tile_and_epoch() -> None:
    drawn = [
        draw_change(0, epoch, image, tile, flips=True, jitter=0.2, mixup=0.4)
        for epoch, image, tile in ((0, "a_0", 1), (0, "a_0", 1), (1, "a_0", 1), (0, "a_1", 1), (0, "a_0", 2))
    ]
    assert drawn[0].colours.tolist() == drawn[1].colours.tolist()
    assert len({tuple(change.colours.tolist()) for change in drawn}) == 4
    assert len({change.share for change in drawn}) == 4
    turns = {draw_change(0, 0, "a_0", t, flips=True, jitter=0.0, mixup=0.0).turn for t in range(100)}
    assert turns == set(range(8))
    still = draw_change(0, 0, "a_0", 5, flips=False, jitter=0.0, mixup=0.0)
    assert (still.turn, still.share, still.colours.tolist()) == (0, 1.0, [1.0] * 5)


def test_colours_change_as_their_factors_tell() -> None:
    tiles = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    same = coloured(tiles, torch.ones(2, 5))
    torch.testing.assert_close(same, tiles)
    gained = coloured(tiles, torch.tensor([[1.1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]))
    torch.testing.assert_close(gained[0, 0], tiles[0, 0] * 1.1)
    torch.testing.assert_close(gained[0, 1:], tiles[0, 1:])
    torch.testing.assert_close(gained[1], tiles[1])
    grey = coloured(tiles, torch.tensor([[1, 1, 1, 1, 0.0]] * 2))
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    flat = coloured(tiles, torch.tensor([[1, 1, 1, 0.0, 1]] * 2))
    assert float(flat.std((2, 3)).max()) < 1e-6


@pytest.mark.parametrize("mixed", [False, True])
def test_mixup_blends_each_tile_and_its_target_with_the_next(mixed: bool) -> None:
    spec = EncoderSpec(
        name="timm:a", dim=1, input_px=8, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0), trained=False, weights_sha256="",
        licence="", description="",
    )  # fmt: skip
    levels, shares = torch.tensor([10, 200, 90]), torch.tensor([0.75, 0.1, 0.6])
    piece = Piece(
        request=PieceRequest(0, 0, np.arange(3), last=True),
        pixels=levels.to(torch.uint8)[:, None, None, None].expand(3, 3, 16, 16).contiguous(),
        colours=torch.ones(3, 5),
        shares=shares,
        targets=torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]]),
    )
    tiles, targets = TrainInput(spec, torch.device("cpu"), 8, mixed=mixed)(piece)
    if not mixed:
        expected, blended = levels / 255, piece.targets
    else:
        expected = (shares * levels)[:2] / 255 + ((1 - shares)[:2] * levels[1:]) / 255
        blended = torch.tensor([[1.5, 0.25], [0.45, 0.1]])
    assert tiles.shape == (len(expected), 3, 8, 8)
    torch.testing.assert_close(targets, blended)
    torch.testing.assert_close(tiles[:, 0, 4, 4], (expected - 0.5) / 0.5)
    torch.testing.assert_close(tiles[:, 2, 0, 7], expected / 2)


def test_folds_are_whole_patients_and_train_reads_them(tmp_path: Path) -> None:
    rows = [
        ManifestRow(f"p{n}_{i}", f"p{n}", "CE" if n % 3 else "LAA", f"{n % 2}")
        for n in range(15)
        for i in range(1 + n % 2)
    ]
    folds = make_folds(rows, 3, seed=4)
    assert set(folds) == {row.patient_id for row in rows}
    for label in ("CE", "LAA"):
        count = np.bincount(
            [fold for patient, fold in folds.items() if (int(patient[1:]) % 3 == 0) == (label == "LAA")]
        )
        assert max(count) - min(count) <= 1
    path = tmp_path / "splits.csv"
    path.write_text(splits_table(rows, folds))
    assert read_splits(path) == {row.image_id: folds[row.patient_id] for row in rows}
    assert read_folds(path, rows) == folds
    assert splits_hash(folds) == splits_hash(dict(reversed(folds.items())))
    with pytest.raises(RequestError, match="no fold for new_0"):
        read_folds(path, [*rows, ManifestRow("new_0", "new", "CE")])
    with pytest.raises(RequestError, match="1 slide is of another patient than in the manifest"):
        read_folds(path, [ManifestRow("p1_0", "p2", "CE")])
    path.write_text(path.read_text().replace(f"p1_1,p1,CE,1,{folds['p1']}", f"p1_1,p1,CE,1,{folds['p1'] + 1}"))
    with pytest.raises(RequestError, match="patient p1 stands in folds"):
        read_folds(path, rows)
    with pytest.raises(RequestError, match="found CE: 10, LAA: 5; give fewer"):
        make_folds(rows, 6, seed=0)


def test_attention_chooses_the_best_share(small_store: TileStore, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    attention = rng.random(small_store.n_tiles)
    one, folder = tmp_path / "all.csv", tmp_path / "maps"
    folder.mkdir()
    rows = [[*yx, value] for yx, value in zip(small_store.tiles_yx.tolist(), attention.tolist(), strict=True)]
    with one.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["image_id", "tile_row", "tile_column", "attention"], *([small_store.image_id, *row] for row in rows)]
        )
    with (folder / f"{small_store.image_id}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["tile_row", "tile_column", "attention"], *rows])
    count = int(np.ceil(0.3 * small_store.n_tiles))
    expected = sorted(np.argsort(-attention)[:count].tolist())
    for path in (one, folder):
        assert AttentionTables(path).best(small_store, 0.3).tolist() == expected
    (folder / f"{small_store.image_id}.csv").write_text("tile_row,tile_column,attention\n0,0,0.5\n")
    with pytest.raises(RequestError, match=r"expected every tile of slide 049194_0"):
        AttentionTables(folder).best(small_store, 0.3)
    one.write_text("image_id,tile_row,tile_column,attention\nother,0,0,nan\n")
    with pytest.raises(RequestError, match=r"expected a table with image_id, tile_row"):
        AttentionTables(one)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    chosen = options(epochs=4, warmup_epochs=1.0, lr=1e-3)
    rates = [learning_rate(chosen, step, 10) for step in range(40)]
    assert rates[0] == pytest.approx(1e-3 / 11)
    assert max(rates) == rates[10] == 1e-3
    assert (np.diff(rates[:11]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert 0 < rates[-1] < 1e-5
    assert [size_of((128, 224), epoch, 5) for epoch in range(5)] == [128, 128, 128, 224, 224]
    assert [size_of((64, 96, 128), epoch, 3) for epoch in range(3)] == [64, 96, 128]


def test_the_average_follows_the_weights() -> None:
    average, model = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    start, goal = average.weight.detach().clone(), model.weight.detach().clone()
    average_into(average, model, 0.75, step=10_000)
    torch.testing.assert_close(average.weight.detach(), 0.75 * start + 0.25 * goal)
    average_into(average, model, 0.75, step=0)
    torch.testing.assert_close(average.weight.detach(), 0.1 * (0.75 * start + 0.25 * goal) + 0.9 * goal)


def test_measures_are_those_of_the_metric() -> None:
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(9), 4)
    labels_P = np.array([0, 1, 2] * 3)
    probs = rng.dirichlet((1, 1, 1), 36)
    found = measures(probs, labels_P[patients], patients)
    means = np.stack([probs[patients == p].mean(0) for p in range(9)])
    assert found["val_patient_loss"] == pytest.approx(float(METRICS["weighted_log_loss"](labels_P, means, ones(9))[0]))
    assert found["val_patient_auc"] == pytest.approx(float(METRICS["auc"](labels_P, means, ones(9))[0]))
    alone = measures(probs[:4], np.zeros(4, np.int64), np.zeros(4, np.int64))
    assert np.isnan(alone["val_patient_auc"])
    assert alone["val_loss"] == pytest.approx(-np.log(probs[:4, 0]).mean())


def test_a_lineage_knows_whom_it_has_seen() -> None:
    seen = Lineage("r", "s", 0, 5, ("CE", "LAA"), tuple(sorted(map(patient_sha256, ("049194", "008e5c")))))
    assert seen.seen(["049194", "other", "049194"]) == ["049194"]
    assert patient_sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_requests_are_checked() -> None:
    for wrong, told in (
        ({"out": Path("w.pt")}, r"--out w.pt: expected a name that ends in .safetensors"),
        ({"encoder": "texture"}, "expected timm:<model>"),
        ({"stores": ()}, "at least one tile store"),
        ({"accumulate": 0}, "--accumulate 0: expected 1 or more"),
        ({"lr": float("nan")}, "--lr nan: expected a finite number, above 0"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0: expected 0 or more, below 1"),
        ({"layer_decay": 0.0}, "--layer-decay 0.0: expected above 0"),
        ({"sizes": (96, 128), "epochs": 1}, "at most one per epoch"),
        ({"sizes": (8,)}, "sizes of 16 pixels or more"),
        ({"keep": "first"}, "--keep first: expected last or best"),
        ({"precision": "int8"}, "--precision int8"),
        ({"weights": Path("none.safetensors")}, "expected a file of weights"),
    ):
        with pytest.raises(RequestError, match=told):
            options(**wrong)


def test_what_does_not_shape_the_result_is_not_in_the_recipe() -> None:
    own = options().recipe()
    assert options(nproc=2, accumulate=3, device="cpu", activation_checkpointing=True, prefetch_mib=7).recipe() == own
    for change in ({"batch_size": 32}, {"lr": 1.0}, {"jitter": 0.0}, {"fold": 1}, {"sizes": (32,)}, {"ema": 0.5}):
        assert options(**change).recipe() != own
