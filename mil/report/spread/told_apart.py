"""The uncertainties of a run, told apart: over patients, over divisions and seeds, over centers; and the other looks.

One interval cannot answer for all of them. Patients are drawn anew with the models fixed; folds (and repeats, where the
run is one of them) say what other training sets would have given; centers what another center would give.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mil.evaluation.bootstrap import draw_groups, estimate
from mil.evaluation.centers.prior import told_by_center
from mil.evaluation.centers.within import within_centers
from mil.evaluation.spread.multiplicity import against_chance, bonferroni, deals_of
from mil.evaluation.spread.resampled import POOLED, fold_values, ranking_metric, resampled
from mil.evaluation.spread.verdicts import verdict_of_repeats
from mil.run.beside import REPEATS, is_repeat, runs_beside
from mil.run.evidence import Evidence
from mil.run.folder import RunFolder
from mil.run.protocol import WHOLE_CENTERS
from mil.targets.base import Measure, Target
from wsi.arrays import Bools, Floats, Ints
from wsi.recipe import Json


def told_apart(evidence: Evidence) -> Json:
    """Return what spread.json holds: every uncertainty of the run's own head, of the metric that compares patients.

    Ends of intervals stay within what the metric can be.
    """
    chosen_P, recipe = evidence.scored_P, evidence.config["recipe"]
    seed, truth = int(recipe.get("seed", 0)), evidence.truth.of(chosen_P)
    told_PC, folds_P = evidence.told[evidence.head][chosen_P], evidence.folds_P[chosen_P]
    centers = [row["center_id"] for row, own in zip(evidence.patients, chosen_P, strict=True) if own]
    groups = [group for group, own in zip(evidence.groups, chosen_P, strict=True) if own]
    draws_BP, blind_PC = draw_groups(groups, seed), truth.blind(folds_P)
    names = list(truth.measures(told_PC, folds_P, blind_PC))
    first = ranking_metric(names)

    def measure_in(strata_P: Ints) -> Measure:
        return truth.measures(told_PC, strata_P, blind_PC)[first]

    measure = measure_in(folds_P)
    values_K = fold_values(measure, folds_P)
    ratio = 1 / (int(recipe["folds"]) - 1)
    averaged = resampled(values_K, ratio)
    found: Json = {
        "metric": first,
        "patients": estimate(measure, draws_BP, pairs=True),
        "pooled": estimate(truth.measures(told_PC, folds_P, blind_PC)[f"{first}{POOLED}"], draws_BP, pairs=True),
        "folds": None if averaged is None else {**averaged.told(), "values": [_plain(own) for own in values_K]},
        "repeats": _repeats(evidence.run, first, ratio),
        "whole_centers": recipe.get("split") in WHOLE_CENTERS,
        "centers": within_centers(measure_in, truth, centers, folds_P, draws_BP),
        "center_prior": told_by_center(truth, told_PC, centers, folds_P, draws_BP),
        "looks": _looks(evidence, truth, told_PC, folds_P, first, seed),
        "balance": balance(truth, evidence.classes, folds_P),
    }
    repeats, centers_told = found["repeats"] or {}, found["centers"] or {}
    hold_within(first, found["folds"], repeats.get("over_folds"), centers_told.get("over_centers"))
    return found


def hold_within(metric: str, *told: Json | None) -> None:
    """Hold the ends of intervals within what the metric can be: at most 1, and at least 0, or of ranks -1."""
    least = -1.0 if metric == "spearman" else 0.0
    for own in told:
        for end in ("low", "high", "next_low", "next_high"):
            if own is not None and own.get(end) is not None:
                own[end] = min(1.0, max(least, own[end]))


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _looks(evidence: Evidence, truth: Target, told_PC: Floats, folds_P: Ints, first: str, seed: int) -> Json:
    beside = runs_beside(evidence.run)
    p = against_chance(truth, told_PC, folds_P, first, seed)
    return {
        "runs": beside.looks,
        "names": list(beside.names),
        "p": p,
        "corrected_p": None if p is None else bonferroni(p, beside.looks),
        "deals": deals_of(truth, first, len(folds_P)),
    }


def _repeats(run: RunFolder, metric: str, ratio: float) -> Json | None:
    """Return how the repeats differ that the run is one of, as far as they are finished; None of fewer than two."""
    if not is_repeat(run.path.resolve()):
        return None
    return spread_of_repeats(run.path.resolve().parent, metric, ratio)


def spread_of_repeats(folder: Path, metric: str, ratio: float) -> Json | None:
    """Return mean, deviation and extremes over repeats, and the interval over all folds; None of fewer than two."""
    path = folder / REPEATS
    if not path.exists():
        return None
    values = [own for own in json.loads(path.read_text("utf-8")).get(metric, {}).get("repeats", []) if own is not None]
    if len(values) < 2:
        return None
    runs = [RunFolder(own.parent) for own in sorted(folder.glob("repeat*/metrics.json"))]
    by_fold = [fold.get(metric) for run in runs for fold in run.read_json("metrics.json")["folds"]]
    known_J = np.array([np.nan if own is None else own for own in by_fold], np.float64)
    found = resampled(known_J, ratio)
    return {
        "repeats": len(values),
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)),
        "least": min(values),
        "most": max(values),
        "over_folds": None if found is None else found.told(),
    }


def verdict_of_folder(folder: Path) -> str:
    """Return what the repeats in a folder of `train --repeats` say together; empty where fewer than two tell anything.

    Of the metric that compares patients with each other.
    """
    run = RunFolder(folder / "repeat0")
    table = json.loads((folder / REPEATS).read_text("utf-8"))
    first = ranking_metric(table) if table else ""
    spread = spread_of_repeats(folder, first, 1 / (int(run.recipe["folds"]) - 1))
    if spread is None:
        return ""
    hold_within(first, spread["over_folds"])
    return verdict_of_repeats(spread, run.predicts)


def balance(truth: Target, classes: Sequence[str], folds_P: Ints) -> list[Json]:
    """Return each class's share of all patients, and the least and greatest share of a fold; none without classes."""
    if not truth.groups:
        return []
    folds: list[Bools] = [folds_P == fold for fold in np.unique(folds_P)]
    rows = []
    for number, name in enumerate(classes):
        shares = [float((truth.groups_N[own] == number).mean()) for own in folds]
        whole = float((truth.groups_N == number).mean())
        rows.append({"class": name, "share": whole, "least": min(shares), "most": max(shares)})
    return rows
