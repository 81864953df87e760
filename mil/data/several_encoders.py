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
from mil.data.cohort import BagSet, Cohort, Making, load_rows, scan_bags
from mil.ragged.packing import Rows
from mil.targets import Target
from wsi.cohort.manifest import ManifestRow
from wsi.errors import BagError, RequestError

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
    rows: Sequence[ManifestRow], sets: Sequence[BagSet], fusion: str, target: Target
) -> tuple[Cohort, ...]:
    """Join the manifest's rows, and what is true of them, with their bags: one cohort, or one for each encoder.

    Nothing here raises for a single bag; a slide that one encoder has no tiles of is empty for all.

    Raises
    ------
    RequestError
        Bags to be concatenated list different tiles.
    """
    whole = fused(sets, fusion)
    views = [tuple(sets)] if fusion == "concat" else [(own,) for own in sets]
    failures = dict(whole.failures)
    loaded = [{i: _features([own.headers[i] for own in view], failures) for i in whole.headers} for view in views]
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
    filled = {i for i in whole.headers if all(len(found[i]) for found in loaded)}
    none: list[Rows] = [np.empty((0, sum(own.making.dim for own in view)), np.float16) for view in views]
    return tuple(
        replace(base, bags=tuple(found[i] if i in filled else empty for i in base.image_ids))
        for found, empty in zip(loaded, none, strict=True)
    )


def _features(headers: Sequence[BagHeader], failures: dict[str, str]) -> Rows:
    """Return the features of one slide's bags, tile by tile beside each other; none where one fails, and why."""
    try:
        rows = [load_rows(header) for header in headers]
        places = [read_coords(header.path) for header in headers] if len(headers) > 1 else []
    except BagError as error:
        failures[headers[0].image_id] = str(error)
        return np.empty((0, 0), np.float16)
    for header, coords in zip(headers, places, strict=False):
        if not np.array_equal(coords, places[0]):
            raise RequestError(
                f"bags {headers[0].path} and {header.path} list different tiles: --fusion concat wants the same tiles "
                "in the same order; extract both from one store, or use --fusion late"
            )
    return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
