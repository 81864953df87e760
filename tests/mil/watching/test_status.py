"""Status of a cohort, held against processes that really run, stop, are killed."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from mil.pipeline.cohort.cohort_file import read_cohort_file
from mil.pipeline.experiments import Experiments, lock_of, row_of
from mil.watching.command import status
from mil.watching.metrics import metrics_text, serving
from mil.watching.options import StatusOptions
from mil.watching.shown import duration, one_line, sections, status_page
from mil.watching.status import StageStatus, Status
from mil.watching.watch import Watch
from wsi.errors import RequestError
from wsi.files.claim import claim
from wsi.progress.events import EVENTS
from wsi.tiling.tiler import tile

WORKER = """
import sys, time
from pathlib import Path
from wsi.options import stage
from wsi.progress.stage_events import item_started
from wsi.tiling.options import TileOptions

@stage
def tile(options):
    item_started("good")
    print("begun", flush=True)
    time.sleep(600)

tile(TileOptions(slides=(Path("x"),), out=Path(sys.argv[1])))
"""


@pytest.fixture
def cohort(tmp_path: Path, deflate_slide: Path) -> Path:
    """A cohort of three slides, one of them none; nothing is made yet."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("good", "late"):
        (slides / f"{name}.tif").symlink_to(deflate_slide)
    (slides / "bad.tif").write_bytes(b"no slide")
    rows = [f"{name},{name},{label},1" for name, label in (("good", "CE"), ("late", "LAA"), ("bad", "CE"))]
    (tmp_path / "train.csv").write_text("\n".join(["image_id,patient_id,label,center_id", *rows]) + "\n")
    (tmp_path / "c.toml").write_text(
        'slides = ["slides"]\nmanifest = "train.csv"\nfolder = "work"\n[tile]\nassume_mpp = 0.5\nworkers = 0\n'
        '[extract]\nencoder = "texture"\n[train]\nhead = "abmil"\n'
    )
    (tmp_path / "work").mkdir()
    return tmp_path / "c.toml"


@contextmanager
def working(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that says it tiles."""
    command = [sys.executable, "-c", WORKER, str(folder / "stores")]
    environment = os.environ | {EVENTS: str(folder / "events.jsonl")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


def stage_of(found: Status, name: str) -> StageStatus:
    return next(stage for stage in found.stages if stage.stage == name)


def test_a_cohort_from_nothing_to_a_failure(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(cohort)
    before = watch.look()
    assert [(s.stage, s.done, s.waiting) for s in before.stages] == [("tile", 0, 3), ("extract", 0, 3), ("train", 0, 1)]
    assert before.exit_code == 75
    monkeypatch.setenv(EVENTS, str(cohort.parent / "work" / "events.jsonl"))
    summary = tile(read_cohort_file(cohort).tile)
    after = watch.look()
    tiling = stage_of(after, "tile")
    assert (tiling.done, tiling.waiting, len(tiling.running)) == (2, 0, 0)
    assert tiling.failed == {o.item_id: o.reason for o in summary.outcomes if o.item_id == "bad"}
    assert after.exit_code == 1
    assert dict(sections(after))["failed"] == [f"tile bad: {tiling.failed['bad']}"]
    assert one_line(after).endswith("tile 2/3 (1 failed), extract 0/3, train 0/1")


def test_who_works_is_running_until_killed(cohort: Path) -> None:
    folder = cohort.parent / "work"
    watch = Watch(cohort)
    with working(folder) as process:
        (work,) = stage_of(watch.look(), "tile").running
        assert (work.id, work.stuck) == ("good", False)
        assert f"process {process.pid}" in work.where
        assert Watch(cohort, stuck_after=0.01).look().exit_code == 75
        (stuck,) = stage_of(Watch(cohort, stuck_after=0.01).look(), "tile").running
        assert stuck.stuck
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed = stage_of(watch.look(), "tile")
    assert (killed.running, killed.waiting) == ((), 3)
    alone = Watch(folder).look()
    assert [(s.stage, s.done, s.waiting, s.running) for s in alone.stages] == [("tile stores", 0, 1, ())]


def test_a_row_runs_as_long_as_its_lock_is_held(cohort: Path) -> None:
    file = read_cohort_file(cohort)
    table = Experiments(file.folder)
    (experiment,) = file.experiments
    with table.changing():
        table.write([row_of(experiment)])
    with table.take(file.experiments) as row:
        assert row is not None
        training = stage_of(Watch(cohort).look(), "train")
        assert [(work.id, work.where) for work in training.running] == [(row.name, row.where)]
    assert stage_of(Watch(cohort).look(), "train").waiting == 1  # it says running, and nobody holds it
    table.update(experiment.name, state="failed", reason="a loss is not finite")
    failed = Watch(cohort).look()
    assert stage_of(failed, "train").failed == {experiment.name: "a loss is not finite"}
    assert failed.exit_code == 1
    table.update(experiment.name, state="done", score=0.4)
    assert stage_of(Watch(cohort).look(), "train").done == 0  # the table says so, and there is no run


def test_looking_takes_no_lock(cohort: Path) -> None:
    file = read_cohort_file(cohort)
    lock = lock_of(file.folder, "x")
    with claim(lock):
        before = sorted(path.name for path in lock.parent.iterdir())
        Watch(cohort).look()
        assert sorted(path.name for path in lock.parent.iterdir()) == before


@pytest.mark.parametrize("columns", [80, 200])
def test_the_page_fits_its_width(cohort: Path, columns: int) -> None:
    with working(cohort.parent / "work"):
        screen = Console(width=columns, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        screen.print(status_page(Watch(cohort).look()))
        screen.file.close()
    lines = screen.export_text().splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("c, ")
    tiling = next(line for line in lines if line.startswith("tile"))
    assert tiling.split() == ["tile", "0/3", "1", "2"]
    assert any("tile good: " in line for line in lines)


def test_metrics_read_by_prometheus_say_what_the_page_says(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVENTS, str(cohort.parent / "work" / "events.jsonl"))
    tile(read_cohort_file(cohort).tile)
    toml = cohort.with_name("c.toml")
    toml.write_text('name = "a \\"b\\"\\\\name"\n' + toml.read_text())
    found = Watch(cohort).look()
    families = {family.name: family for family in text_string_to_metric_families(metrics_text(found))}
    items = {(s.labels["stage"], s.labels["state"]): s.value for s in families["gigamil_items"].samples}
    assert items["tile", "done"] == 2
    assert items["tile", "failed"] == 1
    assert items["extract", "waiting"] == 3
    assert {s.labels["cohort"] for family in families.values() for s in family.samples} == {'a "b"\\name'}
    (read,) = families["gigamil_read_bytes"].samples
    assert read.value == 2 * (cohort.parent / "slides" / "good.tif").stat().st_size
    assert families["gigamil_complete"].samples[0].value == 0


def test_metrics_are_served_on_this_machine_alone(cohort: Path) -> None:
    with serving("127.0.0.1", 0, lambda: metrics_text(Watch(cohort).look())) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address) as answer:
            assert list(text_string_to_metric_families(answer.read().decode()))
        port = int(address.split(":")[2].split("/")[0])
        with pytest.raises(RequestError, match="cannot be listened on"), serving("127.0.0.1", port, str):
            pass


def test_a_file_of_metrics_replaces_no_other(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = cohort.parent / "gigamil.prom"
    for _ in range(2):
        assert status(StatusOptions(cohort=cohort, metrics_file=target), json=True) == 75
    assert list(text_string_to_metric_families(target.read_text()))
    target.write_text("mine")
    with pytest.raises(RequestError):
        status(StatusOptions(cohort=cohort, metrics_file=target), json=True)
    assert target.read_text() == "mine"
    capsys.readouterr()


@pytest.mark.parametrize("name", ["absent.toml", "absent", "slides"])
def test_what_is_no_cohort_is_said(cohort: Path, name: str) -> None:
    with pytest.raises(RequestError, match=name):
        Watch(cohort.parent / name)


@pytest.fixture
def follow(cohort: Path) -> Callable[..., "subprocess.Popen[str]"]:
    def start(*more: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "cli", "status", str(cohort), "--follow", "--every", "0.05", *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def test_following_ends_when_nobody_works_and_something_failed(
    cohort: Path, follow: Callable[..., "subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    with follow() as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        monkeypatch.setenv(EVENTS, str(cohort.parent / "work" / "events.jsonl"))
        tile(read_cohort_file(cohort).tile)
        out, err = process.communicate(timeout=60)
    assert first.endswith("tile 0/3, extract 0/3, train 0/1\n")
    assert "tile 2/3 (1 failed)" in out
    assert out.count("failed: tile bad: ") == 1
    assert (process.returncode, err) == (1, "")


def test_ctrl_c_ends_following_in_a_line(follow: Callable[..., "subprocess.Popen[str]"]) -> None:
    with follow("--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["exit_code"] == 75
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(err.splitlines()) == 1


def test_durations() -> None:
    assert [duration(s) for s in (0, 119, 120, 7200, 200000)] == ["0 s", "119 s", "2 min", "2 h", "2 d"]
