"""Bags of several encoders on the same slides, for one run.

``concat``: the features of a tile stand beside each other, joined in memory; the bags must list the same tiles.
``late``: each encoder has models of its own, and logits are averaged; the bags may list different tiles.
``folds``: the models of fold k take the bags of the k-th encoder: one that was fine-tuned with fold k held out.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from features.bags.bag import BagHeader, read_coords
from features.bags.rows import BesideRows, StoredRows
from mil.data.cohort import BagSet, Cohort, Making, scan_bags
from mil.ragged.packing import BagRows, Rows
from mil.targets import Target
from wsi.cohort.manifest import ManifestRow
from wsi.errors import BagError, RequestError
from wsi.machine.cpu import usable_cpus

FUSIONS = ("none", "concat", "late", "folds")
HELD_BYTES = 4 << 30
"""Features of a cohort up to which they are read and checked at once, and held: mapped, where their files allow it."""
_THREADS = 4
APART = ("late", "folds")
"""Fusions under which every model has the bags of one encoder."""


def scan(paths: Sequence[Path], wanted: Sequence[str], fusion: str) -> tuple[BagSet, ...]:
    """Read the headers of the bags: of one encoder, or with a fusion of one encoder for each path.

    Raises
    ------
    RequestError
        As `scan_bags`; or fewer than two paths for a fusion.
    """
    if fusion == "none":
        return (scan_bags(paths, wanted),)
    if len(paths) < 2:
        raise RequestError(f"--fusion {fusion}: expected a folder of bags for each encoder, two or more; found one")
    return tuple(scan_bags([path], wanted) for path in paths)


def fused(sets: Sequence[BagSet], fusion: str) -> BagSet:
    """Return the sets as one: what a recipe tells of them; ``dim`` is that of the first one where fused late."""
    if fusion == "none":
        return sets[0]
    made = [own.making for own in sets]
    everyone = {image_id for own in sets for image_id in (*own.headers, *own.failures)}
    failures = {
        image_id: next((own.failures[image_id] for own in sets if image_id in own.failures), "an encoder has no bag")
        for image_id in sorted(everyone)
        if not all(image_id in own.headers for own in sets)
    }
    return BagSet(
        headers={image_id: bag for image_id, bag in sets[0].headers.items() if image_id not in failures},
        failures=failures,
        making=Making(
            encoder=" + ".join(own.encoder for own in made),
            recipe={
                "fusion": fusion,
                "bags": [{"encoder": own.encoder, "dim": own.dim, "recipe": own.recipe} for own in made],
            },
            dim=sum(own.dim for own in made) if fusion == "concat" else made[0].dim,
        ),
    )


def open_cohorts(
    rows: Sequence[ManifestRow], sets: Sequence[BagSet], fusion: str, target: Target, *, trusting: bool = False
) -> tuple[Cohort, ...]:
    """Join the manifest's rows, and what is true of them, with their bags: one cohort, or one for each encoder.

    Nothing here raises for a single bag; a slide that one encoder has no tiles of is empty for all. Bags are read and
    checked, and those of small cohorts held; with ``trusting`` those of large ones are checked when they are used.

    Raises
    ------
    RequestError
        Bags to be concatenated list different tiles.
    """
    whole = fused(sets, fusion)
    views = [tuple(sets)] if fusion == "concat" else [(own,) for own in sets]
    failures = dict(whole.failures)
    headers = [[own.headers[i] for own in view] for view in views for i in whole.headers]
    damaged = {i: why for own in reversed(sets) for i, why in own.damaged.items()}
    opener = _Opener(damaged, held=fits_in_memory(headers), trusting=trusting)
    with ThreadPoolExecutor(min(_THREADS, usable_cpus())) as pool:
        opened = list(pool.map(opener.open, headers))
    failures |= {own[0].image_id: rows for own, rows in zip(headers, opened, strict=True) if isinstance(rows, str)}
    empty = np.empty((0, 0), np.float16)
    found = iter([empty if isinstance(rows, str) else rows for rows in opened])
    loaded: list[dict[str, BagRows]] = [{i: next(found) for i in whole.headers} for _ in views]
    base = Cohort(
        image_ids=tuple(row.image_id for row in rows),
        patient_ids=tuple(row.patient_id for row in rows),
        center_ids=tuple(row.center_id for row in rows),
        target=target,
        bags=(),
        failures={
            row.image_id: failures.get(row.image_id, "no bag of this slide was found")
            for row in rows
            if row.image_id in failures or row.image_id not in whole.headers
        },
    )
    filled = {i for i in whole.headers if all(len(own[i]) for own in loaded)}
    none: list[Rows] = [np.empty((0, sum(own.making.dim for own in view)), np.float16) for view in views]
    return tuple(
        replace(base, bags=tuple(own[i] if i in filled else without for i in base.image_ids))
        for own, without in zip(loaded, none, strict=True)
    )


def fits_in_memory(headers: Sequence[Sequence[BagHeader]]) -> bool:
    """Tell whether the features of these bags are few enough to be held."""
    stored = [bag.n_tiles * bag.dim * bag.place.dtype.itemsize for own in headers for bag in own if bag.place]
    return sum(stored) <= min(HELD_BYTES, psutil.virtual_memory().available // 4)


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens the bags of one slide after the other."""

    damaged: Mapping[str, str]
    held: bool
    trusting: bool

    def open(self, headers: Sequence[BagHeader]) -> BagRows | str:
        """Return the features of one slide's bags, tile by tile beside each other; or why one fails."""
        if headers[0].image_id in self.damaged:
            return self.damaged[headers[0].image_id]
        try:
            rows = [StoredRows(header) for header in headers]
            for own in rows:
                if self.held:
                    own.hold()
                elif not self.trusting:
                    own.check()
            places = [read_coords(header.path) for header in headers] if len(headers) > 1 else []
        except BagError as error:
            return str(error)
        for header, coords in zip(headers, places, strict=False):
            if not np.array_equal(coords, places[0]):
                raise RequestError(
                    f"bags {headers[0].path} and {header.path} list different tiles: --fusion concat wants the same "
                    "tiles in the same order; extract both from one store, or use --fusion late"
                )
        return rows[0] if len(rows) == 1 else BesideRows(rows)
