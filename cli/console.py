"""What every verb shares: progress bars on the terminal, one summary, one line per error, the exit code."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cli import stopping
from wsi.errors import ClaimedError, GigamilError, RequestError, masked
from wsi.outcome import Progress as ProgressSink
from wsi.outcome import Status, Summary

stderr = Console(stderr=True, highlight=False)

_NAMED = 5
"""Items named in one line when they all say the same."""
_MARKS = {Status.DONE: "done", Status.SKIPPED: "already done", Status.FAILED: "FAILED"}


class _Amount(ProgressColumn):
    """Show how much is done, in the bar's own unit."""

    def render(self, task: Task) -> Text:
        unit, total = task.fields["unit"], task.total or 0
        if unit == "B":
            return Text(f"{task.completed / 1e6:,.0f}/{total / 1e6:,.0f} MB")
        return Text(f"{task.completed:,.0f}/{total:,.0f} {unit}")


class Bars:
    """A `wsi.outcome.Progress` that draws rich bars on standard error; silent where that is not a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: int | None = None

    def begin(self, title: str, total: float, unit: str) -> None:
        self.end()
        self._task = self._progress.add_task(masked(title), total=total, unit=unit)

    def grow(self, amount: float) -> None:
        if self._task is not None:
            task = self._progress.tasks[self._progress.task_ids.index(self._task)]  # type: ignore[arg-type]
            self._progress.update(task.id, total=(task.total or 0) + amount)

    def advance(self, amount: float) -> None:
        if self._task is not None:
            self._progress.advance(self._task, amount)  # type: ignore[arg-type]

    def note(self, line: str) -> None:
        self._progress.console.print(masked(line), markup=False)

    def end(self) -> None:
        self._task = None


@contextmanager
def progress_bars() -> Iterator[ProgressSink]:
    """Give a progress sink that draws bars where standard error is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), _Amount(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as progress:
        yield Bars(progress)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn the errors a user can cause into one line on standard error and an exit code: 2 wrong request, 1 failure."""
    try:
        with stopping.in_one_line():
            yield
    except (RequestError, ClaimedError) as error:
        fail(str(error), 2)
    except GigamilError as error:
        fail(str(error), 1)
    except OSError as error:
        fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        fail(stopping.INTERRUPTED, 130)


def fail(line: str, code: int) -> NoReturn:
    """Print one line on standard error and leave with the code."""
    stderr.print(f"gigamil: {masked(line)}", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def run_stage(
    stage: Callable[[ProgressSink], Summary],
    *,
    json_output: bool,
    table: Callable[[Path, Summary], None] | None = None,
    path: Path | None = None,
    ending: Callable[[Summary], Mapping[str, Any]] | None = None,
) -> Summary:
    """Run one stage with progress bars, print its summary; leave with its exit code unless that is 0.

    Where a ``path`` is given, ``table`` writes the summary there, too. ``ending`` gives what the verb ends with: JSON
    values for a program, and under ``lines`` the same for a person.
    """
    with one_line_errors():
        with progress_bars() as progress:
            summary = stage(progress)
        if table and path:
            table(path, summary)
        told = dict(ending(summary)) if ending else {}
        lines = told.pop("lines", [])
        if json_output:
            content = summary.as_dict() | ({"ending": told} if told else {})
            sys.stdout.write(masked(json.dumps(content, indent=1, default=str)) + "\n")
        else:
            show(summary)
            for line in lines:
                stderr.print(masked(line), markup=False, soft_wrap=True)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)
    return summary


def show(summary: Summary) -> None:
    """Print the counts, then one line for each item that has something to say."""
    counts = ", ".join(f"{len(summary.ended(s))} {_MARKS[s]}" for s in Status if summary.ended(s)) or "nothing to do"
    stderr.print(f"{summary.stage}: {counts} in {summary.seconds:.1f} s", markup=False)
    alike: dict[tuple[Status, str], list[str]] = {}
    for outcome in summary.outcomes:
        if outcome.reason:
            alike.setdefault((outcome.status, outcome.reason), []).append(outcome.item_id)
    for (status, reason), items in alike.items():
        named = ", ".join(items[:_NAMED]) + (f" and {len(items) - _NAMED} more" if len(items) > _NAMED else "")
        stderr.print(masked(f"  {_MARKS[status]} {named}: {reason}"), markup=False, soft_wrap=True)
