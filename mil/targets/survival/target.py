"""Time to an event: columns ``time`` (above 0) and ``event`` (1 it happened, 0 not seen until then); log risks; Cox."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from mil.targets.base import Measure, Words
from mil.targets.judged import Breakdown, Judged, judgements
from mil.targets.plot import Line, Plot
from mil.targets.questions import Question
from mil.targets.survival.followed_up import kaplan_meier_interval
from mil.targets.survival.metrics import (
    Followed,
    harrell_c,
    integrated_brier,
    kaplan_meier,
    misordered,
    time_auc,
    uno_c,
)
from mil.targets.unclassed import Unclassed, alike_strata, binned, of_slide, parse_values
from wsi.arrays import Bools, Floats, Ints
from wsi.cohort.manifest import ManifestRow
from wsi.errors import ManifestError

ENTRY = frozenset(
    ("entry", "entry_time", "time_entry", "start", "start_time", "time_start", "delayed_entry", "left_truncation")
)
"""Further columns of the manifest that tell when a patient came under observation."""
HAPPENED = {"1": True, "true": True, "0": False, "false": False}
"""What stands under event, before a colon."""


@dataclass(frozen=True, slots=True)
class SurvivalTarget(Unclassed):
    """Time to an event that not everybody has reached; Cox partial likelihood. Log risks (N, 1) are told.

    The patients at risk are those of the batch, however many steps and processes it is computed in: larger batches say
    more. Slides of one patient are one at risk, not several, and do not tie with each other.
    """

    kind: ClassVar[str] = "survival"
    column: ClassVar[str] = "time"
    joint: ClassVar[bool] = True
    located: ClassVar[bool] = True
    shown: ClassVar[tuple[str, str]] = ("concordance", "time_auc")
    chance: ClassVar[float] = 0.5
    words: ClassVar[Words] = Words(
        told="risks",
        nobody="a log risk of 0, which says nothing",
        asked="the risk",
        enough="events",
        row="One log risk per patient, higher is worse.",
        caveat="Risks order patients and have no unit; they are no probabilities. Above 0: higher than the median of "
        "the patients on whom the models were validated inside the training.",
        achieved="a concordance",
        ranked="concordance",
        second="AUC over time",
        score="the same risk for everybody scores",
        colour="a linear model of the log risk",
        loss="Cox partial likelihood",
        error="of the patients of the fold with whom an order is known, the share that was put in the wrong order",
    )
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {
        "concordance": (
            "Concordance (C)",
            "Chance that of two patients the one with the earlier event was told the higher risk. 0.5 is chance.",
        ),
        "concordance_uno": ("Concordance (Uno)", "As that, whatever the censoring."),
        "time_auc": ("AUC over time", "Patients with the event by then against those without, over the follow-up."),
        "integrated_brier": (
            "Integrated Brier score",
            "Squared error of the predicted share without the event. Lower is better.",
        ),
        "concordance_pooled": ("Concordance, folds pooled", "Patients of different folds are compared, too."),
    }
    times_N: Floats
    """To the event, or to the last time seen without it; any unit; NaN where unknown."""
    events_N: Bools
    """Whether the event was seen."""
    cut_before: bool = True
    """Risks count from the median of patients who are not judged; else patients are halved by their own fold's."""
    names: tuple[str, ...] = ("risk",)

    @classmethod
    def read(
        cls, rows: Sequence[ManifestRow], names: Sequence[str], n_folds: int, others: Sequence[ManifestRow] = ()
    ) -> tuple[Self, list[str]]:
        times, events, slides = zip(*((row.time, row.event, row.image_id) for row in rows), strict=True)
        times_N, events_N = parse_survival(times, events, slides)
        if not events_N.any():
            raise ManifestError("--target survival: expected events in the manifest (event 1), found none")
        refuse_late_entry(rows)
        return cls(times_N, events_N), _strata(times_N, events_N, rows, n_folds)

    @classmethod
    def cell(cls, row: ManifestRow) -> object:
        times, events = parse_survival([row.time], [row.event], [row.image_id])
        return times[0], events[0]

    @classmethod
    def columns(cls, names: Sequence[str]) -> list[str]:
        return ["time", "event"]

    @classmethod
    def of_cells(cls, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> Self:
        return cls(*parse_survival([row.get("time") for row in rows], [row.get("event") for row in rows]))

    def cells(self, slide: int) -> list[str]:
        return [repr(float(self.times_N[slide])), str(int(self.events_N[slide]))]

    def carriers(self) -> dict[str, int]:
        return {"with the event": int(self.events_N.sum())}

    def fitted(self, slides: Ints) -> Self:
        return self

    def learnt(self, slides: Ints) -> tuple[NDArray[Any], ...]:
        return self.times_N[slides], self.events_N[slides]

    def measures(
        self, told_PC: Floats, folds_P: Ints | None = None, blind_PC: Floats | None = None
    ) -> dict[str, Measure]:
        together = np.zeros(len(self.times_N), np.int64)
        known = Followed(self.times_N, self.events_N, together if folds_P is None else folds_P)
        asked = {"concordance": harrell_c, "concordance_uno": uno_c, "time_auc": time_auc}
        found: dict[str, Measure] = {name: partial(own, known, told_PC[:, 0]) for name, own in asked.items()}
        if folds_P is None:
            return found
        pooled = Followed(self.times_N, self.events_N, together)
        found["integrated_brier"] = partial(integrated_brier, known, told_PC[:, 0])
        return {**found, "concordance_pooled": partial(harrell_c, pooled, told_PC[:, 0])}

    def prior(self) -> Floats:
        return np.zeros(1)

    def near(self, prior_C: Floats, own: Self) -> Floats:
        """Return the log of the center's events per time over those of all."""
        rate = self.events_N.sum() / self.times_N.sum()
        return np.log([(own.events_N.sum() + 1) / (own.times_N.sum() + 1 / rate) / rate]) if rate else np.zeros(1)

    def plots(self, told: Mapping[str, Floats], own: str, area: str, draws_BP: Floats, folds_P: Ints) -> list[Plot]:
        lines = []
        for name, own_P in self.halves(told[own][:, 0], folds_P).items():
            if not own_P.any():
                continue
            times, events = self.times_N[own_P], self.events_N[own_P]
            at_T, left_T = kaplan_meier(times, events)
            band_2T = np.stack(kaplan_meier_interval(at_T, times, events))
            name = f"{name} risk"
            lines.append(Line(name, at_T, left_T, "steps", until_P=times, marks_P=times[~events], band_2N=band_2T))
        return [
            Plot(
                lines=tuple(lines),
                x_label="time",
                y_label="share without the event",
                alt="Share of patients without the event over time, those of higher and those of lower predicted risk",
                caption=f"Kaplan-Meier curves of the patients of higher and of lower risk, {self._parted_by(folds_P)}, "
                "by models that never saw the patients. Bands: 95 % intervals (Greenwood, log-log). Small strokes: "
                "last seen without the event. Beneath: how many were still followed.",
                legend="upper right",
            )
        ]

    @classmethod
    def said(cls, told_C: Floats, names: Sequence[str]) -> str:
        return f"log risk {told_C[0]:.2f}"

    def judged(self, told_PC: Floats, folds_P: Ints) -> list[Judged]:
        known = Followed(self.times_N, self.events_N, folds_P)
        return judgements(
            [self._told(time, event) for time, event in zip(self.times_N, self.events_N, strict=True)],
            [self.said(own_C, self.names) for own_C in told_PC],
            misordered(known, told_PC[:, 0]),
            [None] * len(told_PC),
            None,
        )

    @staticmethod
    def _told(time: float, event: bool) -> str:
        if np.isnan(time):
            return ""
        return f"event at {time:.4g}" if event else f"no event until {time:.4g}"

    def breakdown(self, told_PC: Floats, folds_P: Ints) -> Breakdown:
        rows = []
        for name, own_P in self.halves(told_PC[:, 0], folds_P).items():
            if not own_P.any():
                rows.append((f"{name} risk", "0", "0", ""))
                continue
            at_T, left_T = kaplan_meier(self.times_N[own_P], self.events_N[own_P])
            reached = at_T[left_T <= 0.5]
            median = f"{reached[0]:.4g}" if len(reached) else "not reached"
            rows.append((f"{name} risk", str(own_P.sum()), str(self.events_N[own_P].sum()), median))
        return Breakdown(
            title="Higher and lower risk",
            caption=f"Patients {self._parted_by(folds_P)}. Median time: when half of them had the event, by the "
            "Kaplan-Meier curve.",
            head=("group", "patients", "with the event", "median time to the event"),
            rows=rows,
        )

    def questions(self, told_PC: Floats, prevalence_PC: Floats) -> list[Question]:
        return []

    def halves(self, risks_P: Floats, folds_P: Ints) -> dict[str, Bools]:
        """Return who is told a higher and who a lower risk than the cut."""
        if self.cut_before:
            return {"higher": risks_P > 0, "lower": risks_P <= 0}
        return _halves(risks_P, folds_P)

    def _parted_by(self, folds_P: Ints) -> str:
        if self.cut_before:
            return "parted at the median risk of the patients on whom the models were validated inside the training"
        return "each against the median" + " of the fold" * (len(np.unique(folds_P)) > 1)

    @classmethod
    def claim(cls, names: Sequence[str]) -> str:
        return "put patients in the order of their risk"


def _halves(risks_P: Floats, folds_P: Ints) -> dict[str, Bools]:
    """Return who has the higher and who the lower risk of the fold, in runs that kept no cut and have no one scale."""
    high_P = np.zeros(len(risks_P), bool)
    for fold in np.unique(folds_P):
        own_P = folds_P == fold
        high_P[own_P] = risks_P[own_P] > np.median(risks_P[own_P])
    return {"higher": high_P, "lower": ~high_P}


def _strata(times_N: Floats, events_N: Bools, rows: Sequence[ManifestRow], n_folds: int) -> list[str]:
    """Return event and quarter of the times; where so few share them that a fold would go without, the event alone."""
    fine = [f"{event:d}/{part}" for event, part in zip(events_N, binned(times_N), strict=True)]
    patients = dict(zip((row.patient_id for row in rows), fine, strict=True))
    count = Counter(patients.values())
    return alike_strata([own if count[own] >= n_folds else own[:1] for own in fine], rows, n_folds)


def refuse_late_entry(rows: Sequence[ManifestRow]) -> None:
    """Raise `ManifestError` where a column tells that patients came under observation after time 0."""
    for row in rows:
        for name, cell in row.facts.items():
            if "_".join(name.lower().split()) in ENTRY and not _is_zero(cell):
                raise ManifestError(
                    f"column {name}: slide {row.image_id} is followed from {cell} on; patients who come under "
                    "observation late (left truncation) are not modelled: count times from when they do, or leave it "
                    "out"
                )


def _is_zero(cell: str) -> bool:
    try:
        return not cell.strip() or float(cell) == 0
    except ValueError:
        return False


def parse_survival(
    times: Sequence[str | None], events: Sequence[str | None], slides: Sequence[str] = ()
) -> tuple[Floats, Bools]:
    """Return times (N,), NaN where unknown, and events (N,) from cells of 1 (seen) and 0 (censored).

    ``1:DECEASED`` is read as 1, as cBioPortal writes it, and so is ``True``.

    Raises
    ------
    ManifestError
        A time below 0, an event that is neither 0 nor 1, or one without the other.
    """
    times_N = parse_values(times, "time", slides)
    found = [HAPPENED.get((event or "0").partition(":")[0].strip().lower()) for event in events]
    for row, (time, event) in enumerate(zip(times, events, strict=True)):
        whose = of_slide(slides, row)
        if bool(time) != bool(event):
            raise ManifestError(f"{whose}time {time!r} with event {event!r}: expected both, or neither")
        if found[row] is None:
            raise ManifestError(f"{whose}event {event!r}: expected 1 (it happened) or 0 (not seen until then)")
        if times_N[row] < 0:
            raise ManifestError(f"{whose}time {time}: expected times of 0 or more")
    return times_N, np.array(found, bool)
