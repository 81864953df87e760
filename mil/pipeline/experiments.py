"""The table of experiments: one file that people read and edit, and that several processes work through at once.

A row is taken by a lock beside the run folders, which the operating system gives back when its holder dies: a row that
says ``running`` without that lock is anybody's again. The table itself is read and rewritten under a lock of its own,
whole or not at all. What is true of a run stands in its run folder: a row that was lost or set back, by a spreadsheet
that was saved late, costs nothing but a look there.
"""

import os
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mil.pipeline.cohort.grid import Experiment
from mil.pipeline.patience import claim_patiently
from wsi.errors import ClaimedError, RequestError, one_line
from wsi.files.atomic import write_text
from wsi.files.claim import claim, held_by
from wsi.files.csv_table import csv_text, read_table
from wsi.progress.events import slurm_job

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
TABLE = "experiments.csv"
_TABLE_SECONDS = 60.0
"""How long other processes may take to rewrite the table."""
_NUMBERS = ("priority", "score", "low", "high")
_ESCAPED = ("'=", "'+", "'-", "'@")
"""What a text cell of ours begins with where a spreadsheet would take it for a formula."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One experiment's row; the columns of the table, in their order."""

    name: str
    encoder: str = ""
    head: str = ""
    settings: str = ""
    """What is not at its default: ``lr=0.0005; epochs=20``."""
    priority: float = 0.0
    """Larger comes first; may be changed in the table."""
    state: str = WAITING
    """waiting, running, done, failed."""
    start: str = ""
    """When it was begun, UTC."""
    end: str = ""
    metric: str = ""
    """Of which metric the score is; higher is better."""
    score: float | None = None
    """Of patients that the models had not seen."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval of the score."""
    where: str = ""
    """Who works, or worked, on it: host, process, job."""
    reason: str = ""
    """Why it failed, or what is remarkable, in one line."""
    recipe_hash: str = ""
    """Of what was asked: experiments of another recipe are others."""
    more: dict[str, str] = field(default_factory=dict)
    """Columns that a person added."""


COLUMNS = tuple(own.name for own in fields(Row) if own.name != "more")


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
        try:
            return self._read()
        except RequestError as error:
            told = "mend the table, or move it away: it is made anew of the run folders"
            raise RequestError(f"{error}: {told}") from None

    def _read(self) -> list[Row]:
        found = read_table(self.path)
        missing = [name for name in ("name", "state") if name not in found.header]
        if missing:
            raise RequestError(
                f"{self.path}: expected a column {missing[0]}, found {', '.join(found.header) or 'nothing'}"
            )
        rows = [_row(f"{self.path}, line {number}", cells) for number, cells in found.rows]
        names = [row.name for row in rows]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RequestError(f"{self.path}: {twice} stands there twice: leave one of the rows")
        return rows

    def write(self, rows: Sequence[Row]) -> None:
        """Rewrite the table; the caller holds `changing`."""
        more = list(dict.fromkeys(name for row in rows for name in row.more))
        cells = [[_cell(getattr(row, name)) for name in COLUMNS] + [row.more.get(n, "") for n in more] for row in rows]
        write_text(self.path, csv_text([[*COLUMNS, *more], *cells]))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the table for a moment: nobody else rewrites it meanwhile."""
        with claim_patiently(self.path, _TABLE_SECONDS):
            yield

    def update(self, name: str, **changes: Any) -> Row:
        """Change one row, and return it as it is then.

        Raises
        ------
        RequestError
            Somebody took it out of the table meanwhile.
        """
        with self.changing():
            rows = self.rows()
            index = next((i for i, row in enumerate(rows) if row.name == name), None)
            if index is None:
                raise RequestError(f"{self.path}: the row of {name} is gone: give the same command again")
            rows[index] = replace(rows[index], **changes)
            self.write(rows)
            return rows[index]

    def holder(self, name: str) -> str:
        """Return who holds a row, in words; "" where nobody does."""
        return held_by(lock_of(self.folder, name))

    @contextmanager
    def take(
        self, experiments: Sequence[Experiment], tried: Collection[str] = (), again: Collection[str] = ()
    ) -> Iterator[Row | None]:
        """Hold the next free row while the block runs, marked as running; None where none is free.

        Rows that wait, and rows that run and whose holder is gone; those of largest priority first, then as they stand
        in the table.

        Parameters
        ----------
        experiments
            Those that may be taken; other rows are left alone.
        tried
            Names that are not taken.
        again
            Names that are taken although they failed.
        """
        wanted = {own.name: own.recipe_hash for own in experiments if own.name not in tried}

        def is_free(row: Row) -> bool:
            is_asked = wanted.get(row.name) == row.recipe_hash
            return is_asked and (row.state in (WAITING, RUNNING) or (row.state == FAILED and row.name in again))

        for candidate in sorted(filter(is_free, self.rows()), key=lambda row: -row.priority):
            with ExitStack() as held:
                try:
                    held.enter_context(claim(lock_of(self.folder, candidate.name)))
                except ClaimedError:
                    continue
                row = next((own for own in self.rows() if own.name == candidate.name), None)
                if row is None or not is_free(row):
                    continue  # somebody finished it meanwhile
                yield self.update(row.name, state=RUNNING, start=now(), end="", where=here(), reason="")
                return
        yield None


def lock_of(folder: Path, name: str) -> Path:
    """Return what the holder of a row claims."""
    return folder / "runs" / f"{name}.row"


def row_of(experiment: Experiment) -> Row:
    """Return the row of an experiment that nobody has begun."""
    settings = "; ".join(f"{key}={_told(value)}" for key, value in experiment.settings.items())
    return Row(
        name=experiment.name,
        encoder=experiment.encoder,
        head=experiment.options.head,
        settings=settings,
        priority=experiment.priority,
        recipe_hash=experiment.recipe_hash,
    )


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def here() -> str:
    """Return who this is: host, process, and the job of Slurm where there is one."""
    job = slurm_job()
    return f"{socket.gethostname()} process {os.getpid()}{job and f' job {job}'}"


def _told(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cell(value: Any) -> Any:
    """Return a number without needless zeros, and without losing any of it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _row(where: str, cells: dict[str, str]) -> Row:
    """Return a row of cells that a spreadsheet may have written anew."""
    known = {name: cells[name] for name in COLUMNS if cells.get(name)}
    values: dict[str, Any] = {name: text[1:] if text[:2] in _ESCAPED else text for name, text in known.items()}
    if "name" not in values:
        raise RequestError(f"{where}: expected a name, found none")
    values |= {name: _number(where, name, values[name]) for name in _NUMBERS if name in values}
    state = str(values.get("state", WAITING)).lower()
    if state not in (WAITING, RUNNING, DONE, FAILED):
        raise RequestError(f"{where}: state {one_line(state, 40)}: expected waiting, running, done or failed")
    more = {name: cell for name, cell in cells.items() if name not in COLUMNS}
    return Row(**values | {"state": state, "more": more})


def _number(where: str, name: str, text: str) -> float:
    """Return a number, also where a spreadsheet wrote it with a comma."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise RequestError(f"{where}: {name} {one_line(text, 40)}: expected a number") from None
