"""Out-of-fold predictions: every patient scored by models that never saw that patient.

A fold's logits are averaged over its seeds, a patient's over the slides. What calibrates a fold's scores is fitted on
the logits of the patients of all other folds, each told by models that had not seen the patient, and never on the
patients who are being scored; what calibrates new patients, on those of all folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mil.data.cohort import Cohort
from mil.evaluation.calibrate import fit_calibration
from mil.run.checks import damaged
from mil.run.folder import RunFolder
from mil.run.scores import patient_logits, read_scores, validation_medians
from mil.targets import Target
from mil.targets.calibration import LOCATED, Calibration
from mil.training.options import TrainOptions
from wsi.arrays import Bools, Floats, Ints
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text


@dataclass(frozen=True, slots=True)
class Patients:
    """The patients of a cohort, sorted by id; the fields run in parallel."""

    ids: tuple[str, ...]
    target: Target
    """What is true of them."""
    centers: tuple[str | None, ...]
    folds_P: Ints
    groups: tuple[str, ...]
    """Who hang together and are drawn together: themselves, or the patients of slides judged by themselves."""
    usable_P: Bools
    """Whether a slide of theirs has tiles."""
    blind_PC: Floats
    """What is best said of them without looking, from the patients of the other folds."""


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Out-of-fold scores of one head."""

    slide_logits_SC: Floats
    """Mean over seeds, uncalibrated; zeros for a slide without tiles."""
    slide_told_SC: Floats
    patient_logits_PC: Floats
    patient_told_PC: Floats
    """What is told of them; where nobody can be judged, what is best said of anybody."""
    calibrations: dict[int, Calibration]
    """By fold, each fitted on the patients of the others."""
    calibration: Calibration
    """Fitted on all patients, for new ones."""


def patients_of(cohort: Cohort, folds: Ints) -> Patients:
    """Return the cohort's patients."""
    first = {patient: i for i, patient in reversed(list(enumerate(cohort.patient_ids)))}
    ids = tuple(sorted(first))
    rows = np.array([first[patient] for patient in ids])
    usable = {patient for patient, fine in zip(cohort.patient_ids, cohort.usable_N, strict=True) if fine}
    target = cohort.target.of(rows)
    return Patients(
        ids,
        target,
        tuple(cohort.center_ids[i] for i in rows),
        folds[rows],
        tuple(cohort.groups[i] for i in rows),
        np.array([patient in usable for patient in ids]),
        target.blind(folds[rows]),
    )


def nobody(patients: Patients) -> Floats:
    """Return what is told of patients who cannot be judged (P, C)."""
    return patients.target.constants(patients.blind_PC)["constant"]


def of_slides(values_PC: Floats, patients: Patients, cohort: Cohort) -> Floats:
    """Return the patients' rows, for each slide its own (S, C)."""
    number = {patient: p for p, patient in enumerate(patients.ids)}
    return values_PC[[number[patient] for patient in cohort.patient_ids]]


def collect(run: RunFolder, head: str, cohort: Cohort, folds: Ints, options: TrainOptions) -> OutOfFold:
    """Gather one head's scores.csv files into out-of-fold predictions, those of classes calibrated fold by fold.

    Raises
    ------
    RequestError
        A table is damaged, or does not hold each slide of its fold once.
    """
    patients, logits_SC = patients_of(cohort, folds), _slide_logits(run, head, cohort, folds, options)
    _, patient_PC = patient_logits(logits_SC, cohort.patient_ids, cohort.usable_N, options.aggregate)
    method = options.calibrate if cohort.target.calibrated else "none"

    def fitted(chosen_P: Bools) -> Calibration:
        chosen_P = chosen_P & patients.usable_P
        return fit_calibration(method, patient_PC[chosen_P], patients.target.groups_N[chosen_P], options.seed)

    if cohort.target.located:
        calibrations, overall = _located(run, head, cohort, options)
    else:
        calibrations = {fold: fitted(patients.folds_P != fold) for fold in range(options.folds)}
        overall = fitted(patients.usable_P)
    unjudged_PC = nobody(patients)
    unjudged_SC = of_slides(unjudged_PC, patients, cohort)
    slide_told = _told(logits_SC, folds, cohort.usable_N, calibrations, cohort.target, unjudged_SC)
    patient_told = _told(patient_PC, patients.folds_P, patients.usable_P, calibrations, cohort.target, unjudged_PC)
    return OutOfFold(logits_SC, slide_told, patient_PC, patient_told, calibrations, overall)


def _located(
    run: RunFolder, head: str, cohort: Cohort, options: TrainOptions
) -> tuple[dict[int, Calibration], Calibration]:
    """Return by how much the outputs of each fold's models together are moved, and those of all models together."""
    patient_of = dict(zip(cohort.image_ids, cohort.patient_ids, strict=True))
    usable = {image_id for image_id, fine in zip(cohort.image_ids, cohort.usable_N, strict=True) if fine}
    medians = np.zeros((options.folds, options.models_per_fold, len(cohort.target.names)))
    for fold, seed in np.ndindex(medians.shape[:2]):
        table = read_scores(run.model(head, fold, seed) / "scores.csv", patient_of, medians.shape[2])
        owners = [patient_of[own] for own in table.image_ids]
        usable_S = np.array([own in usable for own in table.image_ids], bool)
        medians[fold, seed] = validation_medians(table, owners, usable_S, options.aggregate)
    moved_FC = -medians.mean(axis=1)
    folds = {fold: Calibration(LOCATED, shift=tuple(own.tolist())) for fold, own in enumerate(moved_FC)}
    return folds, Calibration(LOCATED, shift=tuple(moved_FC.mean(axis=0).tolist()))


def _slide_logits(run: RunFolder, head: str, cohort: Cohort, folds: Ints, options: TrainOptions) -> Floats:
    """Return each slide's logits (S, C), the mean over the models of the fold that tests it."""
    number = {image_id: i for i, image_id in enumerate(cohort.image_ids)}
    n_outputs = len(cohort.target.names)
    logits_SC = np.zeros((len(cohort), n_outputs))
    for fold in range(options.folds):
        tested = np.flatnonzero(folds == fold)
        for seed in range(options.models_per_fold):
            path = run.model(head, fold, seed) / "scores.csv"
            table = read_scores(path, number, n_outputs)
            rows = [number[i] for i, test in zip(table.image_ids, table.test_S, strict=True) if test]
            if not np.array_equal(np.sort(rows), tested):
                raise damaged(path, f"expected each of the {len(tested)} slides of fold {fold} once, found {len(rows)}")
            logits_SC[rows] += table.logits_SC[table.test_S] / options.models_per_fold
    return logits_SC


def _told(
    logits_NC: Floats,
    folds_N: Ints,
    known_N: Bools,
    calibrations: Mapping[int, Calibration],
    target: Target,
    nobody_NC: Floats,
) -> Floats:
    """Return what is told of each row, by its fold's calibration; ``nobody_NC`` of who could not be judged."""
    told_NC = np.array(nobody_NC)
    for fold, calibration in calibrations.items():
        rows = known_N & (folds_N == fold)
        told_NC[rows] = target.told(logits_NC[rows], calibration)
    return told_NC


def write_oof(path: Path, cohort: Cohort, folds: Ints, patients: Patients, oof: OutOfFold) -> None:
    """Write oof.csv: first the slides, then the patients; logits uncalibrated, what is told calibrated."""
    write_text(path, csv_text(oof_rows(cohort, folds, patients, oof)))


def oof_rows(cohort: Cohort, folds: Ints, patients: Patients, oof: OutOfFold) -> list[list[Any]]:
    """Return the rows of oof.csv, the head first."""
    names = cohort.target.names
    truth = cohort.target.columns(names)
    rows: list[list[Any]] = [
        ["level", "patient_id", "image_id", "center_id", *truth, "fold", "n_tiles"]
        + [f"logit_{name}" for name in names]
        + [f"p_{name}" for name in names]
    ]
    tiles: dict[str, int] = dict.fromkeys(patients.ids, 0)
    for i, image_id in enumerate(cohort.image_ids):
        tiles[cohort.patient_ids[i]] += len(cohort.bags[i])
        row = ["slide", cohort.groups[i], image_id, cohort.center_ids[i] or "", *cohort.target.cells(i)]
        scores = [*oof.slide_logits_SC[i].tolist(), *oof.slide_told_SC[i].tolist()]
        rows.append([*row, int(folds[i]), len(cohort.bags[i]), *scores])
    for p, patient in enumerate(patients.ids):
        row = ["patient", patient, "", patients.centers[p] or "", *patients.target.cells(p)]
        scores = [*oof.patient_logits_PC[p].tolist(), *oof.patient_told_PC[p].tolist()]
        rows.append([*row, int(patients.folds_P[p]), tiles[patient], *scores])
    return rows


def write_all_models(path: Path, patients: Patients, told: Mapping[str, Floats]) -> None:
    """Write baselines/oof.csv: what every model and baseline tells of the patients, out of fold."""
    target = patients.target
    names = [f"p_{name}" for name in target.names]
    rows: list[Sequence[Any]] = [["model", "patient_id", *target.columns(target.names), "fold", *names]]
    for model, told_PC in told.items():
        for p, patient in enumerate(patients.ids):
            rows.append([model, patient, *target.cells(p), int(patients.folds_P[p]), *told_PC[p].tolist()])
    write_text(path, csv_text(rows))
