"""What a run says of one slide's patient, in words and numbers: for a page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil.heatmaps.tile_scores import TileScores
from mil.run.cases import NOT_JUDGED, Case
from mil.run.evidence import Evidence
from mil.targets.judged import Judged
from wsi.arrays import Floats
from wsi.recipe import Json

ENTROPY = "Uncertainty (0: sure, 1: a guess)"
SPREAD = "Disagreement of the models"


@dataclass(frozen=True, slots=True)
class Cohort:
    """The cases of a run, and what it tells of each out of fold; all run in parallel."""

    evidence: Evidence
    cases: Sequence[Case]
    told_PC: Floats

    @property
    def judged_P(self) -> list[bool]:
        """Whether each case could be judged."""
        return [case.judged.told != NOT_JUDGED for case in self.cases]


def cohort_of(evidence: Evidence, cases: Sequence[Case]) -> Cohort:
    """Return the cases with what the run's own head tells of them."""
    rows = {
        row["patient_id"]: told_C for row, told_C in zip(evidence.patients, evidence.told[evidence.head], strict=True)
    }
    return Cohort(evidence, cases, np.stack([rows[case.case_id] for case in cases]))


def known_prediction(cohort: Cohort, place: int) -> Json:
    """Return what was told of a case of the run, by models that never saw the patient."""
    case, told_C = cohort.cases[place], cohort.told_PC[place]
    slides = f" (all {len(case.slides)} slides together)" if len(case.slides) > 1 else ""
    said = (
        f"Predicted: {case.judged.told}{slides}." if cohort.judged_P[place] else f"Not predicted: {case.judged.told}."
    )
    return _prediction(cohort, told_C, case.judged, said, _doubt(cohort, case), place)


def new_prediction(cohort: Cohort, scores: TileScores) -> Json:
    """Return what all models of the run tell of a slide that it does not know."""
    target, names = cohort.evidence.run.predicts, cohort.evidence.classes
    truth = target.of_cells([{}], names)
    (judged,) = truth.judged(scores.outputs_C[None], np.zeros(1, np.int64))
    said = f"Predicted: {judged.told} (this slide alone; it was not in the run's cohort)."
    doubt = None if judged.doubt is None else _ranked(cohort, ENTROPY, judged.doubt, None)
    return _prediction(cohort, scores.outputs_C, judged, said, doubt, None)


def _prediction(
    cohort: Cohort, told_C: Floats, judged: Judged, said: str, uncertainty: Json | None, place: int | None
) -> Json:
    names, words = cohort.evidence.classes, cohort.evidence.truth.words
    classed = words.told == "probabilities"
    shown = int(told_C.argmax()) if classed else 0
    others = [
        float(own_C[shown])
        for other, (own_C, fine) in enumerate(zip(cohort.told_PC, cohort.judged_P, strict=True))
        if fine and other != place
    ]
    return {
        "classes": list(names) if classed else None,
        "values": told_C.tolist(),
        "kind": kind_of(cohort.evidence),
        "said": said,
        "uncertainty": uncertainty,
        "label": judged.truth or None,
        "right": judged.right,
        "out_of_fold": place is not None,
        "cohort": others,
        "cohort_class": names[shown] if classed else None,
    }


def kind_of(evidence: Evidence) -> str:
    """Return what kind of answer the run gives, as pages name it."""
    return {"classes": "probabilities"}.get(evidence.truth.kind, evidence.truth.kind)


def _doubt(cohort: Cohort, case: Case) -> Json | None:
    if case.doubt is None:
        return None
    return _ranked(cohort, SPREAD if case.judged.doubt is None else ENTROPY, case.doubt, case)


def _ranked(cohort: Cohort, name: str, value: float, case: Case | None) -> Json:
    """Return the uncertainty with the share of the other cases that have less of it."""
    others = [other.doubt for other in cohort.cases if other is not case and other.doubt is not None]
    rank = float(np.mean([other < value for other in others])) if others else 0.0
    return {"name": name, "value": value, "rank": rank}
