"""What every verb that works shares: progress bars on the terminal, one summary, the exit code."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from cli.commands import Verb
from cli.expecting import Remaining, beside_estimate, estimate_of
from wsi.errors import masked
from wsi.machine.interrupt import leave_if_asked
from wsi.progress.outcome import Progress as ProgressSink
from wsi.progress.outcome import Status, Summary

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
    """A `wsi.progress.outcome.Progress` that draws rich bars on standard error; silent where that is not a terminal."""

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
        leave_if_asked()  # something is done: every verb can leave here

    def note(self, line: str) -> None:
        self._progress.console.print(masked(line), markup=False)

    def end(self) -> None:
        self._task = None


@contextmanager
def progress_bars(estimate: float = 0.0) -> Iterator[ProgressSink]:
    """Give a progress sink that draws bars where standard error is a terminal.

    ``estimate`` is what the first bar's work is expected to take, seconds, as `gigamil plan` kept it; 0: not known.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), _Amount(), TimeElapsedColumn(), Remaining(estimate))
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as progress:
        yield Bars(progress)


def run_stage(verb: Verb, options: Any, *, json_output: bool, ends: bool = True) -> int:
    """Run a verb with progress bars, print its summary and what it ends with; return its exit code."""
    with progress_bars(estimate_of(verb.name, options)) as progress, beside_estimate(verb.name, options) as account:
        summary: Summary = verb.load("run")(options, progress)
        account.done = len(summary.ended(Status.DONE))
    told = dict(verb.load("ending")(options, summary)) if verb.ending and ends else {}
    lines = told.pop("lines", [])
    if json_output:
        content = summary.as_dict() | ({"ending": told} if told else {})
        sys.stdout.write(masked(json.dumps(content, indent=1, default=str)) + "\n")
    else:
        show(summary)
        for line in [*lines, *filter(None, [account.line])]:
            stderr.print(masked(line), markup=False, soft_wrap=True)
    return summary.exit_code


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
