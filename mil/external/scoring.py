"""What a run tells of another cohort, measured as it is of its own: by all models together, in place of each fold's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mil.data.cohort import Cohort
from mil.evaluation.bootstrap import REPLICATES
from mil.evaluation.centers.robustness import robustness_index
from mil.evaluation.decisions.decide import Answered
from mil.evaluation.evaluate import Found, metrics_of_group, metrics_of_models, metrics_of_slides
from mil.evaluation.new_patients import ByTheRun, answered_by, answered_of
from mil.evaluation.oof import OutOfFold, Patients, nobody, of_slides, oof_rows
from mil.evaluation.probe import center_probe, patient_means
from mil.inference.judge import Judged
from mil.run.evidence import Evidence
from mil.targets import Target
from mil.targets.calibration import calibration_of
from mil.targets.metrics import confusion
from mil.targets.survival import SurvivalTarget
from wsi.arrays import Floats, Ints
from wsi.recipe import Json

NO_FOLD = -1
_NOT_ELSEWHERE = ("integrated_brier",)
"""Metrics that take a baseline from the patients of other folds, beside those of pooled folds."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another cohort, judged."""

    evidence: Evidence
    """Of the other cohort, in the form of a run's own."""
    by_run: ByTheRun
    answered: Answered
    patients: Patients
    folds_S: Ints
    oof: OutOfFold
    told_FPC: Floats
    """What the models of each fold of the training tell of the patients by themselves."""


def scored(evidence: Evidence, judged: Judged, notes: Sequence[str]) -> Elsewhere:
    """Return the metrics and tables of a cohort that a run's models have judged."""
    cohort, by_run = judged.cohort, ByTheRun(answered_by(evidence))
    target = cohort.target
    prior_C = by_run.prevalence() if target.groups else _default(evidence)
    patients = _patients(cohort, prior_C)
    folds_S = np.full(len(cohort), NO_FOLD, np.int64)
    calibration = calibration_of(evidence.calibration)
    told_SC = np.where(
        cohort.usable_N[:, None],
        target.told(judged.logits_SC, calibration),
        of_slides(nobody(patients), patients, cohort),
    )
    oof = OutOfFold(judged.logits_SC, told_SC, judged.logits_PC, judged.values_PC, {}, calibration)
    head = evidence.head
    told = {head: judged.values_PC, **target.constants(patients.blind_PC)}
    found = Found(cohort, folds_S, patients, oof, told)
    seed = int(evidence.config["recipe"].get("seed", 0))
    other = _evidence(evidence, found, _metrics(found, head, evidence, judged, notes, seed))
    told_FPC = np.stack([target.told(own, calibration) for own in judged.logits_FPC])
    told_FPC = np.where(judged.known_P[:, None], told_FPC, judged.values_PC)
    return Elsewhere(other, by_run, _answered(other, prior_C), patients, folds_S, oof, told_FPC)


def _default(evidence: Evidence) -> Floats:
    """Return what is told of anybody (C,), of targets without classes."""
    return np.asarray(evidence.truth.default(lambda: evidence.metrics, len(evidence.classes)), np.float64)


def _patients(cohort: Cohort, prior_C: Floats) -> Patients:
    """Return the cohort's patients; what is best said of them without looking is what the training said."""
    first = {patient: i for i, patient in reversed(list(enumerate(cohort.patient_ids)))}
    ids = tuple(sorted(first))
    rows = np.array([first[patient] for patient in ids])
    usable = {patient for patient, fine in zip(cohort.patient_ids, cohort.usable_N, strict=True) if fine}
    return Patients(
        ids,
        cohort.target.of(rows),
        tuple(cohort.center_ids[i] for i in rows),
        np.full(len(ids), NO_FOLD, np.int64),
        tuple(cohort.groups[i] for i in rows),
        np.array([patient in usable for patient in ids]),
        np.tile(prior_C, (len(ids), 1)),
    )


def _metrics(found: Found, head: str, evidence: Evidence, judged: Judged, notes: Sequence[str], seed: int) -> Json:
    patients, target = found.patients, found.patients.target
    counts = {} if target.counts_unjudged else {"patients_scored": int(found.scored_P.sum())}
    models, means = metrics_of_models(found, seed), patient_means(found.cohort, patients, judged.means)
    return {
        "head": head,
        "classes": list(target.names),
        "slides": len(found.cohort),
        "patients": len(patients.ids),
        **target.counts(),
        **counts,
        "unit": str(evidence.config["recipe"].get("unit", "patient")),
        "bootstrap": {"unit": "patient", "replicates": REPLICATES, "interval": "95 % BCa"},
        "models": {name: _of_new(own) for name, own in models.items()},
        "slide_level": _of_new(metrics_of_slides(found)),
        **({"confusion": confusion(target.groups_N, judged.values_PC).tolist()} if target.groups else {}),
        "folds": [],
        "centers": [
            metrics_of_group(found, np.array([own == center for own in patients.centers]), center=center or "(none)")
            for center in sorted(set(patients.centers), key=lambda center: center or "")
        ],
        "center_probe": center_probe(means, patients, seed),
        "robustness_index": robustness_index(means, patients, seed),
        "warnings": list(notes),
        "failures": dict(judged.slides.failures),
    }


def _of_new(found: Mapping[str, Any]) -> Json:
    """Return the metrics that mean something of patients who are in no fold."""
    return {key: own for key, own in found.items() if not key.endswith("_pooled") and key not in _NOT_ELSEWHERE}


def _evidence(evidence: Evidence, found: Found, metrics: Json) -> Evidence:
    """Return the cohort in the form of a run's own evidence."""
    head, *rows = oof_rows(found.cohort, found.folds, found.patients, found.own)
    cells = [{name: str(cell) for name, cell in zip(head, row, strict=True)} for row in rows]
    return Evidence(
        run=evidence.run,
        config=evidence.config,
        metrics=metrics,
        calibration=evidence.calibration,
        slides=[row for row in cells if row["level"] == "slide"],
        patients=[row for row in cells if row["level"] == "patient"],
        truth=_parted_alike(found.patients.target, evidence.truth),
        told=found.told,
        histories=[],
        history_folds=[],
        elsewhere=True,
    )


def _parted_alike(target: Target, own: Target) -> Target:
    """Return what is true of the new patients, who are parted at the cut that the run has, where it has one."""
    if isinstance(target, SurvivalTarget) and isinstance(own, SurvivalTarget):
        return replace(target, cut_before=own.cut_before)
    return target


def _answered(other: Evidence, prior_C: Floats) -> Answered:
    """Return what is told of those who count; the cohort's prevalence is that of the training, as nothing is known."""
    size = len(other.scored_P)
    prevalence_PC = np.tile(prior_C, (size, 1)) if other.truth.groups else np.zeros((size, len(other.classes)))
    return answered_of(other, prevalence_PC, np.zeros(size, np.int64))
