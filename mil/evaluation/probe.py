"""The center probe: how well features tell where a slide was made.

A logistic regression on the mean features of each patient, asked about patients that it was not fitted on. What it
finds a head can find, too: where center and class go together, a good score may be the center.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np

from mil.data.cohort import Cohort
from mil.evaluation.bootstrap import draw_patients, estimate
from mil.evaluation.oof import Patients
from mil.ragged.packing import BagRows
from mil.targets.metrics import balanced_accuracy
from wsi.arrays import Floats, Ints
from wsi.recipe import Json

LEAST_PATIENTS = 5
"""Of a center, to take part."""
ROWS = 1000
"""Tiles of a bag that are looked at, evenly spread."""
COMPONENTS = 32
PARTS = 5


def center_probe(means: Sequence[Floats | None], patients: Patients, seed: int) -> Json | None:
    """Return balanced accuracy with its interval, chance, and the numbers of centers and patients.

    None where fewer than two centers have five patients with tiles. ``means``: `patient_means`.
    """
    counts = Counter(center for center, own in zip(patients.centers, means, strict=True) if center and own is not None)
    centers = sorted(center for center, count in counts.items() if count >= LEAST_PATIENTS)
    if len(centers) < 2:
        return None
    chosen = [p for p, own in enumerate(means) if own is not None and patients.centers[p] in centers]
    features_PD = np.stack([own for own in (means[p] for p in chosen) if own is not None])
    labels_P = np.array([centers.index(str(patients.centers[p])) for p in chosen], np.int64)
    probs_PC = told_apart(features_PD, labels_P, seed)
    found = estimate(partial(balanced_accuracy, labels_P, probs_PC), draw_patients(len(chosen), seed))
    return {"centers": len(centers), "patients": len(chosen), "chance": 1 / len(centers), "balanced_accuracy": found}


def patient_means(
    cohort: Cohort, patients: Patients, means: Mapping[str, Floats] = MappingProxyType({})
) -> list[Floats | None]:
    """Return the mean features (D,) of each patient's slides, each counted once; None of who has no tiles.

    ``means``: as for `means_of`.
    """
    own: dict[str, list[Floats]] = {}
    chosen = np.flatnonzero([len(bag) > 0 for bag in cohort.bags]).tolist()
    for i, mean_D in zip(chosen, means_of(cohort, chosen, means), strict=True):
        own.setdefault(cohort.patient_ids[i], []).append(mean_D)
    return [np.mean(own[patient], axis=0) if patient in own else None for patient in patients.ids]


def mean_of(bag: BagRows) -> Floats:
    """Return the mean features (D,) of a bag, of at most `ROWS` tiles, evenly spread."""
    rows = np.unique(np.linspace(0, len(bag) - 1, min(ROWS, len(bag))).astype(np.int64))
    return np.asarray(np.asarray(bag[rows]).mean(axis=0, dtype=np.float64))


def means_of(cohort: Cohort, chosen: Sequence[int], means: Mapping[str, Floats]) -> list[Floats]:
    """Return the mean features (D,) of bags of a cohort: by image id where they are known, else read for it."""
    known_or_read = (means.get(cohort.image_ids[i]) for i in chosen)
    return [mean_of(cohort.bags[i]) if own is None else own for i, own in zip(chosen, known_or_read, strict=True)]


def told_apart(features_PD: Floats, labels_P: Ints, seed: int) -> Floats:
    """Return probabilities of the labels (P, C), centers or what else, each patient's by a model of the others."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probs_PC = np.zeros((len(labels_P), int(labels_P.max()) + 1))
    parts = StratifiedKFold(PARTS, shuffle=True, random_state=seed)
    for train, test in parts.split(features_PD, labels_P):
        components = min(COMPONENTS, len(train) - 1, features_PD.shape[1])
        model = make_pipeline(
            StandardScaler(),
            PCA(components, random_state=seed),
            LogisticRegression(class_weight="balanced", C=0.1, max_iter=1000),
        )
        with warnings.catch_warnings(action="ignore"):  # columns without spread, and fits that end early
            model.fit(features_PD[train], labels_P[train])
        probs_PC[test] = model.predict_proba(features_PD[test])
    return probs_PC
