"""The event log: whole lines from everybody at once, damaged ones told, and work that goes on without it."""

import fcntl
import json
import logging
import multiprocessing as mp
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from wsi.progress.events import EVENTS, emit, read_events, within


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS, str(path))
    return path


def test_an_event_is_one_line_of_json(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "88")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    before = time.time()
    emit("epoch", id="a\nb", loss=float("nan"), pid=-1, nested={"x": [1.5, float("inf")]})
    (line,) = log.read_text().splitlines()
    told = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["pid"] == os.getpid()
    assert (told["job"], told["host"], told["id"]) == ("88_3", os.uname().nodename, "a\nb")
    assert (told["loss"], told["nested"]) == (None, {"x": [1.5, None]})
    (event,) = read_events(log)
    assert before - 0.002 <= event.time <= time.time()
    assert event.facts == {"id": "a\nb", "loss": None, "nested": {"x": [1.5, None]}}


def test_nothing_is_written_where_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EVENTS, raising=False)
    monkeypatch.chdir(tmp_path)
    with within(stage="tile"):
        emit("item_started", id="a")
    assert list(tmp_path.iterdir()) == []
    assert list(read_events(tmp_path / "none.jsonl")) == []


def test_facts_of_a_block_reach_processes_started_in_it(log: Path) -> None:
    with within(experiment="e1"), within(stage="train"):
        subprocess.run(
            [sys.executable, "-c", "from wsi.progress.events import emit; emit('epoch', epoch=1)"], check=True
        )
    emit("epoch", epoch=2)
    assert [event.facts for event in read_events(log)] == [
        {"experiment": "e1", "stage": "train", "epoch": 1},
        {"epoch": 2},
    ]


def _write(writer: int) -> None:
    for number in range(200):
        emit("item_ended", id=f"{writer}/{number}", reason="x" * (37 * writer % 900))


def test_lines_of_many_processes_stay_whole(log: Path) -> None:
    processes = [mp.get_context("fork").Process(target=_write, args=(writer,)) for writer in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    events = read_events(log)
    assert Counter(event.facts["id"] for event in events) == Counter(f"{w}/{n}" for w in range(4) for n in range(200))
    assert events.damaged == 0


def test_a_torn_last_line_waits_and_damaged_ones_are_counted(log: Path) -> None:
    emit("a")
    with log.open("ab") as file:
        file.write(b'{"time": "yesterday", "kind": "b", "host": "h", "pid": 1}\n[1]\n\xff\xfe\n\n{"time":')
    events = read_events(log)
    assert [event.kind for event in events] == ["a"]
    assert events.damaged == 3
    emit("c")  # closes the torn line first
    assert [event.kind for event in events] == ["c"]
    assert events.damaged == 4


def test_reading_goes_on_where_it_ended(log: Path) -> None:
    events = read_events(log)
    assert list(events) == []
    emit("a")
    assert [event.kind for event in events] == ["a"]
    emit("b")
    assert [event.kind for event in events] == ["b"]
    log.unlink()
    emit("c")
    assert [event.kind for event in events] == ["c"]


@pytest.mark.parametrize("where", ["/dev/full", "folder", "absent/events.jsonl", "pipe"])
def test_what_cannot_be_written_is_told_once(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / where
    monkeypatch.setenv(EVENTS, str(path))
    with caplog.at_level(logging.WARNING):
        emit("a")
        emit("b")
    (record,) = caplog.records
    assert str(path) in record.message
    assert "the work goes on" in record.message


def test_a_line_without_room_is_closed_by_the_next(log: Path) -> None:
    code = """if True:
        import resource, signal
        from wsi.progress.events import emit
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        emit("a")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
        emit("b", text="x" * 200), emit("b")
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        emit("c")
        print("went on")
    """
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout == "went on\n"
    assert ended.stderr.count("events are not written") == 1
    events = read_events(log)
    assert [event.kind for event in events] == ["a", "c"]
    assert events.damaged == 1


def test_a_stopped_holder_of_the_lock_keeps_nobody_waiting(log: Path) -> None:
    emit("a")
    with log.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        for _ in range(20):
            emit("b")
        assert time.monotonic() - began < 10  # waited once, not twenty times
    emit("c")
    assert [event.kind for event in read_events(log)] == ["a", *20 * "b", "c"]


def test_credentials_are_starred_and_texts_cut(log: Path) -> None:
    emit("item_ended", reason="https://anna:geheim@host/x cannot be read", long="y" * 5000)
    text = log.read_text()
    assert "geheim" not in text
    assert len(text) < 1500
