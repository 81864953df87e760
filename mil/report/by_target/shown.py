"""One section of a report: paragraphs, tables and figures, whatever the target."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mil.targets.plot import Plot
from wsi.pages import number
from wsi.recipe import Json

FILE = "by_target.json"


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of a table, with its interval beneath where it has one."""

    text: str
    beneath: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; the first cell of a row names it."""

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the template ``section.html`` shows."""

    title: str
    lead: str
    tables: Sequence[Table]
    plots: Sequence[Plot]
    told: Json = field(default_factory=dict)
    """The numbers, for `FILE`."""


def estimated(found: Json | None, form: str = ".3f") -> Cell:
    """Return a value with its interval; a dash where there is none."""
    if found is None or found["value"] is None:
        return Cell(number(None))
    return Cell(number(found["value"], form), f"{number(found['low'], form)} to {number(found['high'], form)}")


def said(value: float | None, form: str = ".3f") -> Cell:
    """Return a number alone."""
    return Cell(number(value, form))
