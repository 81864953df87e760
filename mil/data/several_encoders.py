"""Bags of several encoders on the same slides, for one run.

``concat``: the features of a tile stand beside each other, joined in memory; the bags must list the same tiles.
``late``: each encoder has models of its own, and logits are averaged; the bags may list different tiles.
``folds``: the models of fold k take the bags of the k-th encoder: one that was fine-tuned with fold k held out.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from features.bags.bag import BagHeader, read_coords
from mil.data.cohort import BagSet, Cohort, Scale, check_same_making, load_rows, open_cohort, scan_bags
from mil.ragged.packing import Rows
from mil.targets import Target
from wsi.cohort.manifest import ManifestRow
from wsi.errors import BagError, RequestError
from wsi.recipe import Recipe, canonical

FUSIONS = ("none", "concat", "late", "folds")
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
    everyone = {image_id for own in sets for image_id in (*own.headers, *own.failures)}
    failures = {
        image_id: next((own.failures[image_id] for own in sets if image_id in own.failures), "an encoder has no bag")
        for image_id in sorted(everyone)
        if not all(image_id in own.headers for own in sets)
    }
    return BagSet(
        headers={image_id: bag for image_id, bag in sets[0].headers.items() if image_id not in failures},
        failures=failures,
        encoder=" + ".join(own.encoder for own in sets),
        recipe={
            "fusion": fusion,
            "bags": [{"encoder": own.encoder, "dim": own.dim, "recipe": own.recipe} for own in sets],
        },
        dim=sum(own.dim for own in sets) if fusion == "concat" else sets[0].dim,
    )


def open_fused(rows: Sequence[ManifestRow], sets: Sequence[BagSet], fusion: str, target: Target) -> tuple[Cohort, ...]:
    """Open the bags: one cohort, or where fused late one for each encoder, alike but for their bags.

    Raises
    ------
    RequestError
        Bags to be concatenated list different tiles.
    """
    whole = fused(sets, fusion)
    if fusion == "none":
        return (open_cohort(rows, whole, target),)
    if fusion == "concat":
        base = open_cohort(rows, replace(whole, headers={}, dim=whole.dim), target)
        joined = {i: _beside([own.headers[i] for own in sets]) for i in whole.headers}
        return (_with(base, rows, [joined], whole)[0],)
    base = open_cohort(rows, replace(whole, headers={}), target)
    loaded = [{i: _loaded(own.headers[i]) for i in whole.headers} for own in sets]
    return _with(base, rows, loaded, whole)


def _loaded(header: BagHeader) -> Rows | BagError:
    try:
        return load_rows(header)
    except BagError as error:
        return error


def _beside(headers: Sequence[BagHeader]) -> Rows | BagError:
    """Return the features of several bags of one slide, tile by tile beside each other, (n, D1 + D2 + ...)."""
    first, *others = headers
    coords = read_coords(first.path)
    for other in others:
        if not np.array_equal(coords, read_coords(other.path)):
            raise RequestError(
                f"bags {first.path} and {other.path} list different tiles: --fusion concat wants the same tiles in the "
                "same order; extract both from one store, or use --fusion late"
            )
    found = [_loaded(header) for header in headers]
    broken = next((rows for rows in found if isinstance(rows, BagError)), None)
    return broken or np.concatenate([rows for rows in found if not isinstance(rows, BagError)], axis=1)


def _with(
    base: Cohort, rows: Sequence[ManifestRow], loaded: Sequence[dict[str, Rows | BagError]], whole: BagSet
) -> tuple[Cohort, ...]:
    """Return the cohort with each encoder's bags; a slide that one encoder has no tiles of is empty for all."""
    failures = dict(whole.failures)
    for found in loaded:
        failures |= {i: str(bag) for i, bag in found.items() if isinstance(bag, BagError)}
    cohorts = []
    for found in loaded:
        dim = next((bag.shape[1] for bag in found.values() if not isinstance(bag, BagError)), whole.dim)
        bags = []
        for row in rows:
            there = [bags_of.get(row.image_id) for bags_of in loaded]
            usable = row.image_id not in failures and all(bag is not None and _length(bag) for bag in there)
            own = found.get(row.image_id)
            none: Rows = np.empty((0, dim), np.float16)
            bags.append(own if usable and not isinstance(own, BagError) and own is not None else none)
            if own is None:
                failures.setdefault(row.image_id, "no bag of this slide was found")
        cohorts.append(replace(base, bags=tuple(bags)))
    named = {row.image_id: failures[row.image_id] for row in rows if row.image_id in failures}
    return tuple(replace(cohort, failures=named) for cohort in cohorts)


def _length(bag: Rows | BagError | None) -> int:
    return 0 if bag is None or isinstance(bag, BagError) else len(bag)


def check_made_alike(
    sets: Sequence[BagSet], fusion: str, recipe: Recipe, source: str, scales: Sequence[Scale] = ()
) -> None:
    """Raise `RequestError` naming what differs between the bags and those of a run whose bags were fused."""
    made, wanted = ([canonical(own) for own in one["bags"]] for one in (fused(sets, fusion).recipe, recipe))
    if made != wanted and sorted(made) == sorted(wanted):
        names = ", then ".join(str(own["encoder"]) or "those without a name" for own in recipe["bags"])
        raise RequestError(f"the bags are those of {source}, but not in its order of encoders: give {names}")
    if len(made) != len(wanted):
        raise RequestError(
            f"expected a folder of bags for each of the {len(wanted)} encoders of {source}, in its order of encoders; "
            f"found {len(made)}"
        )
    for number, (own, one) in enumerate(zip(sets, recipe["bags"], strict=True)):
        scale = scales[number] if number < len(scales) else Scale()
        for header in own.headers.values():
            where = f"the bags of {source}, in its order of encoders"
            check_same_making(header, str(one["encoder"]), one["recipe"], int(one["dim"]), scale, where)
