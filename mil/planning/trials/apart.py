"""Measuring in a process of its own: what it imports and holds is measured with it, and goes with it."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import get_context
from typing import Any

from wsi.errors import ItemError
from wsi.machine.interrupt import end_with_parent, interrupts_held


def apart(function: str, *arguments: Any) -> Any:
    """Call ``module:name`` in a new process; return its result, or raise what it raised.

    Raises
    ------
    ItemError
        The process died.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
        with interrupts_held():  # the process leaves Ctrl-C to this one
            future = pool.submit(_called, function, arguments)
        try:
            return future.result()
        except BrokenProcessPool:
            raise ItemError(
                f"measuring ({function.partition(':')[2].replace('_', ' ')}) ended at once, for want of memory perhaps"
            ) from None
        except BaseException:
            for process in list(pool._processes.values()):
                process.kill()
            raise


def _called(function: str, arguments: tuple[Any, ...]) -> Any:
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*arguments)
