"""Where tasks run, as the engine sees it; and this process as such a place, for what is too small to start others."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import cv2

from wsi.machine.interrupt import Leaving

Call = Callable[[], Any]


class Sent(Protocol):
    """A task that is under way, or came back."""

    @property
    def key(self) -> str:
        """Its name, as it was sent."""

    @property
    def status(self) -> str:
        """``pending``, ``finished``, or anything else for one that failed."""

    def result(self) -> Any:
        """Return what it returned; raise what it raised, or `SchedulerLostError` where nobody knows of it any more."""


class Arrivals(Protocol):
    """Tasks in the order in which they come back."""

    def add(self, sent: Any) -> None:
        """Wait for this one, too."""

    def next(self, seconds: float) -> Sent | None:
        """Return the next that came back; None where none did for so long."""


class Workers(Protocol):
    """Who takes tasks; may be asked by several threads."""

    @property
    def threads(self) -> int:
        """Tasks that run side by side; those of a scheduler may be none yet."""

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> Sent:
        """Send a task."""

    def arrivals(self) -> Arrivals:
        """Return a new place for tasks to come back to."""


@dataclass(slots=True)
class _Task:
    key: str
    call: Call
    status: str = "pending"
    found: Any = None
    back: "SimpleQueue[_Task] | None" = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        try:
            found, status = self.call(), "finished"
        except BaseException as error:
            found, status = error, "error"
        with self.lock:
            self.found, self.status = found, status
            if self.back is not None:
                self.back.put(self)

    def result(self) -> Any:
        if self.status == "error":
            raise self.found
        return self.found


class _Arrivals:
    def __init__(self) -> None:
        self._back: SimpleQueue[_Task] = SimpleQueue()

    def add(self, sent: _Task) -> None:
        with sent.lock:
            sent.back = self._back
            if sent.status != "pending":
                self._back.put(sent)

    def next(self, seconds: float) -> _Task | None:
        try:
            return self._back.get(timeout=seconds)
        except Empty:
            return None


class _Here:
    """One thread of this process: the main one stays free for signals."""

    threads = 1

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="gigamil-tasks", daemon=True)
        self._thread.start()

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> _Task:
        task = _Task(key, lambda: function(*arguments))
        self._queue.put(task)
        return task

    def arrivals(self) -> _Arrivals:
        return _Arrivals()

    def end(self, *, wait: bool) -> None:
        """Take no more tasks; wait for the one that runs, or leave it behind."""
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)
        if wait:
            self._thread.join()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            task.run()


@contextmanager
def this_process() -> Iterator[Workers]:
    """Give this process as the only worker; OpenCV, which tasks keep to one thread, gets its threads back."""
    threads = cv2.getNumThreads()
    here = _Here()
    patient = True
    try:
        yield here
    except (KeyboardInterrupt, Leaving):
        patient = False  # what is half-written is taken up again
        raise
    finally:
        here.end(wait=patient)
        cv2.setNumThreads(threads)
