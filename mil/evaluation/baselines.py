"""What a model has to beat: predictions that need no look at the tissue's structure, on the same folds."""

from collections.abc import Mapping, Sequence

import numpy as np

from mil.data.cohort import Cohort
from mil.evaluation.oof import Patients
from mil.run.scores import patient_logits
from mil.targets.metrics import Floats, one_hot, softmax
from wsi.errors import StoreError
from wsi.store.tile_store import TileStore

TITLES = {
    "constant": "Constant (equal probabilities)",
    "class_prior": "Class prior (frequency in the training folds)",
    "center_only": "Center only (nothing but where the slide was made)",
    "mean_colour": "Mean colour of the tissue, logistic regression",
}


def constant(patients: Patients, n_classes: int) -> Floats:
    """Return equal probabilities (P, C)."""
    return np.full((len(patients.ids), n_classes), 1 / n_classes)


def class_prior(patients: Patients, n_classes: int) -> Floats:
    """Return the class frequencies among the patients of the other folds (P, C)."""
    member_PC = one_hot(patients.labels_P, n_classes)
    return np.stack([member_PC[patients.folds_P != fold].mean(axis=0) for fold in patients.folds_P])


def center_only(patients: Patients, n_classes: int) -> Floats | None:
    """Return class probabilities given the center, from the other folds, with equal class priors; None without centers.

    One patient of each class is added to every center (Laplace), so an unseen center gets equal probabilities.
    """
    if len({center for center in patients.centers if center}) < 2:
        return None
    member_PC = one_hot(patients.labels_P, n_classes)
    centers = np.array([center or "" for center in patients.centers], dtype=object)
    probs = np.zeros_like(member_PC)
    for p, fold in enumerate(patients.folds_P):
        others = patients.folds_P != fold
        prior = np.maximum(member_PC[others].mean(axis=0), 1e-9)
        counts = member_PC[others & (centers == centers[p])].sum(axis=0)
        share = (counts + n_classes * prior) / prior
        probs[p] = share / share.sum()
    return probs


def mean_colours(stores: Sequence[TileStore]) -> tuple[dict[str, Floats], dict[str, str]]:
    """Return the mean tissue colour (3,) in [0, 1] by image id, and why stores could not be read."""
    colours: dict[str, Floats] = {}
    failures: dict[str, str] = {}
    for store in stores:
        try:
            rgb_HWC, mask_HW = store.overview(512), store.tissue_mask()[0] > 0
        except (StoreError, OSError, ValueError, KeyError) as error:
            failures[store.image_id] = str(error)
            continue
        rows = np.arange(rgb_HWC.shape[0]) * mask_HW.shape[0] // rgb_HWC.shape[0]
        columns = np.arange(rgb_HWC.shape[1]) * mask_HW.shape[1] // rgb_HWC.shape[1]
        tissue_HW = mask_HW[rows[:, None], columns[None]] & (rgb_HWC < 255).any(axis=2)
        if tissue_HW.any():
            colours[store.image_id] = rgb_HWC[tissue_HW].mean(axis=0) / 255
    return colours, failures


def mean_colour(cohort: Cohort, patients: Patients, colours: Mapping[str, Floats]) -> Floats:
    """Return out-of-fold probabilities (P, C) of a logistic regression on each slide's mean tissue colour.

    A slide without a colour gets equal probabilities.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fold_of = dict(zip(patients.ids, patients.folds_P.tolist(), strict=True))
    folds = np.array([fold_of[patient] for patient in cohort.patient_ids])
    known = np.array([image_id in colours for image_id in cohort.image_ids])
    rgb_SC = np.array([colours.get(image_id, np.zeros(3)) for image_id in cohort.image_ids])
    logits_SC = np.zeros((len(cohort), len(cohort.classes)))
    for fold in np.unique(folds):
        train, test = known & (folds != fold), known & (folds == fold)
        if not test.any() or len(np.unique(cohort.labels_N[train])) < len(cohort.classes):
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        model.fit(rgb_SC[train], cohort.labels_N[train])
        logits_SC[test] = model.predict_log_proba(rgb_SC[test])
    return softmax(patient_logits(logits_SC, cohort.patient_ids, known)[1])
