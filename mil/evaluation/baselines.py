"""What a model has to beat: predictions that need no look at the tissue's structure, on the same folds."""

from collections.abc import Mapping, Sequence

import numpy as np

from mil.data.cohort import Cohort
from mil.evaluation.oof import Patients, nobody
from mil.run.scores import patient_logits
from mil.targets.calibration import Calibration
from wsi.arrays import Floats
from wsi.errors import StoreError
from wsi.store.tile_store import TileStore


def baselines(cohort: Cohort, patients: Patients, colours: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return what each baseline tells of the patients (P, C).

    ``mean_colour``: a linear model on each slide's mean tissue colour, given some; ``center_only``: nothing but where
    the slide was made, given two centers; then what the target says without looking at anything.
    """
    told = {"mean_colour": mean_colour(cohort, patients, colours)} if colours else {}
    by_center = patients.target.by_center(patients.centers, patients.folds_P)
    if by_center is not None:
        told["center_only"] = by_center
    return told | patients.target.constants(patients.blind_PC)


def mean_colours(cohort: Cohort, stores: Sequence[TileStore]) -> tuple[dict[str, Floats], dict[str, str]]:
    """Return the mean tissue colour (3,) in [0, 1] of the cohort's slides by image id, and why stores are not read."""
    colours: dict[str, Floats] = {}
    failures: dict[str, str] = {}
    wanted = set(cohort.image_ids)
    for store in stores:
        if store.image_id not in wanted:
            continue
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
    """Return what a linear model on each slide's mean tissue colour tells (P, C), out of fold.

    A patient without a colour gets what is told of anybody.
    """
    fold_of = dict(zip(patients.ids, patients.folds_P.tolist(), strict=True))
    folds = np.array([fold_of[patient] for patient in cohort.patient_ids])
    known = np.array([image_id in colours for image_id in cohort.image_ids])
    rgb_SC = np.array([colours.get(image_id, np.zeros(3)) for image_id in cohort.image_ids])
    outputs_SC, told_S = np.zeros((len(cohort), len(cohort.target.names))), np.zeros(len(cohort), bool)
    for fold in np.unique(folds):
        train, test = known & (folds != fold), known & (folds == fold)
        found = cohort.target.of(train).linear(rgb_SC[train], rgb_SC[test]) if test.any() and train.any() else None
        if found is not None:
            outputs_SC[test], told_S[test] = found, True
    outputs_PC = patient_logits(outputs_SC, cohort.patient_ids, told_S)[1]
    known_P = np.isin(patients.ids, np.array(cohort.patient_ids)[told_S])
    return np.where(known_P[:, None], cohort.target.told(outputs_PC, Calibration()), nobody(patients))
