"""The table of experiments: one file that people read and edit, and that several processes work through at once.

A row is taken by a lock beside the run folders, which the operating system gives back when its holder dies: a row that
says ``running`` without that lock is anybody's again. The table itself is read and rewritten under a lock of its own,
whole or not at all. What is true of a run stands in its run folder; a row that was lost or set back costs nothing but
a look there.
"""

import os
import random
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mil.pipeline.grid import Experiment
from wsi.errors import ClaimedError, RequestError, one_line
from wsi.files.atomic import write_text
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text, read_table

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
TABLE = "experiments.csv"
_PATIENCE_S = 60.0
"""How long another process may take to rewrite the table."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One experiment's row; the columns of the table."""

    name: str
    encoder: str
    head: str
    settings: str = ""
    """What is not at its default: ``lr=0.0005; epochs=20``."""
    priority: float = 0.0
    """Larger comes first; may be changed in the table."""
    state: str = WAITING
    """waiting, running, done, failed."""
    start: str = ""
    """When it was begun, UTC."""
    end: str = ""
    score: float | None = None
    """Of patients that the models had not seen; of which metric, says ``metric``."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval of the score."""
    metric: str = ""
    where: str = ""
    """Who works, or worked, on it: host, process, job."""
    reason: str = ""
    """Why it failed, in one line."""
    recipe_hash: str = ""
    """Of what was asked: experiments of another recipe are others."""


_COLUMNS = tuple(own.name for own in fields(Row))


class Experiments:
    """The table in a cohort's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / TABLE

    def rows(self) -> list[Row]:
        """Return the rows as they stand in the table; none where it is not there.

        Raises
        ------
        RequestError
            The table cannot be understood: column or row, and what is wrong.
        """
        if not self.path.exists():
            return []
        found = read_table(self.path)
        for name in ("name", "state"):
            if found.rows and name not in found.header:
                raise RequestError(f"{self.path}: expected a column {name}, found {', '.join(found.header)}")
        return [_row(self.path, number, cells) for number, cells in found.rows]

    def write(self, rows: Sequence[Row]) -> None:
        """Rewrite the table; the caller holds `changing`."""
        cells = [[_cell(value) for value in asdict(row).values()] for row in rows]
        write_text(self.path, csv_text([_COLUMNS, *cells]))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the table: nobody else rewrites it meanwhile. For moments only."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                held = claim(self.path)
                held.__enter__()
                break
            except ClaimedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.005, 0.05))
        try:
            yield
        finally:
            held.__exit__(None, None, None)

    def update(self, name: str, **changes: Any) -> Row:
        """Change one row, and return it as it is then."""
        with self.changing():
            rows = self.rows()
            index = next(i for i, row in enumerate(rows) if row.name == name)
            rows[index] = replace(rows[index], **changes)
            self.write(rows)
            return rows[index]

    def add(self, experiments: Sequence[Experiment]) -> list[Row]:
        """Put in the rows of experiments that are not there; return all rows."""
        with self.changing():
            rows = self.rows()
            known = {row.name for row in rows}
            new = [row_of(own) for own in experiments if own.name not in known]
            if new:
                self.write([*rows, *new])
            return [*rows, *new]

    @contextmanager
    def take(self, experiments: Sequence[Experiment], tried: Collection[str] = ()) -> Iterator[Row | None]:
        """Hold the next row while the block runs, marked as running; None where none is free.

        Rows that wait, that failed, or that run with a holder who died; those of largest priority first, then as they
        stand in the table.

        Parameters
        ----------
        experiments
            The experiments that may be taken; other rows are left alone.
        tried
            Names that are not taken again.
        """
        wanted = {own.name for own in experiments} - set(tried)
        with _held(self, wanted) as row:
            yield row


@contextmanager
def _held(table: Experiments, wanted: Collection[str]) -> Iterator[Row | None]:
    rows = [row for row in table.rows() if row.name in wanted and row.state != DONE]
    for row in sorted(rows, key=lambda row: -row.priority):
        held = claim(lock_of(table.folder, row.name))
        try:
            held.__enter__()
        except ClaimedError:
            continue
        try:
            current = next((own for own in table.rows() if own.name == row.name), None)
            if current is None or current.state == DONE:
                continue
            yield table.update(row.name, state=RUNNING, start=now(), end="", where=here(), reason="")
            return
        finally:
            held.__exit__(None, None, None)
    yield None


def lock_of(folder: Path, name: str) -> Path:
    """Return what is claimed by the holder of a row."""
    return folder / "runs" / f"{name}.row"


def row_of(experiment: Experiment) -> Row:
    """Return the row of an experiment that nobody has begun."""
    return Row(
        name=experiment.name,
        encoder=experiment.encoder,
        head=experiment.options.head,
        settings=settings_text(experiment),
        priority=experiment.priority,
        recipe_hash=experiment.recipe_hash,
    )


def settings_text(experiment: Experiment) -> str:
    """Return what is not at its default, for a person."""
    return "; ".join(f"{key}={_told(value)}" for key, value in experiment.settings.items())


def _told(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def here() -> str:
    """Return who this is: host, process, and the job of Slurm where there is one."""
    job, task = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    told = f" job {array}_{task}" if array and task else f" job {job}" if job else ""
    return f"{socket.gethostname()} process {os.getpid()}{told}"


def _cell(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) and value == round(value, 6) else value


def _row(path: Path, number: int, cells: dict[str, str]) -> Row:
    """Return a row of cells that a spreadsheet may have written anew."""
    where = f"{path}, line {number}"
    known = {name: cells[name] for name in _COLUMNS if cells.get(name)}
    values: dict[str, Any] = {name: text[1:] if text[:2] in _ESCAPED else text for name, text in known.items()}
    for name in ("priority", "score", "low", "high"):
        if name in values:
            values[name] = _number(where, name, values[name])
    state = str(values.get("state", WAITING)).strip().lower()
    if state not in (WAITING, RUNNING, DONE, FAILED):
        raise RequestError(f"{where}: state {one_line(state, 40)}: expected waiting, running, done or failed")
    return Row(**{"encoder": "", "head": "", "name": "", **values, "state": state})


_ESCAPED = ("'=", "'+", "'-", "'@")


def _number(where: str, name: str, text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise RequestError(f"{where}: {name} {one_line(text, 40)}: expected a number") from None
