"""From finished models to evidence: out-of-fold tables, metrics with intervals, calibration, baselines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from features.bags.bag import BagHeader
from mil.data.cohort import Cohort
from mil.evaluation.baselines import baselines, mean_colours
from mil.evaluation.bootstrap import REPLICATES, draw_groups, estimates
from mil.evaluation.centers.robustness import robustness_index
from mil.evaluation.oof import OutOfFold, Patients, collect, of_slides, patients_of, write_all_models, write_oof
from mil.evaluation.probe import center_probe, patient_means
from mil.evaluation.refusal.familiar import about_same_tiles, slides_known
from mil.run.evidence import CHOSEN
from mil.run.folder import NESTED, RunFolder
from mil.run.known import write_known
from mil.targets.base import Measure
from mil.targets.metrics import confusion, ones
from mil.training.options import TrainOptions
from wsi.arrays import Bools, Floats, Ints
from wsi.recipe import Json
from wsi.store.tile_store import TileStore


@dataclass(frozen=True, slots=True)
class Found:
    """What a run's models and the baselines tell of the patients."""

    cohort: Cohort
    folds: Ints
    patients: Patients
    own: OutOfFold
    told: dict[str, Floats]
    """Model or baseline -> what it tells (P, C), the run's own head first."""

    @property
    def scored_P(self) -> Bools:
        """Return who counts in the metrics."""
        return self.patients.usable_P | self.cohort.target.counts_unjudged


def evaluate(
    run: RunFolder,
    options: TrainOptions,
    cohort: Cohort,
    folds: Ints,
    stores: Sequence[TileStore],
    notes: Sequence[str],
    headers: Mapping[str, BagHeader] | None = None,
) -> None:
    """Write oof.csv, baselines/oof.csv, calibration.json, metrics.json, and known.safetensors.

    ``headers``: of the bags, by image id, for what the last one keeps beside their features.
    """
    patients = patients_of(cohort, folds)
    outs = {head: collect(run, head, cohort, folds, options) for head in options.heads}
    colours, colour_failures = mean_colours(cohort, stores)
    simpler = baselines(cohort, patients, colours)
    by_head = {head: oof.patient_told_PC for head, oof in outs.items()}
    told = {**by_head, **_chosen(run, options, by_head, patients), **simpler}
    found = Found(cohort, folds, patients, outs[options.head], told)
    warnings = [*notes, *(f"mean colour of {i}: {reason}" for i, reason in sorted(colour_failures.items()))]
    write_oof(run.path / "oof.csv", cohort, folds, patients, found.own)
    (run.path / "baselines").mkdir(exist_ok=True)
    write_all_models(run.path / "baselines" / "oof.csv", patients, told)
    run.write_json("calibration.json", _calibration(found))
    known = slides_known(cohort, headers or {}, colours, sketched=True)
    if known is not None:
        write_known(run.path, known)
        warnings += about_same_tiles(known)
    run.write_json("metrics.json", _metrics(options, found, warnings, stores))


def _chosen(
    run: RunFolder, options: TrainOptions, by_head: Mapping[str, Floats], patients: Patients
) -> dict[str, Floats]:
    """Return what the head tells that inner folds chose for each patient's fold, where they were asked."""
    if not options.nested:
        return {}
    told_PC = np.zeros_like(by_head[options.head])
    for choice in json.loads((run.path / NESTED).read_text("utf-8"))["choices"]:
        own_P = patients.folds_P == choice["fold"]
        told_PC[own_P] = by_head[choice["head"]][own_P]
    return {CHOSEN: told_PC}


def evidence_of(stores: Sequence[TileStore]) -> list[str]:
    """Return what the evaluation saw beside the bags: the stores' image ids."""
    return sorted(store.image_id for store in stores)


def _calibration(found: Found) -> Json:
    own = found.own
    if found.cohort.target.located:
        folds = [own.calibrations[fold].as_dict() for fold in sorted(own.calibrations)]
        return {**own.calibration.as_dict(), "folds": folds}
    if not found.cohort.target.calibrated:
        return own.calibration.as_dict()
    return {
        **own.calibration.as_dict(),
        "class_prior": "equal, by class-balanced training weights",
        "fitted_on": "out-of-fold patient logits; used by predict and for new slides",
        "folds": [own.calibrations[fold].as_dict() for fold in sorted(own.calibrations)],
        "folds_fitted_on": "out-of-fold patient logits of the other folds; used for the out-of-fold scores",
    }


def _metrics(options: TrainOptions, found: Found, warnings: Sequence[str], stores: Sequence[TileStore]) -> Json:
    cohort, patients, target = found.cohort, found.patients, found.patients.target
    means = patient_means(cohort, patients)
    return {
        "head": options.head,
        "classes": list(target.names),
        "slides": len(cohort),
        "patients": len(patients.ids),
        **target.counts(),
        **_unjudged(found),
        "unit": options.unit,
        "bootstrap": {"unit": "patient", "replicates": REPLICATES, "interval": "95 % BCa"},
        "models": metrics_of_models(found, options.seed),
        "slide_level": metrics_of_slides(found),
        **({"confusion": confusion(target.groups_N, found.own.patient_told_PC).tolist()} if target.groups else {}),
        "folds": [metrics_of_group(found, patients.folds_P == fold, fold=fold) for fold in range(options.folds)],
        "centers": [
            metrics_of_group(found, np.array([own == center for own in patients.centers]), center=center or "(none)")
            for center in sorted(set(patients.centers), key=lambda center: center or "")
        ],
        "center_probe": center_probe(means, patients, options.seed),
        "robustness_index": robustness_index(means, patients, options.seed),
        "seen_stores": evidence_of(stores),
        "warnings": list(warnings),
        "failures": dict(cohort.failures),
    }


def _unjudged(found: Found) -> Json:
    """Return how many count in the metrics, where not all do, and what is told of the others."""
    if found.cohort.target.counts_unjudged:
        return {}
    return {
        "target": found.cohort.target.kind,
        "patients_scored": int(found.scored_P.sum()),
        "default": found.patients.blind_PC.mean(axis=0).tolist(),
    }


def metrics_of_models(found: Found, seed: int) -> Json:
    """Return every metric with its interval, of every model and baseline; whole groups of patients are drawn."""
    groups = [group for group, scored in zip(found.patients.groups, found.scored_P, strict=True) if scored]
    draws = draw_groups(groups, seed)
    return {name: estimates(_measures(found, told_PC, found.scored_P), draws) for name, told_PC in found.told.items()}


def _measures(found: Found, told_PC: Floats, chosen_P: Bools) -> Mapping[str, Measure]:
    own = found.patients
    return own.target.of(chosen_P).measures(told_PC[chosen_P], own.folds_P[chosen_P], own.blind_PC[chosen_P])


def metrics_of_slides(found: Found) -> Json:
    """Return the metrics of the slides, each by itself."""
    cohort, scored_S = found.cohort, found.cohort.usable_N | found.cohort.target.counts_unjudged
    blind_SC = of_slides(found.patients.blind_PC, found.patients, cohort)
    told_SC = found.own.slide_told_SC[scored_S]
    measures = cohort.target.of(scored_S).measures(told_SC, found.folds[scored_S], blind_SC[scored_S])
    return {name: _value(measure, int(scored_S.sum())) for name, measure in measures.items()}


def _value(measure: Measure, size: int) -> float | None:
    value = float(measure(ones(size))[0]) if size else np.nan
    return value if isfinite(value) else None


def metrics_of_group(found: Found, chosen_P: Bools, **name: Any) -> Json:
    """Return counts and the first metrics of some patients; None where one is not defined, as a class is missing."""
    scored_P = chosen_P & found.scored_P
    measures = _measures(found, found.own.patient_told_PC, scored_P)
    shown = {key: _value(measures[key], int(scored_P.sum())) for key in reversed(found.cohort.target.shown)}
    return {**name, "patients": int(chosen_P.sum()), **found.patients.target.of(chosen_P).counts(), **shown}


def heat_map_folder(run: RunFolder) -> Path:
    """Return where the report's example heat maps lie."""
    return run.path / "heatmaps"
