"""The uncertainties of a run on another cohort, told apart as far as they can be there.

Patients are drawn anew with the models fixed. The folds of the training gave models of several training sets, which all
judge the same new patients: how far they lie apart is told as it is, without an interval, as they share most of what
they were trained on. Centers are those of the new cohort; of none of them need the models know anything.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from mil.evaluation.bootstrap import draw_groups, estimate
from mil.evaluation.centers.prior import told_by_known_center
from mil.evaluation.centers.within import within_centers
from mil.evaluation.spread.multiplicity import against_chance, bonferroni, deals_of
from mil.evaluation.spread.resampled import ranking_metric
from mil.report.spread.told_apart import hold_within
from mil.run.evidence import Evidence
from mil.targets.base import Measure
from mil.targets.metrics import ones
from wsi.arrays import Floats, Ints
from wsi.recipe import Json


def told_elsewhere(other: Evidence, own: Evidence, told_FPC: Floats, blind_PC: Floats, beside: Collection[str]) -> Json:
    """Return every uncertainty of the metric that compares patients, on another cohort.

    Parameters
    ----------
    other, own
        What the run tells of the other cohort, and of its own patients.
    told_FPC
        What the models of each fold of the training tell of the new patients.
    blind_PC
        What is said of them without looking.
    beside
        Names of the other evaluations of this cohort in the same folder.
    """
    chosen_P = other.scored_P
    seed, truth = int(own.config["recipe"].get("seed", 0)), other.truth.of(chosen_P)
    told_PC, one_P = other.told[other.head][chosen_P], np.zeros(int(chosen_P.sum()), np.int64)
    groups = [group for group, fine in zip(other.groups, chosen_P, strict=True) if fine]
    centers = [row["center_id"] for row, fine in zip(other.patients, chosen_P, strict=True) if fine]
    draws_BP, blind_PC = draw_groups(groups, seed), blind_PC[chosen_P]
    first = ranking_metric(truth.measures(told_PC, one_P, blind_PC))

    def measure_of(answers_PC: Floats) -> Callable[[Ints], Measure]:
        return lambda strata_P: truth.measures(answers_PC, strata_P, blind_PC)[first]

    p = against_chance(truth, told_PC, one_P, first, seed, blind_PC)
    looks = 1 + len(beside)
    found: Json = {
        "metric": first,
        "patients": estimate(measure_of(told_PC)(one_P), draws_BP, pairs=True),
        "folds": _apart([float(measure_of(fold_PC[chosen_P])(one_P)(ones(len(one_P)))[0]) for fold_PC in told_FPC]),
        "learnt_centers": sorted({*filter(None, centers)} & {row["center_id"] for row in own.patients}),
        "centers": within_centers(measure_of(told_PC), truth, centers, one_P, draws_BP),
        "center_prior": _prior(other, own, told_PC, centers, draws_BP),
        "looks": {
            "runs": looks,
            "names": sorted(beside),
            "p": p,
            "corrected_p": None if p is None else bonferroni(p, looks),
            "deals": deals_of(truth, first, len(one_P)),
        },
    }
    hold_within(first, (found["centers"] or {}).get("over_centers"))
    return found


def _apart(values_F: Sequence[float]) -> Json | None:
    """Return how far the values lie apart that each fold's models reach; None where one is not defined."""
    if not np.isfinite(values_F).all():
        return None
    deviation = float(np.std(values_F, ddof=1))
    return {"values": list(values_F), "least": min(values_F), "most": max(values_F), "deviation": deviation}


def _prior(other: Evidence, own: Evidence, told_PC: Floats, centers: Sequence[str], draws_BP: Floats) -> Json | None:
    """Return what the shares that the run's own patients have center by center would change."""
    if not own.truth.groups:
        return None
    known_P = own.scored_P
    theirs = [row["center_id"] for row, fine in zip(own.patients, known_P, strict=True) if fine]
    truth = other.truth.of(other.scored_P)
    return told_by_known_center(own.truth.of(known_P).groups_N, theirs, truth, told_PC, centers, draws_BP)
