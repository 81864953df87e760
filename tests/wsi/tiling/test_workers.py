"""This process as the only worker: for one small slide, with the same store as worker processes make."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Never

import cv2
import pytest

import wsi.tiling.cluster
import wsi.tiling.tiler
from wsi.progress.outcome import Status
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
from wsi.tiling.workers import this_process

COMMAND = """
import sys
from pathlib import Path
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
summary = tile(TileOptions(slides=(Path(sys.argv[1]),), out=Path(sys.argv[2]), assume_mpp=0.5))
assert summary.exit_code == 0, summary
assert not {"distributed", "dask", "zarr", "openslide", "pydicom"} & set(sys.modules), sorted(sys.modules)
"""


class ProcessesStart(Exception):
    """Worker processes would start."""


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> Never:
        raise ProcessesStart

    monkeypatch.setattr(wsi.tiling.cluster, "dask_client", start)


def files_of(store: Path) -> dict[str, bytes]:
    """Return every file of a store but the root's metadata, which tell of the run's time."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path != store / "zarr.json"
    }


def test_one_small_slide_is_made_without_dask_as_it_is_with(deflate_slide: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMMAND, str(deflate_slide), str(tmp_path / "here")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert tile(TileOptions(slides=(deflate_slide,), out=tmp_path / "there", assume_mpp=0.5, workers=1)).exit_code == 0
    here, there = (files_of(tmp_path / name / "049194_0.zarr") for name in ("here", "there"))
    assert len(here) > 20
    assert here == there


@pytest.mark.usefixtures("no_processes")
def test_who_asks_for_processes_or_has_more_to_do_gets_them(
    deflate_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = TileOptions(slides=(deflate_slide,), out=tmp_path / "a", assume_mpp=0.5, workers=1)
    with pytest.raises(ProcessesStart):
        tile(asked)
    (tmp_path / "other.tif").write_bytes(deflate_slide.read_bytes())
    two = TileOptions(slides=(deflate_slide, tmp_path / "other.tif"), out=tmp_path / "b", assume_mpp=0.5)
    with pytest.raises(ProcessesStart):
        tile(two)
    monkeypatch.setattr(wsi.tiling.tiler, "_SMALL_BYTES", deflate_slide.stat().st_size - 1)
    large = TileOptions(slides=(deflate_slide,), out=tmp_path / "c", assume_mpp=0.5)
    with pytest.raises(ProcessesStart):
        tile(large)


@pytest.mark.usefixtures("no_processes")
def test_what_is_there_already_is_looked_at_without_processes(
    deflate_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = [tmp_path / f"{name}.tif" for name in "ab"]
    for copy in slides:
        copy.write_bytes(deflate_slide.read_bytes())
    options = TileOptions(slides=tuple(slides), out=tmp_path / "out", assume_mpp=0.5)
    assert tile(replace(options, slides=(slides[0],))).exit_code == 0
    for expected in (Status.DONE, Status.SKIPPED):
        assert [outcome.status for outcome in tile(options).outcomes] == [Status.SKIPPED, expected]
    with pytest.raises(ProcessesStart):
        tile(replace(options, overwrite=True))
    monkeypatch.setattr(wsi.tiling.tiler, "_FEW_STORES", 1)
    with pytest.raises(ProcessesStart):
        tile(options)


def test_tasks_come_back_to_who_sent_them_with_what_they_raised() -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    with this_process() as workers:
        mine, others = workers.arrivals(), workers.arrivals()
        assert mine.next(0.0) is None
        sent = [workers.submit(str(number), pow, number, 2) for number in range(5)]
        other = workers.submit("other", fail)
        for each in sent:
            mine.add(each)
        others.add(other)
        back = [mine.next(30) for _ in sent]
        assert [each and (each.key, each.status, each.result()) for each in back] == [
            (str(number), "finished", number**2) for number in range(5)
        ]
        failed = others.next(30)
        assert failed is not None
        assert failed.status == "error"
        with pytest.raises(ValueError, match="on purpose"):
            failed.result()
        assert mine.next(0.0) is None


@contextmanager
def blocked() -> Iterator[tuple[threading.Event, threading.Event]]:
    begun, go_on = threading.Event(), threading.Event()
    yield begun, go_on
    go_on.set()


def test_who_is_interrupted_waits_for_no_task_and_begins_none() -> None:
    ran: list[str] = []
    with blocked() as (begun, go_on):

        def long() -> None:
            begun.set()
            go_on.wait(60)

        def interrupted() -> None:
            with this_process() as workers:
                workers.submit("long", long)
                workers.submit("next", ran.append, "next")
                assert begun.wait(30)
                raise KeyboardInterrupt

        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert time.monotonic() - started < 30
    for thread in threading.enumerate():
        if thread.name == "gigamil-tasks":
            thread.join(30)
    assert ran == []


def test_an_error_waits_for_the_task_under_way() -> None:
    ended: list[str] = []
    begun = threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.2)
        ended.append("work")

    def failing() -> None:
        with this_process() as workers:
            workers.submit("work", work)
            assert begun.wait(30)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert ended == ["work"]


def test_opencv_gets_its_threads_back() -> None:
    before = cv2.getNumThreads()
    with this_process() as workers:
        arrivals = workers.arrivals()
        arrivals.add(workers.submit("one", cv2.setNumThreads, 1))
        assert arrivals.next(30)
    assert cv2.getNumThreads() == before
