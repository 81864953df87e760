"""`gigamil run`: all stages of one file, resumed, explained; what fails is named and the others go on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from making_cohort import AFTER, NAMES, content, write_cohort

from cli.app import run as command
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.pipeline.cohort.cohort_file import read_cohort_file
from mil.pipeline.experiments import DONE, FAILED, RUNNING, WAITING, Experiments, lock_of
from mil.pipeline.options import RunOptions
from mil.pipeline.run import run
from mil.pipeline.stages import states
from mil.train import train
from mil.training.options import TrainOptions
from wsi.errors import ItemError, RequestError
from wsi.files.claim import claim
from wsi.progress.events import read_events
from wsi.progress.outcome import Progress, Summary
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile


def counts(path: Path, **options: Any) -> dict[str, dict[str, int]]:
    """Run a file; return how many items of each stage ended in which way."""
    found: dict[str, dict[str, int]] = {}
    for own in run(RunOptions(cohort=path, **options)).outcomes:
        stage = found.setdefault(own.facts["stage"], {})
        stage[own.status.value] = stage.get(own.status.value, 0) + 1
    return found


def waiting(path: Path) -> dict[str, dict[str, str]]:
    return {own.stage: dict(own.waiting) for own in states(read_cohort_file(path), thorough=True) if own.waiting}


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(finished.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / finished.name


def test_to_explain_is_to_do_nothing(slides: Path, tmp_path: Path) -> None:
    path = write_cohort(slides, tmp_path, AFTER)
    found = waiting(path)
    assert set(found) == {"tile", "extract", "train", "predict", "heatmap", "report"}
    assert set(found["tile"].values()) == {"missing"}
    assert len(found["tile"]) == 11
    assert not (tmp_path / "work").exists()


def test_the_stages_make_what_the_verbs_make(finished: Path, tmp_path: Path) -> None:
    work, here = finished.parent / "work", finished.parent
    tiling: dict[str, Any] = {"out": tmp_path / "stores", "tile_px": 128, "workers": 0}
    tile(TileOptions(slides=(here / "slides",), manifest=here / "train.csv", **tiling))
    tile(TileOptions(slides=(here / "new",), **tiling))
    bags, runs = tmp_path / "bags" / "texture", tmp_path / "runs"
    extract(ExtractOptions(stores=(tmp_path / "stores",), out=bags))
    usual: dict[str, Any] = {"folds": 2, "epochs": 2, "baselines": (), "hidden": 16, "attention": 8}
    for head in ("gated_abmil", "mean_pool"):
        out = runs / f"texture-{head}"
        stores = (tmp_path / "stores",)
        train(TrainOptions(bags=(bags,), stores=stores, manifest=here / "train.csv", out=out, head=head, **usual))
    ours = {name: data for name, data in content(work).items() if name.startswith(("stores", "bags", "runs"))}
    theirs = content(tmp_path)
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_the_table_tells_what_the_runs_tell(finished: Path) -> None:
    file = read_cohort_file(finished)
    rows = Experiments(file.folder).rows()
    assert [(row.name, row.state, row.reason) for row in rows] == [(name, DONE, "") for name in NAMES]
    for row in rows:
        metrics = json.loads((file.run_folder(row.name) / "metrics.json").read_text())
        told = metrics["models"][row.head]["auc"]
        assert (row.metric, row.score, row.low, row.high) == ("auc", told["value"], told["low"], told["high"])
        assert row.start <= row.end
    best = max(rows, key=lambda row: row.score or 0)
    made = sorted(path.name for path in (file.folder / "predictions").iterdir())
    assert made == [f"{best.name}.csv", f"{best.name}.json"]
    assert sorted(path.name for path in (file.folder / "heatmaps").iterdir()) == [NAMES[0]]
    kinds = {(event.stage, event.kind) for event in read_events(file.folder / "events.jsonl")}
    assert {(stage, "item_ended") for stage in ("tile", "extract", "train")} <= kinds


def test_the_same_command_does_nothing_more(again: Path) -> None:
    before = content(again.parent / "work")
    found = counts(again)
    skipped = {"tile": 11, "extract": 11, "train": 2, "after": 3}
    assert found == {stage: {"skipped": count} for stage, count in skipped.items()}
    assert content(again.parent / "work") == before
    assert waiting(again) == {}


def test_new_slides_are_predicted_as_predict_does(finished: Path, tmp_path: Path) -> None:
    work = finished.parent / "work"
    (table,) = (work / "predictions").glob("*.csv")
    bag = work / "bags" / "texture" / "p10_0.h5"
    predict(PredictOptions(items=(bag,), run=(work / "runs" / table.stem,), out=tmp_path / "p.csv"))
    assert table.read_text() == (tmp_path / "p.csv").read_text()


def test_one_bad_slide_is_named_and_the_others_go_on(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_cohort(slides, tmp_path, "[report]\n")
    bad = tmp_path / "slides" / "p3_0.tif"
    good = bad.read_bytes()
    bad.write_bytes(good[:2000])
    assert command(["run", str(path)]) == 1
    told = capsys.readouterr().err
    assert "tile, left out: p3_0: " in told
    assert "best of 2: " in told
    assert "without 1 slide that has no bag: p3_0" in told
    rows = Experiments(tmp_path / "work").rows()
    assert [row.state for row in rows] == [DONE, DONE]
    assert all(row.reason == "without 1 slide that has no bag: p3_0" for row in rows)
    bad.write_bytes(good)
    assert command(["run", str(path)]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "was trained without slides whose bags are there now: p3_0: --overwrite trains it anew" in told


def test_other_settings_are_refused_by_name(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = again.read_text()
    again.write_text(text.replace("epochs = 2", "epochs = 3"))
    found = waiting(again)
    assert "train.epochs: found 2, wanted 3" in found["train"][NAMES[0]]
    before = content(again.parent / "work")
    assert command(["run", str(again)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"gigamil run: train: {NAMES[0]}: it was begun with other settings (train.epochs: found 2")
    assert "give it another name, or --overwrite" in line
    assert content(again.parent / "work") == before
    assert command(["run", str(again), "--stage", "train", "--overwrite"]) == 0
    assert all(
        row.settings.endswith("epochs=3") or "epochs=3" in row.settings
        for row in Experiments(again.parent / "work").rows()
    )
    again.write_text(text.replace("tile_px = 128", "tile_px = 256"))
    capsys.readouterr()
    assert command(["run", str(again)]) == 2
    assert "gigamil run: tile: " in capsys.readouterr().err


def test_a_failed_experiment_is_a_row_and_is_tried_again(again: Path) -> None:
    here, work = again.parent, again.parent / "work"
    again.write_text(again.read_text() + '[[experiments]]\nname = "bad"\npriority = 9\nsplits = "splits.csv"\n')
    (here / "splits.csv").write_text("image_id,patient_id,fold\np0_0,p0,0\n")
    assert counts(again, stage="train")["train"] == {"failed": 1, "skipped": 2}
    *good, bad = Experiments(work).rows()
    assert (bad.name, bad.state, bad.score) == ("bad", FAILED, None)
    assert "splits.csv" in bad.reason
    assert [row.state for row in good] == [DONE, DONE]
    (work / "runs" / "bad").mkdir()  # as one that is refused later leaves it: nothing is trained
    (work / "runs" / "bad" / "config.toml").write_bytes((work / "runs" / NAMES[0] / "config.toml").read_bytes())
    shutil.copy(work / "runs" / NAMES[0] / "splits.csv", here / "splits.csv")
    assert waiting(again)["train"] == {"bad": "not begun"}
    assert counts(again, stage="train")["train"] == {"done": 1, "skipped": 2}
    *good, mended = Experiments(work).rows()
    assert mended.state == DONE
    assert mended.recipe_hash != bad.recipe_hash
    assert (mended.score, mended.metric) == (good[0].score, "auc")  # the same folds and head


def test_rows_can_be_few_and_the_best_waits_for_all(again: Path) -> None:
    shutil.rmtree(again.parent / "work" / "runs")
    shutil.rmtree(again.parent / "work" / "predictions")
    assert "after" not in counts(again, rows=1)
    assert [row.state for row in Experiments(again.parent / "work").rows()] == [DONE, WAITING]
    assert not (again.parent / "work" / "predictions").exists()
    assert counts(again)["train"] == {"done": 1, "skipped": 1}


def test_a_stage_alone_leaves_to_others_what_they_hold(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = again.parent / "work"
    shutil.rmtree(work / "stores" / "p1_0.zarr")
    with claim(work / "stores" / "p1_0.zarr"):
        assert command(["run", str(again), "--stage", "tile"]) == 75
        assert command(["run", str(again), "--stage", "extract"]) == 75
    told = capsys.readouterr().err
    assert "tile, left out: p1_0: " in told
    assert "is being written by process" in told
    bag = work / "bags" / "texture" / "p1_0.h5"
    bag.unlink()
    before = (work / "experiments.csv").read_bytes()
    (work / "runs" / NAMES[0] / "metrics.json").unlink()
    with claim(bag):
        assert command(["run", str(again), "--stage", "train"]) == 75
    assert "train, left out: p1_0: its bag is being made by process" in capsys.readouterr().err
    with claim(lock_of(work, NAMES[0])):
        Experiments(work).update(NAMES[0], state=RUNNING)
        assert command(["run", str(again), "--stage", "after"]) == 75
    assert f"after, left out: {NAMES[0]}: is being trained by process" in capsys.readouterr().err
    (work / "experiments.csv").write_bytes(before)
    assert command(["run", str(again), "--stage", "extract"]) == 1
    assert "extract, left out: p1_0: left out: it has no tile store" in capsys.readouterr().err
    assert command(["run", str(again), "--stage", "tile"]) == 0


def test_damage_is_explained_and_mended(again: Path) -> None:
    work = again.parent / "work"
    before = content(work, alone=False)
    shard = next(path for path in (work / "stores" / "p2_0.zarr" / "0").rglob("c/*/*/*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-1])
    bag = work / "bags" / "texture" / "p5_0.h5"
    bag.write_bytes(bag.read_bytes()[:-64])
    shutil.rmtree(work / "stores" / "p6_0.zarr")
    (work / "runs" / NAMES[0] / "metrics.json").unlink()
    found = waiting(again)
    assert found["tile"]["p2_0"].startswith("damaged: ")
    assert found["tile"]["p6_0"] == "missing"
    assert found["extract"]["p5_0"].startswith("damaged: ")
    assert set(found["tile"]) == {"p2_0", "p6_0"}
    assert set(found["extract"]) == {"p5_0"}
    assert found["train"] == {NAMES[0]: "its run folder is gone"}
    done = counts(again)
    assert done["tile"] == {"done": 2, "skipped": 9}
    assert done["extract"] == {"done": 1, "skipped": 10}
    assert done["train"] == {"done": 1, "skipped": 1}
    assert content(work, alone=False) == before


def test_list_and_explain_are_read_by_people_and_machines(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again.write_text(again.read_text().replace('"mean_pool"]', '"mean_pool", "max_pool"]'))
    table = again.parent / "work" / "experiments.csv"
    before = table.read_bytes()
    assert command(["run", str(again), "--list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["name", "encoder", "head", "settings", "priority"]
    assert [line.split()[0] for line in lines] == [*NAMES, "texture-max_pool"]
    assert "waiting" in lines[2]
    assert command(["run", str(again), "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == [DONE, DONE, WAITING]
    assert command(["run", str(again), "--explain"]) == 0
    told = capsys.readouterr().out
    assert "train: 2 done, 1 to do\n  texture-max_pool: not begun\n" in told
    assert command(["run", str(again), "--explain", "--json"]) == 0
    assert [own["stage"] for own in json.loads(capsys.readouterr().out)][:3] == ["tile", "extract", "train"]
    assert table.read_bytes() == before


def test_a_rehearsal_is_wanted_where_it_is_required(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line() -> str:
        assert command(["run", str(again), "--require-rehearsal", "--stage", "train"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "not rehearsed: `gigamil rehearse" in line()
    note = again.parent / "work" / "rehearsal.json"
    file = read_cohort_file(again)
    note.write_text(json.dumps({"content_hash": file.content_hash, "passed": False, "why": "bags differ"}))
    assert "its rehearsal was not passed (bags differ)" in line()
    note.write_text(json.dumps({"content_hash": "0", "passed": True}))
    assert "rehearsed with other settings" in line()
    note.write_text("{")
    assert "the rehearsal cannot be read" in line()
    note.write_text(json.dumps({"content_hash": file.content_hash, "passed": True}))
    assert command(["run", str(again), "--require-rehearsal", "--stage", "train"]) == 0


@pytest.mark.parametrize(
    ("spoil", "code", "expected"),
    [
        (lambda at: shutil.rmtree(at / "slides"), 2, "tile: {at}/slides does not exist"),
        (lambda at: [own.unlink() for own in (at / "slides").iterdir()], 2, "tile: {at}/slides holds no slide"),
        (lambda at: (at / "train.csv").write_text("image_id,patient_id,label\nx,x,CE\n"), 2, "not one of its 1 slides"),
        (lambda at: [own.write_bytes(b"no slide") for own in (at / "slides").iterdir()], 1, "tile: not one slide"),
        (lambda at: (at / "work").write_text(""), 2, "folder {at}/work: cannot be made: "),
    ],
)
def test_what_stops_it_is_one_line_that_says_which_stage(
    slides: Path, tmp_path: Path, spoil: Any, code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_cohort(slides, tmp_path)
    spoil(tmp_path)
    assert command(["run", str(path)]) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("gigamil run: ")
    assert expected.format(at=tmp_path) in line


def test_slides_that_are_gone_do_not_stop_later_stages(again: Path) -> None:
    shutil.rmtree(again.parent / "slides")
    shutil.rmtree(again.parent / "work" / "bags")
    again.write_text(again.read_text().partition("[predict]")[0])
    assert counts(again, stage="extract")["extract"] == {"done": 10}
    assert counts(again, stage="train")["train"] == {"skipped": 2}


def test_torchrun_is_for_extraction(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    assert command(["run", str(again)]) == 2


def test_a_scheduler_file_that_is_none_is_refused(again: Path, tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"id": 1}'):
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(RequestError, match=r"--scheduler .*s\.json: expected tcp://"):
            run(RunOptions(cohort=again, stage="tile", scheduler=str(tmp_path / "s.json")))
    shutil.rmtree(again.parent / "work" / "stores")
    with pytest.raises(ItemError, match="no tile store of the cohort"):
        run(RunOptions(cohort=again, stage="extract"))


def test_extraction_takes_a_few_slides_at_a_time_and_leaves_what_others_are_at(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bags = sorted((again.parent / "work" / "bags").rglob("*.h5"))
    before = content(again.parent / "work" / "bags")
    for bag in bags[1:]:
        bag.unlink()
    turns = list[int]()

    def counted(options: ExtractOptions, progress: Progress) -> Summary:
        turns.append(len(options.stores))
        return extract(options, progress)

    monkeypatch.setattr("features.extraction.extract.extract", counted)
    with claim(bags[2]):
        assert counts(again, stage="extract", take=4)["extract"] == {"done": len(bags) - 2, "skipped": 1, "failed": 1}
    assert sum(turns) == len(bags)
    assert max(turns) == 4
    assert counts(again, stage="extract", take=4)["extract"] == {"done": 1, "skipped": len(bags) - 1}
    assert content(again.parent / "work" / "bags") == before


def test_what_leads_the_stages_is_light(tmp_path: Path) -> None:
    """A pipeline, its plan and its queue begin without torch: whoever only tiles need not wait for it or hold it."""
    program = (
        "import sys, mil.pipeline.run, mil.planning.plan, mil.slurm.submit, mil.watching.command; "
        "sys.exit(', '.join({'torch', 'sklearn', 'pandas', 'distributed', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
