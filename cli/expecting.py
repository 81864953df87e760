"""What is still to come: the time that a bar names; and how a stage compares with what `gigamil plan` expected."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import ProgressColumn, Task
from rich.text import Text

if TYPE_CHECKING:
    from mil.accounting.kept import Account

_PLANNED = ("tile", "extract", "train")
_TRUST = 0.1
"""An estimate counts as much as having seen this share of the work done."""
_AT_ONCE_S = 1.0
"""What is done so soon after the beginning was there before, and says nothing of the speed."""


def remaining_seconds(done: float, total: float, elapsed: float, estimate: float = 0.0) -> float | None:
    """Return the seconds that are left, by the mean speed since the beginning and the estimate; None: nobody knows.

    The mean over everything does not jump when steps of another kind begin; the estimate holds it until much is done.
    """
    if total <= 0 or done >= total:
        return 0.0 if total > 0 else None
    share, trust = done / total, _TRUST if estimate > 0 else 0.0
    if share + trust <= 0:
        return None
    return (1 - share) * (elapsed + trust * estimate) / (share + trust)


class Remaining(ProgressColumn):
    """Shows the time that is left; ``estimate`` is that of the first bar's work, seconds, or 0."""

    max_refresh = 0.5

    def __init__(self, estimate: float = 0.0) -> None:
        super().__init__()
        self._estimate = estimate
        self._before: dict[int, float] = {}

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        if elapsed < _AT_ONCE_S:
            self._before[task.id] = task.completed
        before = self._before.get(task.id, 0.0)
        estimate = self._estimate if task.id == 0 else 0.0
        left = remaining_seconds(task.completed - before, (task.total or 0.0) - before, elapsed, estimate)
        if left is None:
            return Text("-:--:--", style="progress.remaining")
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        return Text(f"{hours:d}:{minutes:02d}:{seconds:02d}", style="progress.remaining")


def _folder(verb: str, options: Any) -> Path | None:
    """Return the folder of the plan.json that may hold a stage's estimate: that of the output, or the one above it."""
    out = getattr(options, "out", None)
    if verb not in _PLANNED or not isinstance(out, Path):
        return None
    return next(
        (folder for folder in (out.absolute().parent, out.absolute()) if (folder / "plan.json").is_file()), None
    )


def estimate_of(verb: str, options: Any) -> float:
    """Return the seconds that a stage is expected to take; 0 where nothing was planned."""
    folder = _folder(verb, options)
    if folder is None:
        return 0.0
    from mil.accounting.kept import expected_seconds

    return expected_seconds(folder, verb)


@contextmanager
def beside_estimate(verb: str, options: Any) -> Iterator["Account"]:
    """Measure a stage of which an estimate was kept, and put the two beside each other."""
    from mil.accounting.kept import Account, accounted

    folder = _folder(verb, options)
    if folder is None:
        yield Account()
        return
    with accounted(folder, verb, [options.out]) as account:
        yield account
