"""How the process gives memory back."""

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of malloc.h."""
_LARGEST_HEAP_BLOCK, _KEPT_BYTES = 32 << 20, 1 << 30
"""The largest threshold that mallopt takes, and what the heap may keep at its end."""


@cache
def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for reuse in place of returning each to the system; the whole process is affected.

    Buffers of pixels are large and short-lived: a third to a half of the time would go into page faults, most of all in
    Dask's workers, which are started with a trim threshold of 64 KiB. Elsewhere than on glibc nothing happens.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back_freed() -> None:
    """Return what was freed to the system: work of another kind comes next. Elsewhere than on glibc nothing happens."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
