"""`gigamil worklist`: which patients a person should look at next, the most telling first, and not many of one kind.

New patients are asked of all models of the run; a patient whom the run was trained on is asked of the models alone that
have not seen the patient.

    <out>            rank, patient, slides, score, what it is made of, probabilities, given class, fold
    <out>.json       what was asked, which slides failed; with --retrain what relabelling did
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from features.bags.bag import BagHeader
from features.bags.moments import moments_of
from mil.data.cohort import BagSet, Cohort, cohort_digest, read_headers, scan_bags
from mil.data.several_encoders import open_cohorts
from mil.data.splits import Known, known_slides
from mil.inference.inputs import row_of
from mil.models.ensemble import Ensemble, check_bags_fit, load_ensemble
from mil.review.informative import chosen, disagreement, expected_change, margin, uncertainty
from mil.review.options import WorklistOptions
from mil.review.relabel import relabelled
from mil.review.suspects import Suspects, suspects_of
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.run.outputs import Tables
from mil.run.scores import patient_logits
from mil.targets.calibration import Calibration, calibration_of
from wsi.arrays import Bools, Floats, Ints
from wsi.cohort.manifest import ManifestRow, load_manifest
from wsi.errors import RequestError
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary, failed
from wsi.recipe import Json, Recipe

MARK = "gigamil-worklist-1"
_NEW = -1
"""In place of a fold: of patients whom the run was not trained on."""
_KINDS = {"uncertainty": ("classes", "labels"), "change": ("classes",), "suspicion": ("classes",)}
"""Targets that a way of choosing is for; disagreement is for all."""


@stage
def worklist(options: WorklistOptions, progress: Progress | None = None) -> Summary:
    """Write the worklist: a row for each patient, the first to look at first.

    Raises
    ------
    RequestError
        The run is not finished, what is asked for is not for its target, bags were made otherwise than the run's, or
        the table is there and was written by something else.
    RecipeMismatchError
        The table was made with other settings or bags, and ``overwrite`` is not given.
    """
    start, progress = time.monotonic(), progress or Silent()
    run = RunFolder(options.run)
    run.read_json("metrics.json")  # an unfinished run: before the work
    kinds = _KINDS.get(options.by, (run.predicts.kind,))
    if run.predicts.kind not in kinds or run.fusion != "none":
        what = f"--target {run.predicts.kind}" if run.predicts.kind not in kinds else f"--fusion {run.fusion}"
        raise RequestError(f"--by {options.by} is for {' and '.join(kinds)} of one encoder: {run.path} is of {what}")
    with claim(options.out):
        choose = _by_suspicion if options.by == "suspicion" else _by_models
        outcome, failures = choose(run, options, progress)
    return Summary("worklist", [outcome, *failed(failures)], time.monotonic() - start)


def _tables(options: WorklistOptions) -> Tables:
    return Tables(options.out.with_suffix(".json"), (options.out,), MARK)


def _by_suspicion(run: RunFolder, options: WorklistOptions, progress: Progress) -> tuple[Outcome, dict[str, str]]:
    """Write the suspects among the run's own patients."""
    recipe: Recipe = {
        "run": run.config["recipe_hash"],
        "by": options.by,
        "most": options.most,
        "retrain": options.retrain,
    }
    if _tables(options).earlier(recipe, overwrite=options.overwrite) is not None:
        return _tables(options).skipped, {}
    found = suspects_of(read_evidence(run))
    assert found is not None
    about: Json = {"suspects": len(found.found), "patients": found.patients, "failures": {}}
    if options.retrain:
        about["relabelled"] = relabelled(run, options, progress)
        progress.note(about["relabelled"]["said"])
    _tables(options).write(recipe, {options.out: _suspect_rows(run, found, options.most)}, about)
    return Outcome(str(options.out), Status.DONE, facts=about), {}


def _suspect_rows(run: RunFolder, found: Suspects, most: int) -> str:
    head = ["rank", run.unit_column, "image_ids", "center_id", "given", "suggested", "p_given", "p_suggested", "fold"]
    rows = [
        [
            rank, own.case.case_id, ";".join(slide.image_id for slide in own.case.slides), own.case.center, own.given,
            own.suggested, f"{own.p_given:.6f}", f"{own.p_suggested:.6f}", own.case.fold,
        ]
        for rank, own in enumerate(found.found[:most], start=1)
    ]  # fmt: skip
    return csv_text([head, *rows])


@dataclass(frozen=True, slots=True)
class _Asked:
    """The patients to choose from, sorted by id, and what the models say of them."""

    ids: list[str]
    cohort: Cohort
    """As it is judged: a row for each slide, or for each patient's slides as one bag."""
    members: list[list[int]]
    """Rows of the cohort, of each patient: those with tiles."""
    folds_P: Ints
    """The fold that tests the patient in the run; -1 of new ones."""
    asked_MP: Bools
    """Which models have not seen the patient."""
    told_MPC: Floats
    """What each model tells, uncalibrated."""
    told_PC: Floats
    """What the models that are asked tell together, calibrated."""


def _by_models(run: RunFolder, options: WorklistOptions, progress: Progress) -> tuple[Outcome, dict[str, str]]:
    """Write whom to look at by what the models say."""
    truth = known_slides(run.path)
    rows, bags = _given(run, options, truth)
    recipe = _recipe(run, options, rows, bags.headers)
    earlier = _tables(options).earlier(recipe, overwrite=options.overwrite)
    if earlier is not None:
        return _tables(options).skipped, earlier["failures"]
    target = run.predicts.of_cells([{}] * len(rows), run.classes)
    (cohort,) = open_cohorts(rows, (bags,), "none", target)
    ensemble = load_ensemble(run, options.device)
    asked = _ask(ensemble, cohort, truth, progress)
    scores = _scores(ensemble, asked, options.by, progress)
    order, near = chosen(scores[options.by], _points(asked) if options.diverse else None, options.most)
    failures = dict(cohort.failures) | dict.fromkeys(cohort.empty, "no tile with tissue: it cannot be judged")
    about = {"patients": len(asked.ids), "failures": failures}
    _tables(options).write(recipe, {options.out: _rows(run, asked, scores, truth, order, near, options.by)}, about)
    return Outcome(str(options.out), Status.DONE, facts={"patients": len(asked.ids), "listed": len(order)}), failures


def _given(run: RunFolder, options: WorklistOptions, truth: Known) -> tuple[list[ManifestRow], BagSet]:
    """Return the slides to choose from, each with its patient, and their bags."""
    if options.manifest is not None:
        rows = [replace(row, label=None) for row in load_manifest(options.manifest)]
    else:
        headers, lost = read_headers(options.bags)
        rows = [row_of(image_id) for image_id in sorted({*headers, *lost})]
    rows = [replace(row, patient_id=truth.patients.get(row.image_id, row.patient_id)) for row in rows]
    bags = scan_bags(options.bags, [row.image_id for row in rows])
    check_bags_fit(run, bags.headers)
    there = {*bags.headers, *bags.failures}
    return [row for row in rows if row.image_id in there], bags


def _recipe(
    run: RunFolder, options: WorklistOptions, rows: list[ManifestRow], headers: Mapping[str, BagHeader]
) -> Recipe:
    asked = {"by": options.by, "most": options.most, "diverse": options.diverse}
    return {"run": run.config["recipe_hash"], "slides": cohort_digest(rows, headers), **asked}


def _ask(ensemble: Ensemble, cohort: Cohort, truth: Known, progress: Progress) -> _Asked:
    """Ask every model of every slide, and put together what those say that have not seen the patient."""
    run, how = ensemble.run, str(ensemble.run.recipe.get("aggregate", "mean"))
    seen = dict(zip(cohort.image_ids, (truth.folds.get(own, _NEW) for own in cohort.image_ids), strict=True))
    fold_of: dict[str, int] = {}
    for image_id, patient in zip(cohort.image_ids, cohort.patient_ids, strict=True):
        fold_of[patient] = max(fold_of.get(patient, _NEW), seen[image_id])
    cohort = cohort.judged(str(run.recipe.get("unit", "patient")), how)
    by_slide = fold_of if not cohort.persons else {i: seen[i] for i in cohort.image_ids}
    usable, logits = cohort.usable_N, []
    if not usable.any():
        raise RequestError("no slide can be judged: expected one or more bags with tiles")
    progress.begin("worklist", int(usable.sum()), "slides")
    for found_SC in ensemble.of_each(cohort.bags, seen=lambda *_: progress.advance(1)):
        ids, logits_PC = patient_logits(found_SC, cohort.patient_ids, usable, how)
        logits.append(logits_PC)
    progress.end()
    rows: dict[str, list[int]] = {name: [] for name in ids}
    for row in np.flatnonzero(usable).tolist():
        rows[cohort.patient_ids[row]].append(row)
    kept = [p for p, name in enumerate(ids) if rows[name]]
    ids, logits_MPC = [ids[p] for p in kept], np.stack(logits)[:, kept]
    folds_P = np.array([by_slide[name] for name in ids], np.int64)
    asked_MP = np.array([[fold in (_NEW, own.fold) for fold in folds_P.tolist()] for own in ensemble.members])
    told_MPC = np.stack([run.predicts.told(own, Calibration()) for own in logits_MPC])
    told_PC = _together(ensemble, logits_MPC, asked_MP, folds_P)
    return _Asked(ids, cohort, [rows[name] for name in ids], folds_P, asked_MP, told_MPC, told_PC)


def _together(ensemble: Ensemble, logits_MPC: Floats, asked_MP: Bools, folds_P: Ints) -> Floats:
    """Return what is told of each patient: by the mean logits of who is asked, calibrated as without the patient."""
    run = ensemble.run
    mean_PC = (logits_MPC * asked_MP[..., None]).sum(axis=0) / asked_MP.sum(axis=0)[:, None]
    told_PC = np.array(ensemble.told(mean_PC))
    if run.predicts.calibrated:
        folds = run.read_json("calibration.json")["folds"]
        for fold in np.unique(folds_P[folds_P != _NEW]).tolist():
            mine = folds_P == fold
            told_PC[mine] = run.predicts.told(mean_PC[mine], calibration_of(folds[fold]))
    return told_PC


def _scores(ensemble: Ensemble, asked: _Asked, by: str, progress: Progress) -> dict[str, Floats]:
    """Return what is known of each patient, by name, what is asked for among it."""
    kind, found = ensemble.run.predicts.kind, dict[str, Floats]()
    if kind in _KINDS["uncertainty"]:
        found["uncertainty"] = uncertainty(kind, asked.told_PC)
    if kind == "classes":
        found["margin"] = margin(asked.told_PC)
    found["disagreement"] = disagreement(kind, asked.told_MPC, asked.asked_MP)
    if by == "disagreement" and np.isnan(found[by]).all():
        raise RequestError(
            "--by disagreement: one model alone has not seen each of these patients: train with --seeds 2 or more, or "
            "give new patients"
        )
    if by == "change":
        progress.begin("worklist", len(asked.ids), "patients")
        found[by] = np.array([_change(ensemble, asked, p, progress) for p in range(len(asked.ids))])
        progress.end()
    return found


def _change(ensemble: Ensemble, asked: _Asked, patient: int, progress: Progress) -> float:
    bags = [asked.cohort.bags[row] for row in asked.members[patient]]
    models = [own.model for own, fine in zip(ensemble.members, asked.asked_MP[:, patient], strict=True) if fine]
    told_C, device = asked.told_PC[patient], ensemble.compute.device
    value = float(np.mean([expected_change(model, bags, told_C, device) for model in models]))
    progress.advance(1)
    return value


def _points(asked: _Asked) -> Floats:
    """Return the patients' mean features (P, D), each in units of its deviation over the patients."""
    bags = [[asked.cohort.bags[row] for row in rows] for rows in asked.members]
    points_PD = np.array([np.mean([moments_of(np.asarray(bag)).mean_D for bag in own], axis=0) for own in bags])
    return np.asarray((points_PD - points_PD.mean(axis=0)) / np.maximum(points_PD.std(axis=0), 1e-6))


def _rows(
    run: RunFolder,
    asked: _Asked,
    scores: Mapping[str, Floats],
    truth: Known,
    order: list[int],
    near: list[float],
    by: str,
) -> str:
    ids, names = asked.cohort.image_ids, [f"p_{name}" for name in run.classes]
    head = ["rank", run.unit_column, "image_ids", "score", *scores, "distance", *names, "given", "fold"]
    rows = []
    for rank, (p, distance) in enumerate(zip(order, near, strict=True), start=1):
        slides = [ids[row] for row in asked.members[p]]
        numbers = [scores[by][p], *(own[p] for own in scores.values()), min(distance, 1.0), *asked.told_PC[p]]
        known = asked.folds_P[p] != _NEW
        given = next((truth.labels[own] for own in slides if own in truth.labels), "") if known else ""
        told = ["" if np.isnan(own) else f"{own:.6f}" for own in numbers]
        rows.append([rank, asked.ids[p], ";".join(slides), *told, given, int(asked.folds_P[p]) if known else ""])
    return csv_text([head, *rows])
