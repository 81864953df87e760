"""How another cohort differs from the one that a run was trained on: features, um/px, stain, centers, classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from features.bags.bag import BagHeader
from mil.data.cohort import Cohort
from mil.evaluation.baselines import mean_colours
from mil.evaluation.bootstrap import draw_groups
from mil.evaluation.decisions.called import exact_at_the_end
from mil.evaluation.probe import told_apart
from mil.evaluation.refusal.familiar import familiar_of, slides_known
from mil.run.known import KEPT_NOTHING, KnownSlides
from mil.targets.metrics import binary_auc, finite, percentile_interval
from wsi.arrays import Bools, Floats, Ints
from wsi.recipe import Json
from wsi.store.tile_store import TileStore

OTHER_SCALE = 0.1
"""Relative difference from which on two um/px are two."""
LEAST_PATIENTS = 10
"""On each side, for a model that tells the cohorts apart."""
_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class Shift:
    """What was compared, and what could not be."""

    told: Json
    notes: tuple[str, ...]


def shift_of(
    cohort: Cohort,
    headers: Mapping[str, BagHeader],
    stores: Sequence[TileStore],
    known: KnownSlides | None,
    seed: int,
    means: Mapping[str, Floats] = MappingProxyType({}),
) -> Shift:
    """Compare the slides of a cohort that have tiles with those that a run keeps of its training.

    ``means``: image id -> mean features, where they are known already.
    """
    colours, _ = mean_colours(cohort, stores)
    own = slides_known(cohort, headers, colours, means)
    if own is None:
        return Shift({}, ("no slide has tiles: nothing can be compared with the training",))
    if known is None:
        return Shift({}, (f"features, um/px and stain cannot be compared with the training: {KEPT_NOTHING}",))
    told: Json = {
        "slides": [len(known), len(own)],
        "features": _features(known, own, seed),
        "mpp": _mpp(known, own),
        "stain": _stain(known, own),
        "centers": _centers(known, own),
    }
    notes = []
    if told["mpp"] is None:
        notes.append("um/px of the slides is not compared: the bags of one cohort do not tell it")
    if told["stain"] is None:
        notes.append("stain is not compared: it needs tile stores (--stores) of both, in the training and here")
    if told["features"]["unlike"] is None:
        notes.append("the run knows too few slides to call any unlike them")
    return Shift(told, tuple(notes))


def _features(known: KnownSlides, own: KnownSlides, seed: int) -> Json:
    """Return how far mean features have moved, in units of their spread, and how well they tell the cohorts apart."""
    familiar = familiar_of(known)
    spread_D = np.sqrt((known.means_SD.var(axis=0) + own.means_SD.var(axis=0)) / 2)
    moved_D = np.abs(own.means_SD.mean(axis=0) - known.means_SD.mean(axis=0))
    fine_D = spread_D > 1e-9 * max(float(spread_D.max()), 1e-300)
    steps_D = moved_D[fine_D] / spread_D[fine_D]
    return {
        "moved_median": float(np.median(steps_D)) if len(steps_D) else 0.0,
        "moved_most": float(steps_D.max()) if len(steps_D) else 0.0,
        "unlike": None if familiar is None else _unlike(familiar.distances(own.means_SD) > familiar.furthest, own),
        "by_chance": None if familiar is None else familiar.false_alarms,
        "told_apart": _told_apart(known, own, seed),
    }


def _unlike(unlike_S: Bools, own: KnownSlides) -> Json:
    """Return the share of slides that are like none of the known ones, with its interval over patients."""
    share, patients = float(unlike_S.mean()), len(set(own.patient_ids))
    draws_BS = draw_groups(own.patient_ids, 0)
    low, high = percentile_interval(draws_BS @ unlike_S / draws_BS.sum(axis=1))
    if share in (0.0, 1.0):
        low, high = exact_at_the_end(share, patients)
    return finite({"value": share, "low": low, "high": high})


def _told_apart(known: KnownSlides, own: KnownSlides, seed: int) -> Json | None:
    """Return the AUC with which a patient's mean features tell the cohort, asked about patients not fitted on."""
    parts = [_of_patients(part) for part in (known, own)]
    if min(map(len, parts)) < LEAST_PATIENTS:
        return None
    labels_P = np.repeat(np.array([0, 1], np.int64), [len(part) for part in parts])
    scores_P = told_apart(np.concatenate(parts), labels_P, seed)[:, 1]
    draws_BP = draw_groups([str(i) for i in range(len(labels_P))], seed)
    together: Ints = np.zeros(len(labels_P), np.int64)
    areas_B = binary_auc(labels_P == 1, scores_P, np.concatenate([np.ones((1, len(labels_P))), draws_BP]), together)
    low, high = percentile_interval(areas_B[1:])
    return finite({"value": float(areas_B[0]), "low": low, "high": high})


def _of_patients(slides: KnownSlides) -> Floats:
    owners = np.array(slides.patient_ids, dtype=object)
    return np.stack([slides.means_SD[owners == patient].mean(axis=0) for patient in dict.fromkeys(slides.patient_ids)])


def _mpp(known: KnownSlides, own: KnownSlides) -> Json | None:
    """Return the um/px of both, and how many slides are of a scale that no known one has."""
    there, here = (part.mpp_S[np.isfinite(part.mpp_S)] for part in (known, own))
    if not len(there) or not len(here):
        return None
    off_S = np.abs(np.log(here[:, None] / there[None])).min(axis=1)
    ranges = [[float(part.min()), float(np.median(part)), float(part.max())] for part in (there, here)]
    return {"ranges": ranges, "new_scale": int((off_S > np.log1p(OTHER_SCALE)).sum()), "slides": len(here)}


def _stain(known: KnownSlides, own: KnownSlides) -> Json | None:
    """Return the mean tissue colour of both, 0 to 255, and by how much it has moved in units of its spread."""
    there, here = (part.colour_SC[np.isfinite(part.colour_SC).all(axis=1)] * 255 for part in (known, own))
    if len(there) < 2 or len(here) < 2:
        return None
    spread_C = np.sqrt((there.var(axis=0) + here.var(axis=0)) / 2)
    moved_C = (here.mean(axis=0) - there.mean(axis=0)) / np.where(spread_C > 0, spread_C, np.nan)
    return {
        "colours": list(_COLOURS),
        "means": [part.mean(axis=0).tolist() for part in (there, here)],
        "spreads": [part.std(axis=0).tolist() for part in (there, here)],
        "moved": [float(value) if np.isfinite(value) else None for value in moved_C],
        "slides": [len(there), len(here)],
    }


def _centers(known: KnownSlides, own: KnownSlides) -> Json:
    there, here = ({center for center in part.centers if center} for part in (known, own))
    return {"training": sorted(there), "here": sorted(here), "in_both": sorted(there & here)}
