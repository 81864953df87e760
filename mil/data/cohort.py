"""Bags joined with the manifest: which slides there are, whose they are, what is true of them, and their features.

A slide whose bag is missing, damaged or empty stays in the cohort with zero instances: it is named, never trained on,
and told what is best said of anybody.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.bags.bag import BagHeader, content_sha256, feature_rows, find_bags, read_header
from mil.ragged.packing import Rows
from mil.targets import Target
from wsi.cohort.manifest import ManifestRow
from wsi.errors import BagError, RequestError
from wsi.recipe import Recipe, differences, recipe_hash

SLIDE_FACTS = frozenset({"slide", "slide_mpp", "reader", "assume_mpp", "on_damage", "effect"})
"""Fields of a tiling recipe that differ from slide to slide within one cohort."""


NEAR_MPP = 1.1
"""Ratio up to which two um/px are one scale: slides of one scanner differ by some per cent, powers by a half."""


@dataclass(frozen=True, slots=True)
class Scale:
    """At what um/px tiles were taken, and how large; 0 where bags do not tell it."""

    mpp: float = 0.0
    tile_px: float = 0.0

    def other(self, header: BagHeader) -> list[str]:
        """Return what differs in a bag, as ``found ..., wanted ...``; what either does not tell is not compared."""
        lines = []
        if self.mpp and header.mpp and abs(np.log(header.mpp / self.mpp)) > np.log(NEAR_MPP):
            lines.append(f"um/px: found {header.mpp:g}, wanted {self.mpp:g}")
        if self.tile_px and header.tile_px and header.tile_px != self.tile_px:
            lines.append(f"pixels per tile side: found {header.tile_px:g}, wanted {self.tile_px:g}")
        return lines


def _scale_of(headers: Iterable[BagHeader]) -> Scale:
    """Return the first um/px and tile side that any of the bags tells."""
    known = list(headers)
    return Scale(
        next((header.mpp for header in known if header.mpp), 0.0),
        next((header.tile_px for header in known if header.tile_px), 0.0),
    )


@dataclass(frozen=True, slots=True)
class BagSet:
    """The bags found, all made by one recipe."""

    headers: dict[str, BagHeader]
    """By image id."""
    failures: dict[str, str]
    """Image id -> why its bag cannot be used."""
    encoder: str
    recipe: Recipe
    """What the bags share: without the facts of single slides."""
    dim: int
    scale: Scale = Scale()


@dataclass(frozen=True, slots=True)
class Cohort:
    """Slides in manifest order with their features; the tuples and ``target`` run in parallel."""

    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    """Whose slides are judged together; the slides themselves where each is judged by itself."""
    center_ids: tuple[str | None, ...]
    target: Target
    """What is asked for, and what is true of the slides."""
    bags: tuple[Rows, ...]
    """(n_i, D) each, memory-mapped where the file allows; (0, D) for a slide without usable tiles."""
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

    def by_slide(self) -> "Cohort":
        """Return the cohort with each slide judged by itself."""
        return replace(self, patient_ids=self.image_ids, persons=self.groups)

    def __len__(self) -> int:
        return len(self.image_ids)

    def first(self, count: int) -> "Cohort":
        """Return the cohort of the first slides; the failures of all stay named."""
        return replace(
            self,
            image_ids=self.image_ids[:count],
            patient_ids=self.patient_ids[:count],
            persons=self.persons[:count],
            center_ids=self.center_ids[:count],
            target=self.target.of(np.arange(count)),
            strata=self.strata[:count],
            bags=self.bags[:count],
        )

    def by_patient(self) -> "Cohort":
        """Return the cohort with one bag for each patient, in order of appearance: the tiles of slide after slide.

        Ids are the patients'. Bags of patients with one slide stay memory-mapped, those of others are joined in memory.
        """
        members: dict[str, list[int]] = {}
        for position, patient in enumerate(self.patient_ids):
            members.setdefault(patient, []).append(position)
        first = [own[0] for own in members.values()]
        return replace(
            self,
            image_ids=tuple(members),
            patient_ids=tuple(members),
            center_ids=tuple(self.center_ids[i] for i in first),
            target=self.target.of(np.array(first)),
            strata=tuple(self.strata[i] for i in first) if self.strata else (),
            bags=tuple(_joined([self.bags[i] for i in own]) for own in members.values()),
        )

    @property
    def usable_N(self) -> NDArray[np.bool_]:
        """Return which slides have instances."""
        return np.array([len(bag) > 0 for bag in self.bags], bool)

    @property
    def empty(self) -> list[str]:
        """Return the image ids whose bag is sound and holds no tile."""
        return [i for i, bag in zip(self.image_ids, self.bags, strict=True) if len(bag) == 0 and i not in self.failures]


def _joined(bags: Sequence[Rows]) -> Rows:
    filled = [bag for bag in bags if len(bag)]
    return np.concatenate(filled) if len(filled) > 1 else filled[0] if filled else bags[0]


def scan_bags(paths: Sequence[Path], wanted: Sequence[str]) -> BagSet:
    """Read the headers of the bags of the wanted slides and check that one recipe made them all.

    Raises
    ------
    RequestError
        No bag of any wanted slide, one slide with two bags, or bags of different encoders, recipes or widths.
    """
    headers: dict[str, BagHeader] = {}
    failures: dict[str, str] = {}
    names = set(wanted)
    for path in find_bags(paths):
        try:
            header = read_header(path)
        except BagError as error:
            if path.stem in names:
                failures[path.stem] = str(error)
            continue
        if header.image_id in headers:
            raise RequestError(
                f"slide {header.image_id} has two bags, {headers[header.image_id].path} and {path}: give one of them"
            )
        if header.image_id in names:
            headers[header.image_id] = header
    if not headers and not failures:
        raise RequestError(f"no bag in {', '.join(map(str, paths))} belongs to a slide of the manifest")
    failures = {image_id: reason for image_id, reason in failures.items() if image_id not in headers}
    if not headers:
        return BagSet(headers, failures, "", {}, 0)
    first, scale = next(iter(headers.values())), _scale_of(headers.values())
    recipe = shared_recipe(first.recipe)
    for header in headers.values():
        check_same_making(header, first.encoder, recipe, first.dim, scale, str(first.path))
    return BagSet(headers, failures, first.encoder, recipe, first.dim, scale)


def shared_recipe(recipe: Recipe) -> Recipe:
    """Return a bag's recipe without what belongs to its slide alone: all bags of a cohort must agree on the rest."""
    tiling = recipe.get("tiling")
    if not isinstance(tiling, dict):
        return recipe
    return {**recipe, "tiling": {key: value for key, value in tiling.items() if key not in SLIDE_FACTS}}


def check_same_making(header: BagHeader, encoder: str, recipe: Recipe, dim: int, scale: Scale, source: str) -> None:
    """Raise `RequestError` naming what differs between a bag and the encoder, shared recipe, width and scale wanted."""
    lines = differences({"encoder": header.encoder, "dim": header.dim}, {"encoder": encoder, "dim": dim})
    lines += differences(shared_recipe(header.recipe), recipe) + scale.other(header)
    if lines:
        raise RequestError(
            f"bag {header.path} was not made like {source} ({shortened(lines)}): "
            "extract all bags with one encoder and one recipe"
        )


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


def open_cohort(rows: Sequence[ManifestRow], bags: BagSet, target: Target) -> Cohort:
    """Join the manifest's rows, and what is true of them, with their bags; nothing here raises for a single bag."""
    failures = dict(bags.failures)
    loaded: list[Rows] = []
    for row in rows:
        header = bags.headers.get(row.image_id)
        none: Rows = np.empty((0, bags.dim), np.float16)
        if header is None:
            failures.setdefault(row.image_id, "no bag of this slide was found")
            loaded.append(none)
            continue
        try:
            loaded.append(load_rows(header))
        except BagError as error:
            failures[row.image_id] = str(error)
            loaded.append(none)
    return Cohort(
        image_ids=tuple(row.image_id for row in rows),
        patient_ids=tuple(row.patient_id for row in rows),
        center_ids=tuple(row.center_id for row in rows),
        target=target,
        bags=tuple(loaded),
        failures={row.image_id: failures[row.image_id] for row in rows if row.image_id in failures},
    )


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
