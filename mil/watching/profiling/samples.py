"""Samples of where threads stand: taken here, or read from py-spy; added up, and written as a trace for speedscope.

A stack is a line, outermost frame first: ``main (cli/app.py:12);tile (wsi/tiling/tiler.py:40)``, py-spy's ``raw`` form;
the first entry may name the process and the thread.
"""

import json
import re
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from mil.watching.profiling.places import Frame

RATE = 100.0
"""Samples a second."""
THREAD = "thread "
WATCHER = "gigamil-sampler"
"""Name of the threads that only watch."""
_FRAME = re.compile(r"(?P<function>.+) \((?P<place>[^()]+)\)")
_ROOTS = tuple(
    sorted({sysconfig.get_path(name) + "/" for name in ("purelib", "platlib", "stdlib")}, key=len, reverse=True)
)
_OWN = str(Path(__file__).parents[3]) + "/"


class Sampler:
    """Looks at every thread of this process a hundred times a second, itself left out."""

    def __init__(self) -> None:
        self.stacks: Counter[str] = Counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name=WATCHER)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ended.set()
        self._thread.join(1.0)

    def _look(self) -> None:
        while not self._ended.wait(1 / RATE):
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for number, frame in sys._current_frames().items():
                if names.get(number) != WATCHER:
                    self.stacks[f"{THREAD}{names.get(number, number)};{_line(frame)}".replace("\n", " ")] += 1


def _line(frame: FrameType | None) -> str:
    parts = []
    while frame is not None:
        code = frame.f_code
        parts.append(f"{code.co_qualname} ({_short(code.co_filename)}:{frame.f_lineno})".replace(";", ","))
        frame = frame.f_back
    return ";".join(reversed(parts))


def _short(path: str) -> str:
    """Return a file's path within its package: where gigamil or Python is installed is nobody's business."""
    for root in (_OWN, *_ROOTS):
        if path.startswith(root):
            return path[len(root) :].removeprefix("site-packages/")
    return path if path.startswith("<") else "/".join(path.split("/")[-3:])


def read_raw(text: str) -> Counter[str]:
    """Return the stacks of py-spy's ``raw`` form, with their counts; paths shortened."""
    stacks: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        if count.isdigit():
            frames = [_relabelled(entry) for entry in stack.split(";")]
            stacks[";".join(frames)] += int(count)
    return stacks


def _relabelled(entry: str) -> str:
    found = _FRAME.fullmatch(entry)
    if found is None or entry.startswith((THREAD, "process ")):
        return entry
    path, _, line = found["place"].rpartition(":")
    return f"{found['function']} ({_short(path)}:{line})"


def frames_of(stack: str) -> tuple[str, tuple[Frame, ...]]:
    """Return a stack's process and thread, as one name, and its frames."""
    label, frames = [], []
    for entry in stack.split(";"):
        found = _FRAME.fullmatch(entry)
        if found is None or entry.startswith((THREAD, "process ")):
            label.append(entry)
        else:
            frames.append((found["function"], found["place"]))
    return " ".join(label), tuple(frames)


def speedscope(stacks: Mapping[str, int], name: str) -> str:
    """Return the trace of a profile, one for each thread, as speedscope.app and others read it."""
    known: dict[Frame, int] = {}
    threads: dict[str, tuple[list[list[int]], list[float]]] = {}
    for stack, count in sorted(stacks.items()):
        label, frames = frames_of(stack)
        samples, weights = threads.setdefault(label, ([], []))
        samples.append([known.setdefault(frame, len(known)) for frame in frames])
        weights.append(count / RATE)
    return json.dumps(
        {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "name": name,
            "exporter": "gigamil profile",
            "shared": {"frames": [_frame(frame) for frame in known]},
            "profiles": [_profile(label, *own) for label, own in threads.items()],
        }
    )


def _frame(frame: Frame) -> dict[str, Any]:
    function, place = frame
    file, _, line = place.rpartition(":")
    return {"name": function, "file": file or place, **({"line": int(line)} if line.isdigit() else {})}


def _profile(label: str, samples: list[list[int]], weights: list[float]) -> dict[str, Any]:
    total = sum(weights)
    shape = {"type": "sampled", "unit": "seconds", "startValue": 0, "endValue": total}
    return {"name": label or "all", **shape, "samples": samples, "weights": weights}
