"""Bags joined with the manifest: which slides there are, whose they are, what is true of them, and their features.

A slide whose bag is missing, damaged or empty stays in the cohort with zero instances: it is named, never trained on,
and told what is best said of anybody.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.bags.bag import BagHeader, content_sha256, feature_rows, find_bags, read_header
from features.bags.rows import FollowingRows, LazyRows
from mil.ragged.packing import BagRows, Rows
from mil.targets import Target
from wsi.arrays import Bools
from wsi.cohort.manifest import ManifestRow
from wsi.errors import BagError, RequestError
from wsi.recipe import Recipe, differences, recipe_hash

SLIDE_FACTS = frozenset({"slide", "slide_mpp", "reader", "assume_mpp", "on_damage", "effect"})
"""Fields of a tiling recipe that differ from slide to slide within one cohort."""
NEAR_MPP = 1.1
"""Ratio up to which two um/px are one scale: slides of one scanner differ by some per cent, powers by a half."""


@dataclass(frozen=True, slots=True)
class Making:
    """How bags were made: what all bags of a cohort share."""

    encoder: str = ""
    recipe: Recipe = field(default_factory=dict)
    """Without what belongs to single slides; empty in bags of other tools."""
    dim: int = 0
    mpp: float = 0.0
    """um/px at which tiles were taken; 0 where bags do not tell it."""
    tile_px: float = 0.0
    """Pixels per tile side; 0 where bags do not tell it."""

    def check(self, header: BagHeader, source: str) -> None:
        """Raise `RequestError` naming what differs in a bag; a scale that either does not tell is not compared."""
        found = {"encoder": header.encoder, "dim": header.dim}
        lines = differences(found, {"encoder": self.encoder, "dim": self.dim})
        lines += differences(shared_recipe(header.recipe), shared_recipe(self.recipe))
        if self.mpp and header.mpp and abs(np.log(header.mpp / self.mpp)) > np.log(NEAR_MPP):
            lines.append(f"um/px: found {header.mpp:g}, wanted {self.mpp:g}")
        if self.tile_px and header.tile_px and header.tile_px != self.tile_px:
            lines.append(f"pixels per tile side: found {header.tile_px:g}, wanted {self.tile_px:g}")
        if lines:
            raise RequestError(
                f"bag {header.path} was not made like {source} ({shortened(lines)}): "
                "extract all bags with one encoder and one recipe"
            )


def making_of(headers: Mapping[str, BagHeader]) -> Making:
    """Return how the first of the bags was made, with the first um/px and tile side that any of them tells."""
    known = list(headers.values())
    if not known:
        return Making()
    mpp, tile_px = (next((v for own in known if (v := getattr(own, name))), 0.0) for name in ("mpp", "tile_px"))
    return Making(known[0].encoder, shared_recipe(known[0].recipe), known[0].dim, mpp, tile_px)


@dataclass(frozen=True, slots=True)
class BagSet:
    """The bags found, all made alike."""

    headers: dict[str, BagHeader]
    """By image id."""
    failures: dict[str, str]
    """Image id -> why its bag cannot be used."""
    making: Making
    damaged: dict[str, str] = field(default_factory=dict)
    """Image id -> why the rows of a bag whose header is sound cannot be used, as far as that is known already."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """Slides in manifest order with their features; the tuples and ``target`` run in parallel."""

    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    """Whose slides are judged together; the slides themselves where each is judged by itself."""
    center_ids: tuple[str | None, ...]
    target: Target
    """What is asked for, and what is true of the slides."""
    bags: tuple[BagRows, ...]
    """(n_i, D) each, read when they are used; (0, D) for a slide without usable tiles."""
    failures: dict[str, str] = field(default_factory=dict)
    """Image id -> reason: the bag is missing or damaged."""
    strata: tuple[str, ...] = ()
    """Of slides to be trained on: what inner splits hold alike shares of."""
    persons: tuple[str, ...] = ()
    """The patients of slides that are judged by themselves: no split parts them."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Return what no split may part: the patient of each slide."""
        return self.persons or self.patient_ids

    def judged(self, unit: str, aggregate: str) -> "Cohort":
        """Return the cohort as it is judged: each ``slide`` by itself, or a patient's slides as one ``bag``."""
        if aggregate == "bag":
            return self.by_patient()
        return replace(self, patient_ids=self.image_ids, persons=self.groups) if unit == "slide" else self

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, slides: Iterable[int]) -> "Cohort":
        """Return the cohort of these slides; the failures of all stay named."""
        chosen = list(slides)
        names = ("image_ids", "patient_ids", "center_ids", "bags", "strata", "persons")
        found = {name: getattr(self, name) for name in names}
        parts: dict[str, Any] = {name: tuple(own[i] for i in chosen) if own else () for name, own in found.items()}
        return replace(self, **parts, target=self.target.of(np.array(chosen, np.int64)))

    def by_patient(self) -> "Cohort":
        """Return the cohort with one bag for each patient, in order of appearance: the tiles of slide after slide.

        Ids are the patients'. Bags of patients with one slide stay as they are, those of others are joined when they
        are read, or at once where they are held.
        """
        members: dict[str, list[int]] = {}
        for position, patient in enumerate(self.patient_ids):
            members.setdefault(patient, []).append(position)
        bags = tuple(_joined([self.bags[i] for i in own]) for own in members.values())
        return replace(self.take(own[0] for own in members.values()), image_ids=tuple(members), bags=bags)

    @property
    def usable_N(self) -> Bools:
        """Return which slides have instances."""
        return np.array([len(bag) > 0 for bag in self.bags], bool)

    @property
    def empty(self) -> list[str]:
        """Return the image ids whose bag is sound and holds no tile."""
        return [i for i, bag in zip(self.image_ids, self.bags, strict=True) if len(bag) == 0 and i not in self.failures]


def _joined(bags: Sequence[BagRows]) -> BagRows:
    filled = [bag for bag in bags if len(bag)]
    if len(filled) < 2:
        return filled[0] if filled else bags[0]
    lazy = [bag for bag in filled if isinstance(bag, LazyRows)]
    return FollowingRows(lazy) if len(lazy) == len(filled) else np.concatenate([np.asarray(bag) for bag in filled])


def read_headers(
    paths: Sequence[Path], wanted: Collection[str] | None = None
) -> tuple[dict[str, BagHeader], dict[str, str]]:
    """Return image id -> header of bags, or of those wanted, and image id -> why it cannot be read of the others.

    Raises
    ------
    RequestError
        A path holds no bag, or one slide has two.
    """
    headers: dict[str, BagHeader] = {}
    failures: dict[str, str] = {}
    for path in find_bags(paths):
        try:
            header = read_header(path)
        except BagError as error:
            if wanted is None or path.stem in wanted:
                failures[path.stem] = str(error)
            continue
        if wanted is not None and header.image_id not in wanted:
            continue
        other = headers.setdefault(header.image_id, header)
        if other is not header:
            raise RequestError(f"slide {header.image_id} has two bags, {other.path} and {path}: give one of them")
    return headers, {image_id: reason for image_id, reason in failures.items() if image_id not in headers}


def scan_bags(paths: Sequence[Path], wanted: Sequence[str]) -> BagSet:
    """Read the headers of the bags of the wanted slides and check that one recipe made them all.

    Raises
    ------
    RequestError
        No bag of any wanted slide, one slide with two bags, or bags of different encoders, recipes or widths.
    """
    headers, failures = read_headers(paths, set(wanted))
    if not headers and not failures:
        bags = ", ".join(path.stem for path in find_bags(paths)[:2])
        raise RequestError(
            f"no bag in {', '.join(map(str, paths))} ({bags}, ...) belongs to a slide of the manifest "
            f"({', '.join(wanted[:2])}, ...): expected bags that are named as the table's image_id"
        )
    making = making_of(headers)
    for header in headers.values():
        making.check(header, str(next(iter(headers.values())).path))
    return BagSet(headers, failures, making)


def shared_recipe(recipe: Recipe) -> Recipe:
    """Return a bag's recipe without what belongs to its slide alone: all bags of a cohort must agree on the rest."""
    tiling = recipe.get("tiling")
    if not isinstance(tiling, dict):
        return recipe
    shared = {key: value for key, value in tiling.items() if key not in SLIDE_FACTS}
    if shared.get("roi") is not None:
        shared["roi"] = "drawn"  # each slide's own regions
    return {**recipe, "tiling": shared}


def shortened(lines: Sequence[str]) -> str:
    """Return the first differences, each cut to what a person reads."""
    told = [line if len(line) <= 120 else f"{line[:117]}..." for line in lines[:6]]
    return "; ".join([*told, f"and {len(lines) - 6} more"] if len(lines) > 6 else told)


def load_rows(header: BagHeader) -> Rows:
    """Return a bag's features (n, D), memory-mapped where the file allows; their content has been checked.

    Raises
    ------
    BagError
        A feature is not finite (the message names the tile), or the file is not as it was written, or changed its shape
        since its header was read.
    OSError
        The storage fails: nothing is known to be wrong with the bag.
    """
    rows = feature_rows(header.path)
    if rows.shape != (header.n_tiles, header.dim):
        raise BagError(f"{header.path}: the bag was replaced while it was used: run it again")
    return rows


def cohort_digest(rows: Sequence[ManifestRow], headers: Mapping[str, BagHeader]) -> str:
    """Return one hash of who is in the cohort: ids, patients, labels, centers, and each bag's recipe, size, content."""
    table = [
        [row.image_id, row.patient_id, row.label, row.center_id, *(_identity(bag) if bag else ())]
        for row, bag in ((row, headers.get(row.image_id)) for row in rows)
    ]
    return recipe_hash({"rows": table})


def _identity(header: BagHeader) -> tuple[str, int, str]:
    try:
        return header.recipe_hash, header.n_tiles, content_sha256(header)
    except BagError:
        return header.recipe_hash, header.n_tiles, ""  # damaged: it is named when the bags are opened
