"""Training: what it finds, what it refuses, and that a kill or more processes leave no trace in the numbers."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from witness import DIM, Trained, Witness, facts, grid, train_killed_after_each_checkpoint

from features.bags.bag import read_coords, read_features, write_bag
from mil.run.folder import MEASURED
from mil.train import train
from mil.training.methods.schedule import learning_rate
from mil.training.options import TrainOptions
from mil.training.sampling import slide_weights
from wsi.errors import BagError, ClaimedError, RecipeMismatchError, RequestError
from wsi.progress.outcome import Status

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("small"), n_patients=18)


@pytest.fixture(scope="module")
def undisturbed(small: Witness, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train(quick(small, out))
    return out


def quick(witness: Witness, out: Path, **changes: object) -> TrainOptions:
    return witness.options(out, **({"folds": 2, "epochs": 12, "warmup_epochs": 1, "hidden": 16} | changes))


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def lasting(found: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files that do not hold seconds."""
    return {name: data for name, data in found.items() if name not in MEASURED}


def metrics(run: Path) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = json.loads((run / "metrics.json").read_text())["models"]
    return found


def test_attention_finds_the_witnesses_that_the_mean_hides(trained: Trained) -> None:
    found = metrics(trained.out)
    assert found["gated_abmil"]["auc"]["value"] > 0.9
    assert found["mean_pool"]["auc"]["value"] < found["gated_abmil"]["auc"]["value"] - 0.15
    assert found["gated_abmil"]["weighted_log_loss"]["high"] < found["constant"]["weighted_log_loss"]["value"]
    assert found["constant"]["weighted_log_loss"]["value"] == pytest.approx(0.693147, abs=1e-6)
    assert {"mean_colour", "center_only", "class_prior"} <= set(found)


def test_the_run_folder_holds_what_was_promised(trained: Trained) -> None:
    there = contents(trained.out)
    models = [f"{root}fold{f}/seed0/{name}" for root in ("", "baselines/mean_pool/") for f in range(3) for name in
              ("weights.safetensors", "model.json", "scores.csv", "history.csv")]  # fmt: skip
    top = ["config.toml", "splits.csv", "oof.csv", "metrics.json", "calibration.json", "report.html", *MEASURED]
    assert set(top + models) <= set(there)
    assert not [name for name in there if "checkpoint" in name or "partial" in name]
    assert str(trained.witness.bags) not in "".join(data.decode(errors="ignore") for data in there.values())


def test_every_patient_is_scored_once_by_models_that_did_not_see_it(trained: Trained) -> None:
    with (trained.out / "oof.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["level"] == "patient"]
    assert len(rows) == len({row["patient_id"] for row in rows}) == 47
    with trained.witness.manifest.open(newline="") as file:
        centers = {row["patient_id"]: row["center_id"] for row in csv.DictReader(file)}
    assert {row["patient_id"]: row["center_id"] for row in rows} == centers
    assert all(float(row["p_CE"]) + float(row["p_LAA"]) == pytest.approx(1) for row in rows)
    with (trained.out / "splits.csv").open(newline="") as file:
        folds = {row["image_id"]: int(row["fold"]) for row in csv.DictReader(file)}
    for fold in range(3):
        with (trained.out / f"fold{fold}" / "seed0" / "scores.csv").open(newline="") as file:
            parts = {row["image_id"]: row["part"] for row in csv.DictReader(file)}
        assert {i for i, part in parts.items() if part == "test"} == {i for i, f in folds.items() if f == fold}
        assert all(folds[i] != fold for i, part in parts.items() if part == "val")


def test_an_empty_bag_is_named_and_scored_at_equal_probabilities(trained: Trained) -> None:
    assert trained.summary.exit_code == 0
    assert any("0900_0" in line for line in json.loads((trained.out / "metrics.json").read_text())["warnings"])
    with (trained.out / "oof.csv").open(newline="") as file:
        empty = [row for row in csv.DictReader(file) if row["patient_id"] == "0900"]
    assert [(row["p_CE"], row["p_LAA"]) for row in empty] == [("0.5", "0.5")] * 2


def test_a_second_run_skips_everything_and_changes_nothing(small: Witness, undisturbed: Path) -> None:
    before = contents(undisturbed)
    summary = train(quick(small, undisturbed))
    assert {outcome.status for outcome in summary.outcomes} == {Status.SKIPPED}
    assert contents(undisturbed) == before


def test_another_recipe_is_refused_by_field_and_overwriting_spares_other_files(small: Witness, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(quick(small, out, epochs=1, baselines=()))
    (out / "notes.txt").write_text("mine")
    (out / "fold9" / "seed0").mkdir(parents=True)
    (out / "fold9" / "seed0" / "mine.txt").write_text("mine")
    changed = quick(small, out, epochs=1, baselines=(), lr=0.5, folds=3)
    with pytest.raises(RecipeMismatchError, match=r"folds: found 2, wanted 3; lr: found 0.003, wanted 0.5"):
        train(changed)
    train(replace(changed, overwrite=True, folds=2))
    assert (out / "notes.txt").read_text() == (out / "fold9" / "seed0" / "mine.txt").read_text() == "mine"
    with pytest.raises(RequestError, match="not empty"):
        train(quick(small, small.bags, epochs=1))


def test_killed_in_the_middle_the_run_goes_on_to_the_same_bits(
    small: Witness, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    program = (
        "import sys; from pathlib import Path; from mil.train import train\n"
        "from mil.training.options import TrainOptions\n"
        f"train({quick(small, out)!r})"
    ).replace("PosixPath", "Path")
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    running = out / "fold1" / "seed0"
    deadline = time.monotonic() + 120
    while not (running / "checkpoint.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (running / "model.json").exists(), "the kill came too late to prove anything"
    summary = train(quick(small, out))
    assert [outcome.status for outcome in summary.outcomes].count(Status.SKIPPED) == 1
    expected, found = lasting(contents(undisturbed)), lasting(contents(out))
    found = {name: data for name, data in found.items() if not re.search(r"\.\d+\.partial$", name)}
    pages = {"report.html"}  # the title is the folder's name, the same here
    assert {n: d for n, d in found.items() if n not in pages} == {n: d for n, d in expected.items() if n not in pages}


def test_every_epoch_can_be_the_last_before_a_kill(small: Witness, undisturbed: Path, tmp_path: Path) -> None:
    """The process ends right after the n-th checkpoint, again and again, until the run is through."""
    out = tmp_path / "run"
    train_killed_after_each_checkpoint(quick(small, out), 5)
    assert contents(out)["oof.csv"] == contents(undisturbed)["oof.csv"]


def test_more_processes_and_smaller_pieces_change_no_result(small: Witness, undisturbed: Path, tmp_path: Path) -> None:
    train(quick(small, tmp_path / "run", workers=2))
    assert contents(tmp_path / "run")["oof.csv"] == contents(undisturbed)["oof.csv"]
    train(quick(small, tmp_path / "pieces", max_rows=100))
    pieces, whole = metrics(tmp_path / "pieces"), metrics(undisturbed)
    assert pieces["gated_abmil"]["weighted_log_loss"]["value"] == pytest.approx(
        whole["gated_abmil"]["weighted_log_loss"]["value"], abs=1e-3
    )


def test_a_loss_that_is_not_finite_names_the_bag(small: Witness, tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"loss of bag \d{4}_\d.* is not finite .*lower --lr"):
        train(quick(small, tmp_path / "run", lr=1e30))


def test_a_damaged_bag_is_named_and_the_others_are_trained_on(small: Witness, tmp_path: Path) -> None:
    for path in small.bags.glob("*.h5"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil_one_value(tmp_path / "0001_0.h5")
    (tmp_path / "0002_0.h5").write_bytes(b"not an HDF5 file")
    witness = Witness(tmp_path, small.manifest)
    summary = train(quick(witness, tmp_path / "run", epochs=1, baselines=()))
    failed = {outcome.item_id: outcome.reason for outcome in summary.ended(Status.FAILED)}
    assert set(failed) == {"0001_0", "0002_0"}
    assert "NaN" in failed["0001_0"]
    again = train(quick(witness, tmp_path / "run", epochs=1, baselines=()))
    assert {outcome.item_id for outcome in again.ended(Status.FAILED)} == set(failed)
    assert len(again.ended(Status.SKIPPED)) == 2


def spoil_one_value(path: Path) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        file["features"][3, 1] = np.nan


def test_slides_without_label_or_bag_are_left_out_with_a_note(small: Witness, tmp_path: Path) -> None:
    manifest = tmp_path / "train.csv"
    manifest.write_text(small.manifest.read_text() + "7777_0,7777,CE,1\n8888_0,8888,,1\n")
    run = tmp_path / "run"
    summary = train(replace(quick(small, run, epochs=1, baselines=()), manifest=manifest))
    warnings = " ".join(json.loads((run / "metrics.json").read_text())["warnings"])
    assert summary.exit_code == 0
    assert "7777_0" in warnings
    assert "1 slide without a label" in warnings


def test_bags_of_two_recipes_are_refused_by_field(small: Witness, tmp_path: Path) -> None:
    for path in small.bags.glob("*.h5"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "0003_0.h5"
    write_bag(path, [read_features(path)], read_coords(path), facts("0003_0", recipe="two"))
    with pytest.raises(RequestError, match=r'0003_0.*settings: found "two", wanted "one"'):
        train(quick(Witness(tmp_path, small.manifest), tmp_path / "run"))


def test_the_facts_of_single_slides_do_not_make_bags_differ() -> None:
    from mil.data.cohort import shared_recipe

    one, other = ({"encoder": 1, "tiling": {"slide": slide, "tile_px": 256}} for slide in ("a", "b"))
    assert shared_recipe(one) == shared_recipe(other) == {"encoder": 1, "tiling": {"tile_px": 256}}
    assert shared_recipe({}) == {}


def test_slides_with_regions_of_their_own_are_one_cohort_and_one_without_is_another() -> None:
    from mil.data.cohort import shared_recipe

    one, other, whole = ({"tiling": {"tile_px": 256, "roi": roi}} for roi in ("sha of one", "sha of another", None))
    assert shared_recipe(one) == shared_recipe(other) != shared_recipe(whole)
    assert shared_recipe(shared_recipe(one)) == shared_recipe(one)


def test_given_splits_are_used_again(small: Witness, undisturbed: Path, tmp_path: Path) -> None:
    lines = (undisturbed / "splits.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    flipped = [lines[0]] + [",".join([*row[:4], str(1 - int(row[4])), *row[5:]]) for row in rows]
    given = tmp_path / "given.csv"
    given.write_text("\n".join(flipped) + "\n")
    train(quick(small, tmp_path / "run", epochs=1, baselines=(), splits=given))
    assert (tmp_path / "run" / "splits.csv").read_text() == given.read_text()


def test_splits_of_other_patients_are_refused(small: Witness, undisturbed: Path, tmp_path: Path) -> None:
    """A table that calls every slide a patient would test a patient by models that trained on the same patient."""
    header, *lines = (undisturbed / "splits.csv").read_text().splitlines()
    fields = [line.split(",") for line in lines]
    given = tmp_path / "given.csv"
    own = [
        ",".join([image, image, label, center, str(n % 2), ""])
        for n, (image, _, label, center, *_) in enumerate(fields)
    ]
    given.write_text("\n".join([header, *own]) + "\n")
    with pytest.raises(RequestError, match=r"given\.csv: 22 slides are of another patient .*expected patient 0000"):
        train(quick(small, tmp_path / "run", splits=given))
    given.write_text("\n".join([header, *lines, lines[0]]) + "\n")
    with pytest.raises(RequestError, match="slide 0000_0 stands there twice"):
        train(quick(small, tmp_path / "run", splits=given))
    assert not (tmp_path / "run").exists()


def test_two_runs_on_one_folder_do_not_meet(small: Witness, tmp_path: Path) -> None:
    from wsi.files.claim import claim

    with claim(tmp_path / "run"), pytest.raises(ClaimedError):
        train(quick(small, tmp_path / "run"))


def test_sub_bags_are_drawn_anew_every_epoch_and_stay_reproducible(small: Witness, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(quick(small, tmp_path / name, epochs=2, baselines=(), max_tiles=10))
    assert contents(tmp_path / "a")["oof.csv"] == contents(tmp_path / "b")["oof.csv"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("folds", 1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("dropout", 1.0),
        ("head", "no"),
        ("precision", "fp8"),
        ("workers", 0),
    ],
)
def test_a_wrong_option_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RequestError, match=field):
        TrainOptions(bags=(Path("b"),), manifest=Path("m"), out=Path("o"), **{field: value})  # type: ignore[arg-type]


def test_places_and_processes_are_not_in_the_recipe() -> None:
    one = TrainOptions(bags=(Path("a"),), manifest=Path("m"), out=Path("o"), workers=2, device="cuda", max_rows=7)
    other = TrainOptions(bags=(Path("b"),), manifest=Path("n"), out=Path("p"))
    assert one.recipe() == other.recipe()
    assert one.recipe() != replace(one, lr=0.1).recipe()


def test_weights_make_classes_and_patients_count_alike() -> None:
    labels = np.array([0, 0, 0, 0, 1])
    weights = slide_weights(labels, ["a", "a", "a", "b", "c"], 2)
    assert weights.mean() == pytest.approx(1)
    assert weights[:3].sum() == pytest.approx(weights[3])
    assert weights[:4].sum() == pytest.approx(weights[4])


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    options = TrainOptions(bags=(Path("a"),), manifest=Path("m"), out=Path("o"), epochs=20, warmup_epochs=4)
    rates = [learning_rate(options, epoch) for epoch in np.arange(0, 20, 0.25)]
    assert np.argmax(rates) == 16
    assert max(rates) == pytest.approx(options.lr)
    assert rates[-1] < options.lr / 100


@pytest.mark.gpu
def test_on_a_gpu_the_witnesses_are_found_too(
    tmp_path: Path, write_cohort: Callable[..., Witness]
) -> None:  # pragma: no cover
    assert torch.cuda.is_available()
    witness = write_cohort(tmp_path / "bags")
    train(witness.options(tmp_path / "run", device="cuda"))
    assert metrics(tmp_path / "run")["gated_abmil"]["auc"]["value"] > 0.9


def test_the_made_cohort_is_what_it_claims(small: Witness) -> None:
    rows = read_features(small.bags / "0000_0.h5")
    assert rows.shape[1] == DIM
    assert 0 < (np.abs(rows[:, 0]) > 5).mean() < 0.12
    assert len(grid(5)) == 5
