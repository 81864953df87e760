"""The robustness index: whether the nearest neighbours of a patient share the class, or the center.

Among each patient's nearest neighbours those count that share one of the two only: SO share the class and come from
another center, OS are of another class and share the center. The index is SO / (SO + OS) over all patients: 1 where
features hold the class alone, 0 where they hold the center alone. Source: Koemen et al., Towards Robust Foundation
Models for Digital Pathology (PathoROB), arXiv 2507.17845; there on balanced pairs of classes and centers, patch by
patch. Here cohorts are as they come, on the mean features of patients: beside the index stands what neighbours drawn by
chance would give, which is not a half where classes and centers are of different sizes or go together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil.evaluation.bootstrap import draw_groups
from mil.evaluation.oof import Patients
from mil.targets.metrics import finite, percentile_interval
from wsi.arrays import Floats, Ints
from wsi.recipe import Json

NEIGHBOURS = 10
LEAST_PATIENTS = 20


@dataclass(frozen=True, slots=True)
class Shared:
    """Who shares what with each patient, among the neighbours and among all others; (P,) each."""

    class_only_P: Floats
    center_only_P: Floats
    by_chance_class_P: Floats
    by_chance_center_P: Floats

    def index(self, weights_BP: Floats) -> Floats:
        """Return SO / (SO + OS), (B,), of patients who count by weights; NaN where no neighbour shares one alone."""
        so, os = weights_BP @ self.class_only_P, weights_BP @ self.center_only_P
        return np.asarray(so / np.where(so + os > 0, so + os, np.nan))

    @property
    def chance(self) -> float:
        """Return the index of neighbours drawn by chance."""
        so, os = float(self.by_chance_class_P.sum()), float(self.by_chance_center_P.sum())
        return so / (so + os) if so + os else float("nan")


def neighbours_share(features_PD: Floats, classes_P: Ints, centers_P: Ints, groups_P: Ints, k: int) -> Shared:
    """Return what the ``k`` nearest by the cosine share; nobody is a neighbour of a patient of the same group."""
    norms = np.linalg.norm(features_PD, axis=1, keepdims=True)
    unit_PD = features_PD / np.where(norms > 0, norms, 1)
    near_PP = unit_PD @ unit_PD.T
    other_PP = groups_P[:, None] != groups_P[None]
    near_PP[~other_PP] = -np.inf
    nearest_PK = np.argsort(-near_PP, axis=1, kind="stable")[:, :k]
    taken_PP = np.zeros(near_PP.shape, bool)
    np.put_along_axis(taken_PP, nearest_PK, values=True, axis=1)
    taken_PP &= other_PP
    alike_PP, home_PP = classes_P[:, None] == classes_P[None], centers_P[:, None] == centers_P[None]
    class_only, center_only = alike_PP & ~home_PP, ~alike_PP & home_PP
    return Shared(
        (taken_PP & class_only).sum(axis=1).astype(np.float64),
        (taken_PP & center_only).sum(axis=1).astype(np.float64),
        (other_PP & class_only).sum(axis=1).astype(np.float64),
        (other_PP & center_only).sum(axis=1).astype(np.float64),
    )


def robustness_index(means: Sequence[Floats | None], patients: Patients, seed: int) -> Json | None:
    """Return the index with its interval over patients, and by chance; None where it means nothing.

    ``means``: the mean features of each patient, None of who has no tiles. Features are standardised first: one of
    large numbers would else decide alone. None of targets without classes, of fewer than `LEAST_PATIENTS` with a
    center, or where class and center say the same.
    """
    target = patients.target
    chosen = [p for p, own in enumerate(means) if own is not None and patients.centers[p]]
    if not target.groups or len(chosen) < LEAST_PATIENTS:
        return None
    features_PD = np.stack([own for own in (means[p] for p in chosen) if own is not None])
    features_PD = (features_PD - features_PD.mean(axis=0)) / (features_PD.std(axis=0) + 1e-9)
    groups = [patients.groups[p] for p in chosen]
    classes_P = target.groups_N[chosen]
    centers_P, groups_P = (_numbers([str(patients.centers[p]) for p in chosen]), _numbers(groups))
    shared = neighbours_share(features_PD, classes_P, centers_P, groups_P, NEIGHBOURS)
    if not 0 < shared.chance < 1:
        return None
    low, high = percentile_interval(shared.index(draw_groups(groups, seed)))
    value = float(shared.index(np.ones((1, len(chosen))))[0])
    told = finite({"value": value, "low": low, "high": high})
    return {"neighbours": NEIGHBOURS, "patients": len(chosen), "chance": shared.chance, "index": told}


def _numbers(names: Sequence[str]) -> Ints:
    return np.asarray(np.unique(np.array(names), return_inverse=True)[1], np.int64)
