"""What `train` and `predict` make of the bags that they are given: other content, other scales, twins, faults."""

import csv
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from witness import DIM, Witness, facts, grid

from features.bags import hdf5
from features.bags.bag import write_bag
from mil.heads import HeadSpec
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.models.ensemble import load_ensemble
from mil.models.model import BagModel
from mil.run.folder import RunFolder
from mil.train import train
from mil.training.options import TrainOptions
from wsi.errors import RecipeMismatchError, RequestError
from wsi.progress.outcome import Status, Summary

Change = Callable[[h5py.File], None]


def bag(path: Path, seed: int, change: Change | None = None, n_tiles: int = 12) -> None:
    """Write a bag in CLAM's form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = np.random.default_rng(seed).normal(size=(n_tiles, DIM)).astype(np.float32)
        file["coords"] = grid(n_tiles)[:, ::-1]
        if change:
            change(file)


def power(value: float) -> Change:
    def change(file: h5py.File) -> None:
        file["coords"].attrs.update({"patch_size": 256, "target_magnification": value, "level0_magnification": 40})

    return change


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with bags of twelve patients of one slide each, in CLAM's form, and a run on them."""
    folder = tmp_path_factory.mktemp("made")
    lines = ["image_id,patient_id,label"]
    for number in range(12):
        bag(folder / "bags" / f"s{number}.h5", number)
        lines.append(f"s{number},p{number},{'AB'[number % 2]}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    train(options(Witness(folder / "bags", folder / "train.csv")))
    return folder


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Witness:
    """A copy of the bags, with the run beside them."""
    shutil.copytree(made, tmp_path / "all")
    return Witness(tmp_path / "all" / "bags", tmp_path / "all" / "train.csv")


@pytest.fixture
def cohort(finished: Witness) -> Witness:
    """A copy of the bags alone."""
    shutil.rmtree(finished.bags.parent / "run")
    return finished


def options(cohort: Witness, **changes: object) -> TrainOptions:
    given = {"bags": (cohort.bags,), "manifest": cohort.manifest, "out": cohort.bags.parent / "run"}
    quick = {"folds": 2, "epochs": 2, "hidden": 8, "attention": 4, "baselines": (), "device": "cpu"}
    return TrainOptions(**given | quick | changes)  # type: ignore[arg-type]


def told(cohort: Witness, *bags: Path) -> tuple[Summary, dict[str, list[str]], str]:
    """Predict; return the summary, the table, and the notes."""
    out = cohort.bags.parent / "out.csv"
    summary = predict(PredictOptions(run=(cohort.bags.parent / "run",), items=bags, out=out, device="cpu"))
    with out.open(newline="") as file:
        table = {row[0]: row[1:] for row in csv.reader(file)}
    return summary, table, " ".join(json.loads(out.with_suffix(".json").read_text())["notes"])


def failed(summary: Summary) -> set[str]:
    return {outcome.item_id for outcome in summary.ended(Status.FAILED)}


def test_bags_of_another_content_are_not_taken_for_the_old_ones(finished: Witness) -> None:
    new = finished.bags.parent / "new"
    bag(new / "x_0.h5", 100)
    told(finished, new)
    assert {o.status for o in train(options(finished)).outcomes} == {Status.SKIPPED}
    assert told(finished, new)[0].outcomes[0].status is Status.SKIPPED
    bag(new / "x_0.h5", 101)
    with pytest.raises(RecipeMismatchError, match="cohort"):
        told(finished, new)
    bag(finished.bags / "s3.h5", 102)
    with pytest.raises(RecipeMismatchError, match="cohort"):
        train(options(finished))


def test_other_um_per_px_are_refused_within_a_run_and_by_it(cohort: Witness) -> None:
    for number in range(12):
        bag(cohort.bags / f"s{number}.h5", number, power(20 if number else 10))
    with pytest.raises(RequestError, match=r"um/px: found 0.5, wanted 1\)"):
        train(options(cohort))
    bag(cohort.bags / "s0.h5", 0, power(20))
    train(options(cohort))
    new = cohort.bags.parent / "new"
    bag(new / "x_0.h5", 100, power(10))
    with pytest.raises(RequestError, match=r"not made like the bags of the run.*um/px: found 1, wanted 0.5\)"):
        told(cohort, new)
    bag(new / "x_0.h5", 100, power(20))
    assert told(cohort, new)[0].exit_code == 0


def test_a_bag_of_another_scale_than_all_others_is_named(cohort: Witness) -> None:
    def scaled(factor: float) -> Change:
        def change(file: h5py.File) -> None:
            file["features"][:] = factor * file["features"][:]

        return change

    metrics = options(cohort).out / "metrics.json"
    train(options(cohort))
    assert json.loads(metrics.read_text())["warnings"] == []
    bag(cohort.bags / "s3.h5", 3, scaled(3e5))
    bag(cohort.bags / "s4.h5", 4, scaled(0))
    train(options(cohort, overwrite=True))
    (line,) = json.loads(metrics.read_text())["warnings"]
    assert line.startswith("2 slides have features of another scale than the others (s3 "), line
    assert re.search(r"\(s3 \d\.?\de\+05 times the usual, s4 0 times the usual\)", line), line


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_scale_of_all_features_says_nothing(scale: float) -> None:
    bags = [np.random.default_rng(own).normal(0.3, [1, 1e-3, 0], (40, 3)) for own in range(5)]
    model = BagModel(HeadSpec(name="mean_pool", dim=3, n_classes=2))
    model.standardise([own * scale for own in bags])
    found = (np.concatenate(bags) * scale - model.mean_D.double().numpy()) * model.scale_D.double().numpy()
    np.testing.assert_allclose(found.std(0)[:2], 1, rtol=1e-3)
    assert abs(found[:, 2]).max() < 1e-6 * max(scale, 1), "a constant feature is no noise"


def test_equal_content_under_two_patients_is_found_and_under_one_is_told(cohort: Witness) -> None:
    shutil.copy(cohort.bags / "s0.h5", cohort.bags / "s5.h5")
    with pytest.raises(RequestError, match=r"s0 \(patient p0\) and s5 \(patient p5\) have the same features"):
        train(options(cohort))
    cohort.manifest.write_text(cohort.manifest.read_text().replace("s5,p5,B", "s5,p0,A"))
    assert train(options(cohort)).exit_code == 0
    other = cohort.bags.parent / "twin"
    shutil.copytree(cohort.bags, other)
    shutil.copy(other / "s1.h5", other / "s4.h5")
    with pytest.raises(RequestError, match=r"s1 .* and s4 .* have the same features"):
        train(options(cohort, bags=(cohort.bags, other), fusion="late", out=cohort.bags.parent / "two"))


def test_new_slides_are_known_by_content_and_by_patient(finished: Witness) -> None:
    new = finished.bags.parent / "new"
    bag(new / "p3_7.h5", 100)
    bag(new / "fresh.h5", 101)
    new.joinpath("copy.h5").write_bytes((finished.bags / "s4.h5").read_bytes())
    with h5py.File(finished.bags / "s3.h5") as file:
        rows = np.asarray(file["features"])
    with h5py.File(new / "part.h5", "w") as file:
        file["features"], file["coords"] = rows[::-2], grid(len(rows[::-2]))[:, ::-1]
    _, _, notes = told(finished, new)
    assert "2 slides were in the run's training under other names: copy = s4, part = s3" in notes
    assert "1 slide is new, but their patients were in the run's training" in notes
    assert "p3_7 of p3" in notes
    assert "fresh" not in notes


@pytest.mark.parametrize("kind", ["<f8", ">f4"])
def test_any_float_type_trains_as_float32_does(finished: Witness, kind: str) -> None:
    other = finished.bags.parent / "other"
    for number in range(12):

        def cast(file: h5py.File) -> None:
            values = file["features"][()]
            del file["features"]
            file["features"] = values.astype(kind)

        bag(other / f"s{number}.h5", number, cast)
    train(options(finished, bags=(other,), out=finished.bags.parent / "cast"))
    one, same = (finished.bags.parent / name / "oof.csv" for name in ("run", "cast"))
    assert one.read_bytes() == same.read_bytes()


def _others(cohort: Witness) -> dict[str, object]:
    table = cohort.bags.parent / "other.csv"
    table.write_text("image_id,patient_id\n" + "".join(f"o{n},q{n}\n" for n in range(4)))
    for number in range(3):
        bag(cohort.bags / f"o{number}.h5", 200 + number)
    cohort.bags.joinpath("o1.h5").write_bytes(b"no bag")
    return {"other": table, "other_label": "A"}


def test_what_is_wrong_with_slides_that_are_only_trained_on_is_named_each_time(cohort: Witness) -> None:
    asked = options(cohort, **_others(cohort))
    assert failed(train(asked)) == {"o1", "o3"}
    assert failed(train(asked)) == {"o1", "o3"}
    assert "o1" in (asked.out / "report.html").read_text()
    _, _, notes = told(cohort, cohort.bags / "o0.h5")
    assert "1 slide was in the run's training" in notes
    assert "o0" in notes
    for path in cohort.bags.glob("o*.h5"):
        path.unlink()
    with pytest.raises(RequestError, match=r"other\.csv: expected bags of its slides"):
        train(asked)


def test_a_damaged_bag_of_a_patient_whose_slides_are_one_bag_is_named_each_time(cohort: Witness) -> None:
    with cohort.manifest.open("a") as file:
        file.write("d1,p1,B\n")

    def spoil(file: h5py.File) -> None:
        file["features"][0, 0] = np.nan

    bag(cohort.bags / "d1.h5", 300, spoil)
    asked = options(cohort, aggregate="bag")
    assert failed(train(asked)) == {"d1"}
    assert failed(train(asked)) == {"d1"}


def test_a_storage_fault_leaves_nothing_that_a_healthy_run_must_overwrite(
    cohort: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = cohort.bags.parent / "new"
    bag(new / "x_0.h5", 100)
    opened, broken = h5py.File, {"name": ""}

    def failing(path: object, *args: object, **kwargs: object) -> h5py.File:
        if Path(str(path)).name == broken["name"]:
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(hdf5, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(h5py, "File", failing)
    broken["name"] = "s2.h5"
    with pytest.raises(OSError, match="Input/output error"):
        train(options(cohort))
    broken["name"] = ""
    assert train(options(cohort)).exit_code == 0
    broken["name"] = "x_0.h5"
    with pytest.raises(OSError, match="Input/output error"):
        told(cohort, new)
    broken["name"] = ""
    assert told(cohort, new)[0].exit_code == 0


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_a_table_or_sidecar_that_could_not_be_renamed_is_made_again(
    finished: Witness, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    new = finished.bags.parent / "new"
    bag(new / "x_0.h5", 100)
    rename, broken = os.replace, [True]

    def failing(source: object, target: object) -> None:
        if broken[0] and str(target).endswith(f"out{ending}"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error"):
        told(finished, new)
    broken[0] = False
    assert told(finished, new)[0].exit_code == 0
    assert told(finished, new)[0].outcomes[0].status is Status.SKIPPED
    finished.bags.parent.joinpath("out.csv").write_text("patient_id,A,B\nx,1.0,0.0\n")
    with pytest.raises(RequestError, match="was changed since it was written"):
        told(finished, new)


def _nan(run: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = run / "fold0" / "seed0" / "weights.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, path)
    facts_path = path.with_name("model.json")
    known = json.loads(facts_path.read_text())
    facts_path.write_text(json.dumps({key: value for key, value in known.items() if key != "weights_sha256"}))


def _flip(run: Path) -> None:
    path = run / "fold1" / "seed0" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def _calibration(run: Path) -> None:
    path = run / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": float("nan")}))


def _folds(run: Path) -> None:
    path = run / "config.toml"
    path.write_text(path.read_text().replace("folds = 2", "folds = 0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [(_nan, "NaN"), (_flip, "sha256"), (_calibration, "is no number"), (_folds, "number of 2 or more")],
)
def test_a_run_with_numbers_that_cannot_be_is_refused(
    finished: Witness, change: Callable[[Path], None], message: str
) -> None:
    change(finished.bags.parent / "run")
    with pytest.raises(RequestError, match=message):
        load_ensemble(RunFolder(finished.bags.parent / "run"), "cpu")


def test_features_far_from_all_others_are_limited_and_answered(finished: Witness) -> None:
    new = finished.bags.parent / "new"
    bag(new / "x_0.h5", 100)

    def huge(file: h5py.File) -> None:
        file["features"][...] = 3e38

    bag(new / "y_0.h5", 101, huge)
    summary, table, _ = told(finished, new)
    assert failed(summary) == set()
    for patient in ("x", "y"):
        assert sum(map(float, table[patient])) == pytest.approx(1)
        assert table[patient] != ["0.5", "0.5"]


def test_two_encoders_bags_without_a_fusion_and_in_another_order_are_told_the_way_out(cohort: Witness) -> None:
    other = cohort.bags.parent / "second"
    for number in range(12):
        write_bag(other / f"s{number}.h5", [np.full((4, 5), float(number))], grid(4), facts(f"s{number}"))
    with pytest.raises(RequestError, match="--fusion concat"):
        train(options(cohort, bags=(cohort.bags, other)))
    train(options(cohort, bags=(cohort.bags, other), fusion="late"))
    with pytest.raises(RequestError, match="order of encoders") as swapped:
        told(cohort, other, cohort.bags)
    assert len(str(swapped.value)) < 400
