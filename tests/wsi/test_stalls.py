"""What lives and moves no more is given up; what is slow and moves is not."""

import threading
import time

import pytest

from wsi.errors import StalledError
from wsi.progress.stalls import Left, Patience, moved, watched


def test_slow_work_that_moves_is_no_stall() -> None:
    def slow() -> str:
        for _ in range(12):
            time.sleep(0.1)
            moved()
        return "done"

    assert watched("slow", 0.6, slow) == "done"


def test_work_that_stands_still_is_left_behind_and_ends_when_it_moves(capfd: pytest.CaptureFixture[str]) -> None:
    gate, ended = threading.Event(), threading.Event()

    def blocked_in_a_read() -> None:
        try:
            moved()
            gate.wait()
            moved()
        except Left:
            ended.set()
            raise

    with pytest.raises(StalledError, match=r"dead\.tif: nothing moved for 0\.3 s"):
        watched("dead.tif", 0.3, blocked_in_a_read)
    told = capfd.readouterr().err
    assert "dead.tif: nothing moved for 0.3 s" in told
    assert "blocked_in_a_read" in told  # its stack
    assert not ended.is_set()
    gate.set()
    assert ended.wait(10)


def test_errors_and_unwatched_work_pass() -> None:
    def fails() -> None:
        raise KeyError("as it is")

    for seconds in (0.0, 5.0):
        with pytest.raises(KeyError, match="as it is"):
            watched("x", seconds, fails)
    assert watched("x", 0.0, threading.get_ident) == threading.get_ident()
    assert watched("x", 5.0, threading.get_ident) != threading.get_ident()


def test_a_pause_of_this_process_is_no_stall_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    patience = Patience(8.0)
    assert patience.tick == 1.0
    assert not patience.ends(1)
    now[0] += 3600.0  # the laptop slept
    assert not patience.ends(1)
    looks = 0
    while not patience.ends(1):
        now[0] += 1.0
        looks += 1
        assert looks < 20
    assert looks in (7, 8)
    assert not patience.ends(2)
