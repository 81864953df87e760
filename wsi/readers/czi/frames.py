"""Decoded camera frames, kept for the rows of tiles that cut through them: one bounded store for a whole process.

A frame may have 16 MiB, and a row of small tiles goes through a dozen. A worker keeps several slides open, so that what
each kept for itself would add up.
"""

from collections import OrderedDict
from threading import Lock

from wsi.arrays import RGB

KEPT_BYTES = 160 << 20

Key = tuple[int, int, int]
"""The slide's own number, level, frame."""


class Frames:
    """The frames used last, up to so many bytes, and always the last one."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[Key, RGB] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: Key) -> RGB | None:
        """Return a frame, None where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Key, pixels: RGB) -> None:
        """Keep a frame."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > self._most and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def drop(self, slide: int) -> None:
        """Forget the frames of a slide."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == slide]:
                self._bytes -= self._kept.pop(key).nbytes


FRAMES = Frames(KEPT_BYTES)
