"""The table of experiments, and what would be done, as text for a terminal."""

from collections.abc import Sequence

from mil.pipeline.cohort.cohort_file import CohortFile
from mil.pipeline.experiments import RUNNING, Experiments, Row, row_of
from mil.pipeline.rehearsed import why_not_rehearsed
from mil.pipeline.stages import StageState

_SHOWN = ("name", "encoder", "head", "settings", "priority", "state", "start", "end", "metric", "score", "reason")
_NAMED = 8
"""Items named in a line that tells why."""


def listed(file: CohortFile) -> list[Row]:
    """Return the rows of the table, then those that the file would add, larger priorities first."""
    rows = Experiments(file.folder).rows()
    known = {row.name for row in rows}
    rows += [row_of(own) for own in file.experiments if own.name not in known]
    return sorted(rows, key=lambda row: -row.priority)


def table_text(file: CohortFile, rows: Sequence[Row]) -> str:
    """Return rows as columns; what is remarkable of a row stands under ``reason``."""
    lines = [list(_SHOWN), *([_cell(file, row, name) for name in _SHOWN] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_SHOWN))]
    kept = [column for column in range(len(_SHOWN)) if any(line[column] for line in lines[1:])] or range(len(_SHOWN))
    return "\n".join("  ".join(line[c].ljust(widths[c]) for c in kept).rstrip() for line in lines)


def _cell(file: CohortFile, row: Row, name: str) -> str:
    if name == "score":
        between = "" if row.low is None or row.high is None else f" ({row.low:.3f} to {row.high:.3f})"
        return "" if row.score is None else f"{row.score:.3f}{between}"
    if name == "reason":
        return "; ".join(filter(None, [row.reason, _remark(file, row)]))
    value = getattr(row, name)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _remark(file: CohortFile, row: Row) -> str:
    """Return what the table alone does not tell of a row."""
    own = next((own for own in file.experiments if own.name == row.name), None)
    if own is None:
        return f"not in {file.path.name}"
    told = []
    if own.recipe_hash != row.recipe_hash:
        told.append("other settings than the file's: `gigamil run --explain` names them")
    if own.priority != row.priority:
        told.append(f"priority {own.priority:g} in the file: the table's counts")
    if row.state == RUNNING:
        holder = Experiments(file.folder).holder(row.name)
        told.append(row.where if holder else f"{row.where} is gone: it is free again")
    return "; ".join(told)


def explained(file: CohortFile, found: Sequence[StageState]) -> str:
    """Return for each stage how much is done, and for each reason what waits for it."""
    lines = []
    for state in found:
        left = len(state.waiting)
        lines.append(f"{state.stage}: {len(state.done)} done" + (f", {left} to do" if left else ", nothing to do"))
        alike: dict[str, list[str]] = {}
        for item, why in state.waiting.items():
            alike.setdefault(why, []).append(item)
        for why, items in alike.items():
            more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
            lines.append(f"  {', '.join(items[:_NAMED])}{more}: {why}{_will(why)}")
    if told := why_not_rehearsed(file):
        lines.append(f"rehearsal: {told}")
    return "\n".join(lines)


def _will(why: str) -> str:
    if why.startswith("other settings"):
        return ": refused, unless --overwrite"
    return ": made anew" if why.startswith("damaged") else ""
