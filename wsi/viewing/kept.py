"""The last files that were made, within a bound of bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock


class Kept:
    """Files by key; the one that was not asked for the longest goes first. Safe across threads.

    Parameters
    ----------
    most
        Bytes of all files together.
    """

    def __init__(self, most: int) -> None:
        self._most, self._bytes, self._lock = most, 0, Lock()
        self._files: OrderedDict[Hashable, bytes] = OrderedDict()

    def get(self, key: Hashable) -> bytes | None:
        """Return a file, None where it is not kept."""
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
            return self._files.get(key)

    def put(self, key: Hashable, file: bytes) -> None:
        """Keep a file."""
        with self._lock:
            self._bytes += len(file) - len(self._files.pop(key, b""))
            self._files[key] = file
            while self._bytes > self._most:
                self._bytes -= len(self._files.popitem(last=False)[1])
