"""Which slides a run is asked about: those that have both a bag, made as the run's were, and a tile store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.bags.bag import BagHeader
from mil.data.cohort import read_headers
from mil.models.ensemble import check_bags_fit
from mil.run.folder import RunFolder
from wsi.errors import RequestError
from wsi.store.tile_store import TileStore, find_stores

Pair = tuple[BagHeader, TileStore | None]


@dataclass(frozen=True, slots=True)
class Slides:
    """The slides that were found."""

    pairs: tuple[Pair, ...]
    """Of each wanted slide its bag, and its store where there is one."""
    broken: dict[str, str]
    """Image id -> why its bag cannot be used."""
    both: int
    """How many slides have a bag and a store."""
    stores: tuple[TileStore, ...]
    left_out: str
    """Of whom nothing is told because a bag or a store lacks, for a person; empty where each has both."""


def find_slides(
    run: RunFolder,
    bags: Sequence[Path],
    stores: Sequence[Path],
    image_ids: Sequence[str],
    choose: Callable[[list[str]], list[str]] | None = None,
) -> Slides:
    """Return the slides that are wanted: those named, otherwise what ``choose`` takes of those there are, else all.

    Raises
    ------
    RequestError
        The run fuses bags of several encoders, has seen vectors of slides and no tiles, a bag was not made as the run's
        were, or a wanted slide has no bag.
    """
    run.check_tiles("scores of tiles")
    if run.fusion != "none":
        raise RequestError(f"{run.path} fuses bags of several encoders ({run.fusion}): tiles are scored by one's")
    headers, failures = read_headers(bags)
    found = {store.image_id: store for store in find_stores(stores)}
    both = sorted(set(headers) & set(found))
    wanted = list(dict.fromkeys(image_ids)) or (choose(both) if choose else both)
    broken = {i: why for i, why in failures.items() if i in (image_ids or found)}
    absent = [image_id for image_id in wanted if image_id not in headers and image_id not in broken]
    if absent or not (wanted or broken):
        raise RequestError(f"expected a bag and a store of each slide; no bag of {', '.join(absent) or 'any store'}")
    chosen = {image_id: headers[image_id] for image_id in wanted if image_id in headers}
    check_bags_fit(run, chosen)
    pairs = tuple((header, found.get(image_id)) for image_id, header in chosen.items())
    alone = sorted(set(headers) ^ set(found) - set(failures))
    named = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
    left_out = f"left out, for they have a bag or a tile store alone: {named}" if alone else ""
    return Slides(pairs, broken, len(both), tuple(found.values()), left_out)
