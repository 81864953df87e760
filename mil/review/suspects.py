"""Patients of a finished run whose given class is likely to be wrong, named with their scores and slides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil.review.confident import suspects
from mil.run.cases import Case, cases
from mil.run.evidence import Evidence
from mil.targets import ClassTarget
from mil.targets.judged import percent
from mil.targets.questions import at_prevalence
from wsi.arrays import Floats

SHOWN = 25
"""Suspects that the report names; the table of `gigamil worklist --by suspicion` has all."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A patient whose given class is likely to be wrong; in a run by slide, a slide."""

    case: Case
    given: str
    suggested: str
    p_given: float
    """Out of fold, at the classes' frequency in the cohort."""
    p_suggested: float


@dataclass(frozen=True, slots=True)
class Suspects:
    """What confident learning says of a run."""

    found: tuple[Suspect, ...]
    """The surest first."""
    patients: int
    """Who could be judged."""

    expected: str
    """How often suspects of such a run were wrong where it is known, in words."""

    @property
    def shown(self) -> Sequence[Suspect]:
        """Return those that the report names."""
        return self.found[:SHOWN]


def suspects_of(evidence: Evidence) -> Suspects | None:
    """Return the suspects among a run's own patients; None where it predicts no classes, or was judged elsewhere.

    Raises
    ------
    RequestError
        A table of scores is missing or damaged.
    """
    if evidence.run.predicts is not ClassTarget or evidence.elsewhere:
        return None
    usable = np.flatnonzero(evidence.usable_P)
    labels_N, probs_NC = evidence.truth.groups_N[usable], probabilities(evidence)[usable]
    rows, suggested = suspects(labels_N, probs_NC)
    by_id = {case.case_id: case for case in cases(evidence)}
    names = evidence.classes
    return Suspects(
        tuple(
            Suspect(
                by_id[evidence.patients[usable[row]]["patient_id"]],
                names[labels_N[row]],
                names[other],
                float(probs_NC[row, labels_N[row]]),
                float(probs_NC[row, other]),
            )
            for row, other in zip(rows.tolist(), suggested.tolist(), strict=True)
        ),
        len(usable),
        _expected(evidence.first(evidence.head)),
    )


_PRECISION = ((0.8, 0.3, 0.35), (0.9, 0.35, 0.45), (1.1, 0.55, 0.65))
"""Below which AUC: the share of all suspects that were wrong, and of the surest, as many as were; docs/EVIDENCE.md."""


def _expected(auc: float | None) -> str:
    every, surest = next((every, surest) for below, every, surest in _PRECISION if (auc or 0.0) < below)
    return f"about {percent(every)} of the suspects of such an AUC were wrong, and {percent(surest)} of the surest"


def probabilities(evidence: Evidence) -> Floats:
    """Return out-of-fold probabilities (P, C) at the frequency of the classes among all patients of the run."""
    counts_C = np.bincount(evidence.truth.groups_N, minlength=len(evidence.classes)).astype(np.float64)
    return at_prevalence(evidence.told[evidence.head], counts_C / counts_C.sum())
