"""checklists.html and checklists.csv: both guidelines, item by item."""

from dataclasses import dataclass
from itertools import groupby

from mil.checklists.flow_chart import FlowChart, flow_chart
from mil.checklists.items import FILLED, NOT_HERE, PARTLY, SOURCES, Entry, filled, tally
from mil.checklists.known import Known
from wsi.files.csv_table import csv_text
from wsi.pages import fill

PAGE, TABLE = "checklists.html", "checklists.csv"
COLUMNS = ("checklist", "item", "section", "asks for", "status", "told by the run", "where it stands", "for a person")


@dataclass(frozen=True, slots=True)
class Checklist:
    """One of the two, answered."""

    name: str
    source: str
    entries: list[Entry]

    @property
    def sections(self) -> list[tuple[str, list[Entry]]]:
        """Its entries, section by section."""
        return [(name, list(own)) for name, own in groupby(self.entries, lambda entry: entry.item.section)]

    @property
    def tally(self) -> dict[str, int]:
        """How many items have each status."""
        return tally(self.entries)


def checklists(known: Known) -> list[Checklist]:
    """Return both, answered."""
    return [Checklist(name, source, filled(key, known)) for key, (name, source) in SOURCES.items()]


@dataclass(frozen=True, slots=True)
class Flowing:
    """What the template ``flow.html`` shows."""

    known: Known
    chart: FlowChart
    lists: list[Checklist]

    @property
    def names(self) -> str:
        """Return the guidelines' names."""
        return " and ".join(own.name for own in self.lists)

    @property
    def told(self) -> str:
        """Return how many items are filled."""
        return ", ".join(
            f"{own.tally[FILLED] + own.tally[PARTLY]} of {len(own.entries) - own.tally[NOT_HERE]} of {own.name} "
            f"filled, {own.tally[PARTLY]} of them in part"
            for own in self.lists
        )


def flowing(known: Known) -> Flowing:
    """Return what the report shows of the flow, and both checklists."""
    return Flowing(known, flow_chart(known), checklists(known))


def checklists_page(flow: Flowing, name: str) -> str:
    """Return checklists.html; ``name``: of the run, or of the cohort that it is judged on."""
    elsewhere = flow.known.elsewhere is not None
    return fill("mil/checklists/checklists.html", checklists=flow.lists, name=name, elsewhere=elsewhere)


def checklists_table(flow: Flowing) -> str:
    """Return checklists.csv: a row for each item."""
    rows = [
        [
            own.name,
            entry.item.number,
            entry.item.section,
            entry.item.says,
            entry.status,
            " ".join(answer.text for answer in entry.answers),
            "; ".join(dict.fromkeys(answer.where for answer in entry.answers)),
            entry.open,
        ]
        for own in flow.lists
        for entry in own.entries
    ]
    return csv_text([list(COLUMNS), *rows])
