"""From slide files to a submission in one call: as the run's bags were made, complete, and in time."""

import csv
import json
import multiprocessing as mp
import time
from dataclasses import replace
from pathlib import Path

import pytest
from deadline_works import dying, endless, failing, short
from making import SEED, picture, write_deflate

from features.encoders.registry import build_encoder
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from mil.inference import inputs
from mil.inference.deadline import work_until
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.run.folder import RunFolder
from mil.train import train
from mil.training.options import TrainOptions
from wsi.errors import ItemError, RecipeMismatchError, RequestError
from wsi.files.replace import remove
from wsi.progress.outcome import Silent, Status
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

HERE = {"workers": 0, "device": "cpu", "assume_mpp": 0.5}


def slide(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_deflate(path, picture(700, 900, seed))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose bags were made from slides, with options that are not the defaults."""
    folder = tmp_path_factory.mktemp("cohort")
    lines = ["image_id,patient_id,label"]
    for number in range(8):
        slide(folder / "slides" / f"t{number}_0.tif", SEED + number)
        lines.append(f"t{number}_0,t{number},{'LAA' if number % 2 else 'CE'}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    tiling = TileOptions(
        slides=(folder / "slides",), out=folder / "stores", tile_px=128, min_tissue=0.3, assume_mpp=0.5, workers=0
    )
    assert tile(tiling).exit_code == 0
    bags = folder / "bags"
    assert extract(ExtractOptions(stores=(folder / "stores",), out=bags, device="cpu")).exit_code == 0
    options = TrainOptions(
        bags=(bags,), manifest=folder / "train.csv", out=folder / "run", folds=2, epochs=2, baselines=(), device="cpu"
    )
    assert train(options).exit_code == 0
    return folder / "run"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    slide(tmp_path / "slides" / "n1_0.tif", SEED + 50)
    slide(tmp_path / "slides" / "n1_1.tif", SEED + 51)
    slide(tmp_path / "slides" / "n2_0.tif", SEED + 52)
    (tmp_path / "slides" / "broken_0.tif").write_bytes(b"no slide at all")
    (tmp_path / "test.csv").write_text(
        "image_id,patient_id,mpp\nn1_0,n1,0.5\nn1_1,n1,0.5\nn2_0,n2,0.5\nbroken_0,broken,\ngone_0,gone,\n"
    )
    return tmp_path


def request(run: Path, folder: Path, **changes: object) -> PredictOptions:
    settings = {"items": (folder / "slides",), "out": folder / "submission.csv", "manifest": folder / "test.csv"} | HERE
    return PredictOptions(run=(run,), **(settings | changes))  # type: ignore[arg-type]


def table(path: Path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        return {row["patient_id"]: [float(row["CE"]), float(row["LAA"])] for row in csv.DictReader(file)}


def test_slides_become_a_complete_submission_equal_to_that_of_their_bags(run: Path, new: Path) -> None:
    options = request(run, new, work=new / "work")
    summary = predict(options)
    rows = table(options.out)
    assert list(rows) == ["broken", "gone", "n1", "n2"]
    assert all(sum(row) == pytest.approx(1, abs=1e-12) for row in rows.values())
    assert rows["broken"] == rows["gone"] == [0.5, 0.5]
    assert rows["n1"] != [0.5, 0.5]
    assert {o.item_id for o in summary.ended(Status.FAILED)} == {"broken_0", "gone_0"}
    failures = json.loads(options.out.with_suffix(".json").read_text())["failures"]
    assert failures["broken_0"].startswith("tile: ")
    bags = PredictOptions(run=(run,), items=(new / "work" / "bags",), manifest=new / "test.csv", out=new / "b.csv")
    predict(bags)
    assert table(bags.out) == rows
    assert predict(options).outcomes[0].status is Status.SKIPPED
    mended = slide(new / "slides" / "broken_0.tif", SEED + 53)
    before = (new / "work" / "bags" / "n1_0.h5").stat().st_mtime_ns
    predict(replace(options, overwrite=True))
    assert table(options.out)["broken"] != [0.5, 0.5]
    assert (new / "work" / "bags" / "n1_0.h5").stat().st_mtime_ns == before, f"made again beside {mended}"


def test_without_a_manifest_every_slide_of_the_folder_counts_and_nothing_is_left_behind(run: Path, new: Path) -> None:
    predict(request(run, new, manifest=None))
    assert list(table(new / "submission.csv")) == ["broken", "n1", "n2"]
    left = {path.name for path in new.iterdir()} - {".submission.csv.lock"}
    assert left <= {"slides", "test.csv", "submission.csv", "submission.json"} | {n for n in left if "claim" in n}


def test_what_is_not_done_in_time_is_named_and_the_table_is_complete(run: Path, new: Path) -> None:
    start = time.monotonic()
    summary = predict(request(run, new, time_budget_min=0.002))
    assert time.monotonic() - start < 20
    rows = table(new / "submission.csv")
    assert rows == {name: [0.5, 0.5] for name in ("broken", "gone", "n1", "n2")}
    late = {o.item_id for o in summary.ended(Status.FAILED) if "time budget of 0.002 min" in o.reason}
    assert late == {"broken_0", "n1_0", "n1_1", "n2_0"}


def test_a_slide_that_was_replaced_or_is_read_at_another_scale_is_not_judged_by_its_old_bag(
    run: Path, new: Path
) -> None:
    options = request(run, new, work=new / "work", items=(new / "slides" / "n1_0.tif",), manifest=None)
    predict(options)
    old = table(options.out)
    slide(new / "slides" / "n1_0.tif", SEED + 60)
    with pytest.raises(RecipeMismatchError, match="n1_0"):
        predict(replace(options, out=new / "second.csv"))
    predict(replace(options, overwrite=True))
    replaced = table(options.out)
    assert replaced != old
    with pytest.raises(RecipeMismatchError, match="n1_0"):
        predict(replace(options, out=new / "third.csv", assume_mpp=0.25))
    predict(replace(options, overwrite=True, assume_mpp=0.25))
    assert table(options.out) != replaced


@pytest.mark.slow
def test_with_time_enough_a_budget_changes_nothing(run: Path, new: Path) -> None:
    predict(request(run, new, work=new / "a"))
    predict(request(run, new, work=new / "b", out=new / "in_time.csv", time_budget_min=5.0))
    assert table(new / "in_time.csv") == table(new / "submission.csv")


def test_another_encoders_weights_are_refused_before_the_work(
    run: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mil.inference import slides

    class Stranger:
        spec = replace(build_encoder("texture").spec, weights_sha256="0" * 64)

    monkeypatch.setattr(slides, "build_encoder", lambda name, weights, crop: Stranger())
    with pytest.raises(RequestError, match=r"another texture .weights_sha256.*give the same weights"):
        predict(request(run, new, work=tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_weights_that_were_trained_here_are_asked_for_before_published_ones_are_fetched(
    run: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mil.inference import slides

    about = json.loads(RunFolder(run).config["about"]["encoder"])
    told = {**about, "lineage": {"patients_sha256": []}, "weights_sha256": "d543f248c11a" + "0" * 52}
    config = RunFolder(run).config
    changed = {**config, "about": {**config["about"], "encoder": json.dumps(told)}}
    monkeypatch.setattr(RunFolder, "config", property(lambda _: changed))
    monkeypatch.setattr(slides, "build_encoder", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(
        RequestError, match=r"trained by gigamil \(sha256 d543f248c11a...\): give their file by --weights"
    ):
        predict(request(run, new, work=tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_a_table_of_another_run_is_refused_before_the_work(run: Path, new: Path, tmp_path: Path) -> None:
    (new / "submission.csv").write_text("patient_id,CE,LAA\n")
    with pytest.raises(RecipeMismatchError, match=r"run: found null"):
        predict(request(run, new, work=tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_a_run_on_bags_of_other_programs_cannot_make_them(new: Path, tmp_path: Path, trained: object) -> None:
    with pytest.raises(RequestError, match="made by another program"):
        predict(request(trained.out, new))  # type: ignore[attr-defined]


def test_slides_and_bags_exclude_each_other(run: Path, new: Path) -> None:
    bags = new / "bags"
    bags.mkdir()
    (bags / "a.h5").touch()
    for changes in ({"items": (bags, new / "slides")}, {"items": ()}, {"items": (run,)}, {"time_budget_min": -1.0}):
        with pytest.raises(RequestError):
            predict(request(run, new, **changes))
    with pytest.raises(RequestError, match="for slides"):
        predict(request(run, new, items=(bags,), work=new))


def test_work_is_stopped_at_the_deadline_with_all_that_it_started() -> None:
    found, done = work_until(endless, time.monotonic() + 3, Silent())
    assert not done
    assert found[0] == "first"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{found[1]}").exists() and "Z" not in Path(f"/proc/{found[1]}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the process that the work had started is still there"
        time.sleep(0.05)
    assert not mp.active_children()


def test_work_tells_how_it_ended() -> None:
    later = time.monotonic() + 60
    found, done = work_until(short, later, Silent())
    assert done
    assert found[0] == [0, 1, 2]
    with pytest.raises(RequestError, match="as it was put"):
        work_until(failing, later, Silent())
    with pytest.raises(ItemError, match="ended with 3"):
        work_until(dying, later, Silent())


def test_the_hidden_folder_of_a_killed_run_is_gone_on_with_and_cleared(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide(tmp_path / "slides" / "n1_0.tif", SEED + 50)
    asked, work = request(run, tmp_path, manifest=None), tmp_path / ".submission.csv.work"
    with monkeypatch.context() as killed:
        killed.setattr(inputs, "remove", lambda _: None)
        predict(asked)
    first = table(asked.out)
    made = next(work.rglob("n1_0.h5")).stat().st_mtime_ns
    for left in tmp_path.glob("submission.*"):
        left.unlink()
    seen: list[int] = []

    def cleared(folder: Path) -> None:
        seen.append(next(folder.rglob("n1_0.h5")).stat().st_mtime_ns)
        remove(folder)

    monkeypatch.setattr(inputs, "remove", cleared)
    predict(asked)
    assert (table(asked.out), seen) == (first, [made])
    assert not work.exists()


def test_a_hidden_folder_of_another_is_left_alone(run: Path, tmp_path: Path) -> None:
    slide(tmp_path / "slides" / "n1_0.tif", SEED + 50)
    (tmp_path / ".submission.csv.work").mkdir()
    (tmp_path / ".submission.csv.work" / "mine").write_text("mine")
    with pytest.raises(RequestError, match="was not made by this command: move it away, or give --work"):
        predict(request(run, tmp_path, manifest=None))
    assert (tmp_path / ".submission.csv.work" / "mine").read_text() == "mine"
