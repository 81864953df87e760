"""How far everything is, for a person: a table of the stages, then what runs, is stuck, failed, waits in the queue."""

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from mil.watching.status import StageStatus, Status, Work
from wsi.errors import masked

_LISTED = 6
"""Lines of one kind; of what failed, items that say the same stand in one."""
_NAMED = 4


def status_page(status: Status) -> RenderableType:
    """Return the whole page."""
    parts: list[RenderableType] = [_table(status)]
    for title, lines in sections(status):
        parts += [Text(title, style="bold"), *(Text(f"  {masked(line)}") for line in lines)]
    return Group(*parts)


def sections(status: Status) -> Iterator[tuple[str, list[str]]]:
    """Give what is below the table: titles with their lines; none that is empty."""
    works = [(stage.stage, work) for stage in status.stages for work in stage.running]
    running = [f"{stage} {_of(work, status.time)}" for stage, work in works if not work.stuck]
    stuck = [f"{stage} {_silent(work, status.time)}" for stage, work in works if work.stuck]
    failed = [f"{stage.stage} {line}" for stage in status.stages for line in _failures(stage)]
    queue = [_job(job) for job in status.queue]
    told = {
        "running": running,
        "stuck": stuck,
        "failed": failed,
        "in Slurm's queue": queue,
        "notes": list(status.notes),
    }
    yield from ((title, _cut(lines)) for title, lines in told.items() if lines)


def one_line(status: Status) -> str:
    """Return the stages in one line, for a log."""
    clock = clock_text(status.time)
    return f"{clock} " + ", ".join(_short(stage) for stage in status.stages)


def clock_text(seconds: float) -> str:
    """Return a time of day, UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def duration(seconds: float) -> str:
    """Return a time span for a person."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


def rate_text(stage: StageStatus) -> str:
    """Return a rate in a unit that gives a readable number; nothing where it is not known."""
    if not stage.rate:
        return ""
    if stage.unit == "B":
        return f"{stage.rate / 1e6:.3g} MB/s"
    for per, name in ((1, "s"), (60, "min"), (3600, "h")):
        if stage.rate * per >= 1:
            return f"{stage.rate * per:.3g} {stage.unit}/{name}"
    return f"{stage.rate * 86400:.3g} {stage.unit}/d"


def _table(status: Status) -> Table:
    columns = ("done", "running", "waiting", "failed", "rate", "still")
    table = Table(
        Column("stage"), *(Column(name, justify="right", no_wrap=True) for name in columns), box=None, pad_edge=False,
        title=masked(f"{status.name}, {clock_text(status.time)} UTC"), title_justify="left", title_style="bold",
    )  # fmt: skip
    for stage in status.stages:
        counts = [f"{stage.done}/{stage.total}", *(str(n or "") for n in (len(stage.running), stage.waiting))]
        style = "red" if stage.failed or stage.trouble else ""
        failed = Text(str(len(stage.failed) or ("!" if stage.trouble else "")), style=style)
        table.add_row(Text(stage.stage), *counts, failed, rate_text(stage), still_text(stage))
    return table


def still_text(stage: StageStatus) -> str:
    """Return how long a stage will still take."""
    if stage.done == stage.total:
        return "" if stage.trouble else "done"
    return duration(stage.eta_seconds) if stage.eta_seconds is not None and stage.running else ""


def _short(stage: StageStatus) -> str:
    parts = {
        "running": len(stage.running),
        "stuck": sum(work.stuck for work in stage.running),
        "failed": len(stage.failed),
    }
    told = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    still = f", {still_text(stage)} left" if stage.running and still_text(stage) else ""
    more = f" ({told}{still})" if told else ""
    return f"{stage.stage} {stage.done}/{stage.total}{more}"


def _of(work: Work, now: float) -> str:
    note = f"; {work.note}" if work.note else ""
    return f"{work.id}: {work.where}, for {duration(now - work.since)}{note}"


def _silent(work: Work, now: float) -> str:
    silence = duration(now - work.heard)
    return f"{work.id}: no sign of {work.where} for {silence}: see what became of it; stop it, and start it again"


def _failures(stage: StageStatus) -> Iterator[str]:
    alike: dict[str, list[str]] = {}
    for item, reason in stage.failed.items():
        alike.setdefault(reason, []).append(item)
    for reason, items in alike.items():
        more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
        yield f"{', '.join(items[:_NAMED])}{more}: {reason or 'no reason was told'}"
    if stage.trouble:
        yield f"as a whole: {stage.trouble}"


def _job(job: object) -> str:
    assert isinstance(job, dict)
    told = " ".join(filter(None, [job["state"], job["node"], f"({job['reason']})" if job["reason"] else ""]))
    return f"{job['id']} {job['stage']}: {told}" + (f", for {duration(job['elapsed_s'])}" if job["elapsed_s"] else "")


def _cut(lines: Sequence[str]) -> list[str]:
    more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return [*lines[:_LISTED], *more]


def console() -> Console:
    """Return where the page goes: as wide as the terminal, else 200 columns."""
    return Console(width=None if Console().is_terminal else 200, highlight=False)
