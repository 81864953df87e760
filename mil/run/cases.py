"""The cases of a finished run, one by one: every patient with slides, truth, answer, error and uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mil.run.checks import checked_table
from mil.run.evidence import Evidence
from mil.run.scores import patient_logits, read_scores, validation_medians
from mil.targets.calibration import Calibration
from mil.targets.judged import Judged
from wsi.arrays import Floats
from wsi.pages import natural

NOT_JUDGED = "not judged: no tiles"
UNSURE = 0.25
"""Share of the cases that count as the least sure ones."""


@dataclass(frozen=True, slots=True)
class CaseSlide:
    """A slide of a case."""

    image_id: str
    told: str
    """What the model tells of this slide by itself; empty where a patient's slides are one bag."""


@dataclass(frozen=True, slots=True)
class Case:
    """A patient, judged by models that never saw the patient; in a run by slide, a slide."""

    case_id: str
    patient_id: str
    center: str
    """Empty where not known."""
    fold: int
    judged: Judged
    spread: float | None
    """Standard deviation of what the fold's models tell, the mean over outputs; None of one model."""
    slides: tuple[CaseSlide, ...]

    @property
    def doubt(self) -> float | None:
        """Return how unsure the model is: by its probabilities, else by how its members differ."""
        return self.spread if self.judged.doubt is None else self.judged.doubt


def cases(evidence: Evidence) -> list[Case]:
    """Return the cases of a run, in natural order of their ids.

    Raises
    ------
    RequestError
        A table of scores is missing or damaged.
    """
    slides, person = _slides(evidence), {}
    if evidence.run.unit_column == "image_id":
        person = {row["image_id"]: row["patient_id"] for row in evidence.slides}
    found = []
    for row, judged, spread in zip(evidence.patients, judged_patients(evidence), _spreads(evidence), strict=True):
        case_id = row["patient_id"]
        own = tuple(sorted(slides.get(case_id, ()), key=lambda slide: natural(slide.image_id)))
        patient = person.get(case_id, case_id)
        found.append(Case(case_id, patient, row["center_id"], int(row["fold"]), judged, spread, own))
    return sorted(found, key=lambda case: natural(case.case_id))


def _slides(evidence: Evidence) -> dict[str, list[CaseSlide]]:
    """Return the slides of each case."""
    run, found = evidence.run, dict[str, list[CaseSlide]]()
    if evidence.config["recipe"].get("aggregate") == "bag" and not evidence.elsewhere:
        for row in checked_table(run.path / "splits.csv", ("image_id", "patient_id")):
            found.setdefault(row["patient_id"], []).append(CaseSlide(row["image_id"], ""))
        return found
    column = run.unit_column
    for row in evidence.slides:
        outputs_C = np.array([float(row[f"p_{name}"]) for name in evidence.classes])
        told = evidence.truth.said(outputs_C, evidence.classes) if int(row["n_tiles"]) else NOT_JUDGED
        found.setdefault(row[column], []).append(CaseSlide(row["image_id"], told))
    return found


def judged_patients(evidence: Evidence) -> list[Judged]:
    """Return how each patient of the evidence was judged; those without tiles were not."""
    folds_P = np.array([int(row["fold"]) for row in evidence.patients])
    unseen = Judged("", NOT_JUDGED, error=None, right=None, doubt=None)
    every = evidence.truth.judged(evidence.told[evidence.head], folds_P)
    usable = [int(row["n_tiles"]) > 0 for row in evidence.patients]
    return [own if fine else replace(unseen, truth=own.truth) for own, fine in zip(every, usable, strict=True)]


def least_sure(found: Sequence[Case]) -> float | None:
    """Return the uncertainty from which on a case is among the least sure quarter; None where none is known."""
    doubts = [case.doubt for case in found if case.doubt is not None]
    return float(np.quantile(doubts, 1 - UNSURE)) if doubts else None


def _spreads(evidence: Evidence) -> list[float | None]:
    """Return by how much the models of a patient's fold differ, where there are several."""
    run, recipe = evidence.run, evidence.config["recipe"]
    if run.models_per_fold < 2 or evidence.elsewhere:
        return [None] * len(evidence.patients)
    column = run.unit_column
    case_of = {row["image_id"]: row[column] for row in evidence.slides}
    usable = {row["image_id"] for row in evidence.slides if int(row["n_tiles"]) > 0}
    told: dict[str, list[Floats]] = {}
    for fold in range(recipe["folds"]):
        for seed in range(run.models_per_fold):
            table = read_scores(run.model(run.head, fold, seed) / "scores.csv", case_of, len(evidence.classes))
            patients = tuple(case_of[image_id] for image_id in table.image_ids)
            tested_S = table.test_S & np.array([image_id in usable for image_id in table.image_ids])
            chosen = np.flatnonzero(tested_S)
            own = tuple(patients[row] for row in chosen)
            how = str(recipe.get("aggregate", "mean"))
            ids, logits_PC = patient_logits(table.logits_SC[chosen], own, tested_S[chosen], how)
            zero = Calibration()
            if run.predicts.located:
                usable_S = np.array([image_id in usable for image_id in table.image_ids])
                zero = Calibration(shift=tuple((-validation_medians(table, patients, usable_S, how)).tolist()))
            for case_id, told_C in zip(ids, run.predicts.told(logits_PC, zero), strict=True):
                told.setdefault(case_id, []).append(told_C)
    found = (told.get(row["patient_id"]) for row in evidence.patients)
    return [None if own is None else float(np.std(own, axis=0).mean()) for own in found]
