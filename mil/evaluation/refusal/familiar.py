"""Slides unlike all that a run was trained on: how far their mean features lie from those of the known slides.

The distance is the mean to the five nearest known slides of other patients, each feature in units of its spread among
the known slides (Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022). What is unlike is
decided by how far the known slides lie from each other: of n of them ``floor(0.01 (n + 1))`` may lie further off, so
that a slide like the known ones is called unlike with a probability of 1 % (conformal; of fewer than 99 known slides
with 1 / (n + 1), where none may).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from types import MappingProxyType

import numpy as np

from features.bags.bag import BagHeader
from mil.data.cohort import Cohort
from mil.data.same_tiles import AXES, filled, known_with, same_tiles, sketch_of
from mil.evaluation.probe import means_of
from mil.ragged.packing import BagRows
from mil.run.folder import RunFolder
from mil.run.known import KEPT_NOTHING, KnownSlides, read_known
from wsi.arrays import Floats, Ints
from wsi.pages import agreeing, plural
from wsi.recipe import Json

NEAREST = 5
REFUSED = 0.01
"""Share of slides like the known ones that may be called unlike."""
LEAST_KNOWN = 20
"""Slides below which nothing is called unlike: the furthest of few is not far."""
_LEAST_SPREAD = 0.05
"""Of a feature, as a share of the features' typical spread: one that hardly differs among the known says little."""
_SLACK = 1e-9
_ROWS = 1024
"""Slides compared with all known ones at once."""


def slides_known(
    cohort: Cohort,
    headers: Mapping[str, BagHeader],
    colours: Mapping[str, Floats],
    means: Mapping[str, Floats] = MappingProxyType({}),
    *,
    sketched: bool = False,
) -> KnownSlides | None:
    """Return what is kept of the slides that have tiles; None where none has.

    By image id: ``colours``; ``means`` as for `means_of`. ``sketched``: with sketches, for which every tile is read.
    """
    chosen = np.flatnonzero(cohort.usable_N).tolist()
    if not chosen:
        return None
    ids = [cohort.image_ids[i] for i in chosen]
    told = [headers.get(image_id) for image_id in ids]
    return KnownSlides(
        image_ids=tuple(ids),
        patient_ids=tuple(cohort.groups[i] for i in chosen),
        centers=tuple(cohort.center_ids[i] or "" for i in chosen),
        contents=tuple("" if own is None else own.content_sha256 for own in told),
        means_SD=np.stack(means_of(cohort, chosen, means)),
        mpp_S=np.array([np.nan if own is None else mpp_of(own) for own in told]),
        colour_SC=np.array([colours.get(image_id, np.full(3, np.nan)) for image_id in ids]),
        tiles_SKA=np.stack([filled(sketch_of(cohort.bags[i])) for i in chosen])
        if sketched
        else np.zeros((len(chosen), 0, AXES + 1)),
    )


def mpp_of(header: BagHeader) -> float:
    """Return the um/px of the slide's file, as its bag tells it; NaN where it does not."""
    tiling = header.recipe.get("tiling")
    found = tiling.get("slide_mpp") if isinstance(tiling, dict) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else float("nan")


@dataclass(frozen=True, slots=True)
class Familiar:
    """The known slides, ready to be compared with."""

    center_D: Floats
    spread_D: Floats
    points_SD: Floats
    """In units of the spread."""
    patients: tuple[str, ...]
    furthest: float
    """From this distance on a slide is unlike the known ones."""
    false_alarms: float
    """The chance that a slide like them is called unlike."""
    usual: float
    """How far half of the known slides lie from their nearest ones at the most."""

    def distances(self, means_ND: Floats) -> Floats:
        """Return how far slides (N,) lie from their nearest known ones."""
        return nearest_mean((means_ND - self.center_D) / self.spread_D, self.points_SD)

    def is_near(self, mean_D: Floats) -> bool:
        """Tell whether a slide lies nearer to a known one than most known ones to theirs: it may be of its tiles."""
        off_S = np.linalg.norm(self.points_SD - (mean_D - self.center_D) / self.spread_D, axis=1)
        return bool(off_S.min() < self.usual)


def familiar_of(known: KnownSlides) -> Familiar | None:
    """Return the known slides, ready to be compared with; None of fewer than `LEAST_KNOWN`, or of one patient."""
    if len(known) < LEAST_KNOWN or len(set(known.patient_ids)) < 2:
        return None
    center_D, spread_D = known.means_SD.mean(axis=0), known.means_SD.std(axis=0)
    spread_D = np.maximum(spread_D, max(_LEAST_SPREAD * float(np.sqrt(np.mean(spread_D**2))), 1e-12))
    points_SD = (known.means_SD - center_D) / spread_D
    owner_S = np.unique(np.array(known.patient_ids, dtype=object).astype(str), return_inverse=True)[1]
    own_S = nearest_mean(points_SD, points_SD, owner_S, owner_S)
    n = len(own_S)
    allowed = floor(REFUSED * (n + 1) + _SLACK)
    furthest = float(np.sort(own_S)[n - allowed]) if allowed else float(own_S.max())
    false_alarms, usual = max(allowed, 1) / (n + 1), float(np.median(own_S))
    return Familiar(center_D, spread_D, points_SD, known.patient_ids, furthest, false_alarms, usual)


def nearest_mean(
    asked_ND: Floats, known_SD: Floats, owner_N: Ints | None = None, owner_S: Ints | None = None
) -> Floats:
    """Return the mean Euclidean distance (N,) to the nearest known points, of other owners where they are given."""
    sizes_S, found = (known_SD**2).sum(axis=1), []
    for first in range(0, len(asked_ND), _ROWS):
        part_ND = asked_ND[first : first + _ROWS]
        squares_NS = (part_ND**2).sum(axis=1)[:, None] + sizes_S[None] - 2 * part_ND @ known_SD.T
        if owner_N is not None and owner_S is not None:
            squares_NS[owner_N[first : first + _ROWS][:, None] == owner_S[None]] = np.inf
        nearest = np.sort(np.partition(squares_NS, min(NEAREST, len(known_SD)) - 1, axis=1)[:, :NEAREST], axis=1)
        there = np.isfinite(nearest)
        distances = np.sqrt(np.maximum(np.where(there, nearest, 0.0), 0.0))
        found.append(distances.sum(axis=1) / np.maximum(there.sum(axis=1), 1))
    return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Which of some slides are unlike all that a run knows."""

    told: Json
    """JSON values; empty where it cannot be told."""
    notes: tuple[str, ...]
    """For a person."""


def against_known(run: RunFolder, asked: Cohort, means: Mapping[str, Floats]) -> tuple[dict[str, str], Alarm]:
    """Return slide -> the known slide whose tiles it holds, and which slides are unlike all known ones.

    ``means``: image id -> mean features, where they are known already; other slides are read for it.
    """
    asked = asked.by_patient() if run.recipe.get("aggregate") == "bag" else asked
    known = read_known(run.path)
    if known is None:
        return {}, Alarm({}, (f"slides unlike all known ones cannot be told: {KEPT_NOTHING}",))
    familiar, chosen = familiar_of(known), np.flatnonzero(asked.usable_N).tolist()
    means_of_ids = dict(zip((asked.image_ids[i] for i in chosen), means_of(asked, chosen, means), strict=True))
    bags = {asked.image_ids[i]: asked.bags[i] for i in chosen}
    return tiles_known(known, familiar, bags, means_of_ids), unlike_known(known, familiar, means_of_ids)


def unlike_known(known: KnownSlides, familiar: Familiar | None, means: Mapping[str, Floats]) -> Alarm:
    """Return which slides are further from the known ones than these are from each other, and what cannot be told."""
    if familiar is None:
        why = f"the run knows {plural(len(known), 'slide')}, expected {LEAST_KNOWN} or more, of two patients"
        return Alarm({}, (f"slides unlike all known ones cannot be told: {why}",))
    if not means:
        return Alarm({}, ())
    told = dict(zip(means, familiar.distances(np.stack([*means.values()])).tolist(), strict=True))
    unlike = [name for name, own in told.items() if own > familiar.furthest]
    notes = (about_unlike(unlike, len(told), len(known), familiar.false_alarms),) if unlike else ()
    return Alarm(
        {"threshold": familiar.furthest, "false_alarms": familiar.false_alarms, "distances": told, "unlike": unlike},
        notes,
    )


def tiles_known(
    known: KnownSlides, familiar: Familiar | None, bags: Mapping[str, BagRows], means: Mapping[str, Floats]
) -> dict[str, str]:
    """Return slide -> the known slide whose tiles it holds; only slides whose mean lies near a known one are read."""
    near = [name for name, own in means.items() if known.tiles_SKA.size and (familiar is None or familiar.is_near(own))]
    same = {name: known_with(sketch_of(bags[name]), known.tiles_SKA) for name in near}
    return {name: known.image_ids[own] for name, own in same.items() if own is not None}


def about_same_tiles(known: KnownSlides) -> list[str]:
    """Return a line for each two patients who have slides of the same tiles."""
    ids, patients = known.image_ids, known.patient_ids
    return [
        f"slides {ids[one]} (patient {patients[one]}) and {ids[other]} (patient {patients[other]}) hold the same tiles "
        f"({count} that were compared): if they are one slide, leave one out, as models trained on one told the other"
        for one, other, count in same_tiles(known.tiles_SKA, patients)
    ]


def about_unlike(unlike: Sequence[str], asked: int, known: int, by_chance: float) -> str:
    """Return what a person is told of slides unlike all known ones, of so many asked for and known."""
    shown = f"{', '.join(unlike[:10])}{' ...' if len(unlike) > 10 else ''}"
    return (
        f"{len(unlike)} of {plural(asked, 'slide')} {agreeing(len(unlike), 'are')} like none of the {known} known ones "
        f"(by chance {by_chance:.1%} would be): do not trust what is predicted of them: {shown}"
    )
