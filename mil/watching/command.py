"""`gigamil status`: how far a cohort is, once or until all is done; as a page, lines, JSON or metrics."""

import json as json_module
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.live import Live

from mil.watching.metrics import metrics_text, serving
from mil.watching.options import StatusOptions
from mil.watching.shown import console, one_line, sections, status_page
from mil.watching.status import NOT_ALL_DONE, Status
from mil.watching.watch import Watch
from wsi.errors import masked
from wsi.files.atomic import write_text
from wsi.files.regular import first_bytes

_SHARE_LOOKING = 0.1
"""Part of the time that may go into looking: many slides on a slow disk are looked at less often."""
Show = Callable[[Status], None]


def status(options: StatusOptions, json: bool) -> int:
    """Show how far a cohort is.

    Returns
    -------
    int
        0: all is done. 1: something failed, and nobody works any more. 75: not everything is done yet.

    Raises
    ------
    RequestError
        There is no such cohort or log, its table cannot be understood, or the metrics' address cannot be listened on.
    """
    watch = Watch(options.cohort, options.stuck_after)
    latest = watch.look()
    with ExitStack() as open_until_the_end:
        if options.metrics is not None:
            served = serving(options.metrics_host, options.metrics, lambda: metrics_text(latest))
            sys.stderr.write(f"gigamil status: metrics at {open_until_the_end.enter_context(served)}\n")
        show = open_until_the_end.enter_context(_shows(options, json))
        while True:
            show(latest)
            if options.metrics_file:
                write_text(options.metrics_file, metrics_text(latest), _is_ours)
            if not options.goes_on or _is_over(latest):
                return latest.exit_code
            began = time.monotonic()
            latest = watch.look()
            took = time.monotonic() - began
            time.sleep(max(options.every, took / _SHARE_LOOKING) - took)


def _is_over(status: Status) -> bool:
    return status.exit_code != NOT_ALL_DONE


def _is_ours(path: Path) -> bool:
    return first_bytes(path, 20).startswith(b"# HELP gigamil_")


@contextmanager
def _shows(options: StatusOptions, json: bool) -> Iterator[Show]:
    """Give what shows a look: JSON, a page, a page that is drawn anew, or lines where that is no terminal."""
    screen = console()
    if json:
        indent = None if options.goes_on else 1
        yield lambda status: _print(masked(json_module.dumps(status.as_dict(), indent=indent, default=str)))
    elif not options.goes_on:
        yield lambda status: screen.print(status_page(status), soft_wrap=True)
    elif screen.is_terminal:
        with Live(console=screen, auto_refresh=False, vertical_overflow="visible") as live:
            yield lambda status: live.update(status_page(status), refresh=True)
    else:
        yield _Lines()


class _Lines:
    """Prints a line when something has changed; what failed or is stuck, once."""

    def __init__(self) -> None:
        self._last = ""
        self._told: set[str] = set()

    def __call__(self, status: Status) -> None:
        line = one_line(status)
        if line.partition(" ")[2] != self._last:
            self._last = line.partition(" ")[2]
            _print(masked(line))
        for title, lines in sections(status):
            for own in lines if title in ("failed", "stuck", "notes") else ():
                key = own.partition(":")[0] if title == "stuck" else own
                if key not in self._told:
                    self._told.add(key)
                    _print(masked(f"  {title}: {own}"))


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
