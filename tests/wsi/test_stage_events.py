"""What stages tell the event log, held against what they return."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wsi.machine.gpu_use import gpu_use
from wsi.options import stage
from wsi.progress.events import EVENTS, Event, emit, read_events
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.progress.stage_events import Telling, item_ended
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS, str(path))
    return path


def _ends(events: list[Event]) -> dict[str, Event]:
    ends = [event for event in events if event.kind == "item_ended"]
    assert len({event.facts["id"] for event in ends}) == len(ends)
    return {event.facts["id"]: event for event in ends}


def test_tiling_tells_what_its_summary_says(log: Path, tmp_path: Path, deflate_slide: Path) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no slide")
    options = TileOptions(slides=(deflate_slide, bad), out=tmp_path / "stores", assume_mpp=0.5, workers=0)
    summary = tile(options)
    events = list(read_events(log))
    assert [events[0].kind, events[-1].kind] == ["stage_started", "stage_ended"]
    assert {(e.stage, e.facts["into"], e.facts["of"]) for e in events} == {
        ("tile", "stores", f"{os.uname().nodename}/{os.getpid()}")
    }
    ends = _ends(events)
    assert {own: (e.facts["status"], e.facts.get("reason", "")) for own, e in ends.items()} == {
        o.item_id: (o.status.value, o.reason) for o in summary.outcomes
    }
    (done,) = summary.ended(Status.DONE)
    told = ends[done.item_id].facts
    assert told["spent"] == done.facts["seconds"]
    assert told["bytes"] == deflate_slide.stat().st_size
    assert 0 < told["seconds"] <= summary.seconds
    assert events[-1].facts["counts"] == {"done": 1, "skipped": 0, "failed": 1}
    assert {e.facts["id"] for e in events if e.kind == "item_started"} == {done.item_id, "bad"}
    again = tile(options)
    assert [o.status for o in again.outcomes] == [Status.SKIPPED, Status.FAILED]
    assert _ends(list(read_events(log))[len(events) :])[done.item_id].facts["status"] == "skipped"


def test_a_stage_that_raises_says_why(log: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        tile(TileOptions(slides=(Path("/nowhere"),), out=log.parent / "out", workers=0))
    ended = list(read_events(log))[-1]
    assert (ended.kind, ended.facts["status"]) == ("stage_ended", "failed")
    assert "/nowhere does not exist" in ended.facts["reason"]


def test_of_stages_within_stages_each_end_is_told_once(log: Path) -> None:
    @stage
    def inner(options: object, progress: Progress | None = None) -> Summary:
        progress = progress or Silent()
        progress.begin("inner", 2, "items")
        item_ended(Outcome("a", Status.DONE), 1.0)
        return Summary("inner", [Outcome("a", Status.DONE), Outcome("b", Status.SKIPPED)], 0.0)

    @stage
    def outer(options: object, progress: Progress | None = None) -> Summary:
        found = inner(options, progress)
        return Summary("outer", [*found.outcomes, Outcome("c", Status.FAILED, "why")], 0.0)

    options = TileOptions(slides=(Path("x"),), out=Path("there/stores"))
    outer(options)
    events = list(read_events(log))
    assert {own: e.stage for own, e in _ends(events).items()} == {"a": "inner", "b": "inner", "c": "outer"}
    assert [(e.stage, e.facts["title"]) for e in events if e.kind == "progress"] == [("inner", "inner")]
    kinds = [e.kind for e in events if e.kind.startswith("stage")]
    assert kinds == ["stage_started", "stage_started", "stage_ended", "stage_ended"]
    assert "there" not in log.read_text()  # of paths, the last part alone


def test_progress_is_told_seldom_and_at_its_end(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    telling = Telling(Silent())
    telling.begin("t", 100, "tiles")
    for step in range(60):
        clock[0] = float(step)
        telling.advance(1)
    telling.grow(5)
    telling.end()
    told = [(e.facts["done"], e.facts["total"]) for e in read_events(log)]
    assert told == [(0, 100), (11, 100), (21, 100), (31, 100), (41, 100), (51, 100), (60, 105)]


def test_without_a_log_a_stage_is_called_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EVENTS, raising=False)
    seen: list[object] = []

    @stage
    def verb(options: object, progress: object = None) -> None:
        seen.append(progress)

    sink = object()
    verb(TileOptions(slides=(Path("x"),), out=Path("o")), sink)
    assert seen == [sink]


def test_gpus_are_read_from_the_drivers_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Path, write_program: Callable[[Path, str], None]
) -> None:
    write_program(tmp_path / "nvidia-smi", 'echo "$@" > ' + str(tmp_path / "asked") + "\necho '1, 93, 40000, 81559'\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_use() == [{"index": 1, "use_percent": 93, "memory_used_mib": 40000, "memory_mib": 81559}]
    assert "-i 1" in (tmp_path / "asked").read_text()
    emit("progress", gpus=gpu_use())
    assert json.loads(log.read_text())["gpus"][0]["use_percent"] == 93
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_use() == []


@pytest.fixture
def write_program() -> Callable[[Path, str], None]:
    def write(path: Path, body: str) -> None:
        path.write_text(f"#!/bin/sh\n{body}")
        path.chmod(0o755)

    return write
