"""From finished models to evidence: out-of-fold tables, metrics with intervals, calibration, baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from mil.data.cohort import Cohort
from mil.evaluation.baselines import center_only, class_prior, constant, mean_colour, mean_colours
from mil.evaluation.bootstrap import REPLICATES, Estimate, draw_groups, estimate_all
from mil.evaluation.oof import OutOfFold, Patients, collect, patients_of, write_all_models, write_oof
from mil.evaluation.probe import center_probe
from mil.run.folder import RunFolder
from mil.targets.metrics import Floats, Ints, confusion, finite, metrics_of, ones
from mil.training.options import TrainOptions
from wsi.store.tile_store import TileStore

Json = dict[str, Any]


def evaluate(
    run: RunFolder,
    options: TrainOptions,
    cohort: Cohort,
    folds: Ints,
    stores: Sequence[TileStore],
    notes: Sequence[str],
) -> list[str]:
    """Write oof.csv, baselines/oof.csv, calibration.json and metrics.json; return the warnings stored in them."""
    patients = patients_of(cohort, folds)
    outs = {head: collect(run, head, cohort, folds, options) for head in options.heads}
    own = outs[options.head]
    probs, colour_failures = _all_probabilities(cohort, patients, outs, stores)
    warnings = [*notes, *(f"mean colour of {i}: {reason}" for i, reason in sorted(colour_failures.items()))]
    write_oof(run.path / "oof.csv", cohort, folds, patients, own)
    (run.path / "baselines").mkdir(exist_ok=True)
    write_all_models(run.path / "baselines" / "oof.csv", patients, cohort.classes, probs)
    run.write_json("calibration.json", _calibration(own))
    run.write_json("metrics.json", _metrics(options, cohort, folds, patients, own, probs, warnings, stores))
    return warnings


def evidence_of(stores: Sequence[TileStore]) -> list[str]:
    """Return what the evaluation saw beside the bags: the stores' image ids."""
    return sorted(store.image_id for store in stores)


def _all_probabilities(
    cohort: Cohort, patients: Patients, outs: Mapping[str, OutOfFold], stores: Sequence[TileStore]
) -> tuple[dict[str, Floats], dict[str, str]]:
    n_classes = len(cohort.classes)
    probs = {head: oof.patient_probs_PC for head, oof in outs.items()}
    wanted = [store for store in stores if store.image_id in set(cohort.image_ids)]
    colours, failures = mean_colours(wanted)
    if colours:
        probs["mean_colour"] = mean_colour(cohort, patients, colours)
    by_center = center_only(patients, n_classes)
    if by_center is not None:
        probs["center_only"] = by_center
    probs["class_prior"] = class_prior(patients, n_classes)
    probs["constant"] = constant(patients, n_classes)
    return probs, failures


def _calibration(own: OutOfFold) -> Json:
    return {
        **own.calibration.as_dict(),
        "class_prior": "equal, by class-balanced training weights",
        "fitted_on": "out-of-fold patient logits; used by predict and for new slides",
        "folds": [own.calibrations[fold].as_dict() for fold in sorted(own.calibrations)],
        "folds_fitted_on": "out-of-fold patient logits of the other folds; used for the out-of-fold scores",
    }


def _metrics(
    options: TrainOptions,
    cohort: Cohort,
    folds: Ints,
    patients: Patients,
    own: OutOfFold,
    probs: Mapping[str, Floats],
    warnings: Sequence[str],
    stores: Sequence[TileStore],
) -> Json:
    draws = draw_groups(patients.groups, options.seed)
    own_probs = own.patient_probs_PC
    slide_weights = ones(len(cohort))
    return {
        "head": options.head,
        "classes": list(cohort.classes),
        "slides": len(cohort),
        "patients": len(patients.ids),
        "patients_per_class": np.bincount(patients.labels_P, minlength=len(cohort.classes)).tolist(),
        "unit": options.unit,
        "bootstrap": {"unit": "patient", "replicates": REPLICATES, "interval": "95 % percentile"},
        "models": {name: _estimates(patients, table, draws) for name, table in probs.items()},
        "slide_level": {
            name: _number(float(metric(cohort.labels_N, own.slide_probs_SC, slide_weights)[0]))
            for name, metric in metrics_of(folds).items()
        },
        "confusion": confusion(patients.labels_P, own_probs).tolist(),
        "folds": [_group(patients, own_probs, patients.folds_P == fold, fold=fold) for fold in range(options.folds)],
        "centers": [
            _group(
                patients, own_probs, np.array([own == center for own in patients.centers]), center=center or "(none)"
            )
            for center in sorted(set(patients.centers), key=lambda center: center or "")
        ],
        "center_probe": center_probe(cohort, patients, options.seed),
        "seen_stores": evidence_of(stores),
        "warnings": list(warnings),
        "failures": dict(cohort.failures),
    }


def _estimates(patients: Patients, probs_PC: Floats, draws: Floats) -> Json:
    found = estimate_all(patients.labels_P, probs_PC, draws, metrics_of(patients.folds_P))
    return {name: _finite(estimate) for name, estimate in found.items()}


def _finite(estimate: Estimate) -> Json:
    return finite(asdict(estimate))


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _group(patients: Patients, probs_PC: Floats, chosen_P: np.ndarray[Any, np.dtype[np.bool_]], **name: Any) -> Json:
    """Return counts, AUC and weighted log loss of some patients; None where a class is missing among them."""
    labels, probs = patients.labels_P[chosen_P], probs_PC[chosen_P]
    weights, metrics = ones(len(labels)), metrics_of(patients.folds_P[chosen_P])
    return {
        **name,
        "patients": len(labels),
        "patients_per_class": np.bincount(labels, minlength=probs.shape[1]).tolist(),
        **{key: _number(float(metrics[key](labels, probs, weights)[0])) for key in ("weighted_log_loss", "auc")},
    }


def heat_map_folder(run: RunFolder) -> Path:
    """Return where the report's example heat maps lie."""
    return run.path / "heatmaps"
