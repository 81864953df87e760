"""Is a tile store whole? Every shard, every chunk, the tile list and the metadata are checked against each other."""

import json
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.arrays import Bools
from wsi.errors import GigamilError, StoreError, says_damage
from wsi.files.atomic import PARTIAL
from wsi.machine.cpu import usable_cpus
from wsi.machine.ordered import ordered
from wsi.pixels.jpeg import ZARR_NAMES
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import recipe_hash
from wsi.store.layout import group, image_array, image_multiscales, meta_hash, omero, shard_key
from wsi.store.options import VerifyOptions
from wsi.store.shards import ABSENT, shard_index
from wsi.store.tile_store import TileStore, find_stores
from wsi.units import ceil_div

_JPEG_END = b"\xff\xd9"


def verify(options: VerifyOptions, progress: Progress | None = None) -> Summary:
    """Verify every store; one that is not whole FAILED, with the first bad shard and their number in its reason.

    Raises
    ------
    RequestError
        There is no store at a path.
    """
    started = time.perf_counter()
    progress = progress or Silent()
    threads = options.threads or usable_cpus()
    outcomes = []
    for store in find_stores(options.stores):
        try:
            outcomes.append(_verify_one(store, options.quick, threads, progress))
        except OSError as error:
            told = f"the storage fails ({error}): see to it and verify again, nothing is known of the store"
            outcomes.append(Outcome(store.image_id, Status.FAILED, told))
    return Summary("verify", outcomes, time.perf_counter() - started)


def verify_quickly(store: TileStore) -> Outcome:
    """Verify one store without decoding its tiles: the indexes of its shards, its metadata, tile list and pictures.

    Raises `OSError` where the storage fails: then nothing is known of the store.
    """
    return _verify_one(store, True, 1, Silent())


def _verify_one(store: TileStore, quick: bool, threads: int, progress: Progress) -> Outcome:
    try:
        problems = [*_recipe(store), *_metadata(store), *_left_over(store), *_pictures(store)]
        listed = list(_tile_list(store))
        stored, broken, chunks = _all_shards(store, quick, threads, progress)
        if broken:
            more = f" (and {len(broken) - 1} more bad shards)" if len(broken) > 1 else ""
            problems.insert(0, broken[0] + more)
        problems += listed or _presence(store, stored)
        facts: dict[str, Any] = {"tiles": store.n_tiles, "chunks": chunks, "bad_shards": len(broken)}
        facts["problems"] = problems[:20]
    except GigamilError as error:
        return Outcome(store.image_id, Status.FAILED, str(error))
    if problems:
        more = f"; {len(problems) - 1} more problems" if len(problems) > 1 else ""
        return Outcome(store.image_id, Status.FAILED, f"{problems[0]}{more}: remove it and tile the slide again", facts)
    unchecked = "jpeg" in store.codec_names and not store.is_checked
    note = "its JPEG chunks were decoded, but carry no checksum: an earlier version made them" if unchecked else ""
    return Outcome(store.image_id, Status.DONE, note, facts)


def _recipe(store: TileStore) -> Iterator[str]:
    if recipe_hash(store.recipe) != store.recipe_hash:
        yield "the recipe does not match its hash: the metadata was changed after tiling"
    elif store.meta.get("sha256", meta_hash(store.meta)) != meta_hash(store.meta):
        yield "zarr.json does not match its hash: the metadata was changed after tiling"
    store.icc_profile  # noqa: B018  raises where it is missing or changed


def _metadata(store: TileStore) -> Iterator[str]:
    """Compare each array's metadata, and the OME-Zarr attributes, with what the layout says."""
    levels = store.grid.levels()
    found = store.folder.read(["zarr.json", *(f"{level}/zarr.json" for level in range(len(levels)))])
    root = json.loads(found[0] or b"{}")
    scales = image_multiscales(str(store.meta["image_id"]), store.grid, store.mpp)
    ome = {"version": "0.5", "multiscales": [scales], "omero": omero()}
    if root != group({"ome": ome, "gigamil": store.meta}):
        yield "zarr.json: the OME-Zarr attributes differ from what the store's own say"
    for level, (shape, name) in enumerate(zip(levels, store.codec_names, strict=True)):
        try:
            document = json.loads(found[level + 1] or b"missing")
        except (ValueError, RecursionError):
            document = None
        written = (
            image_array(shape, store.grid, level, name, checked=store.is_checked, jpeg_name=known)
            for known in ZARR_NAMES
        )
        if not any(document == json.loads(json.dumps(own)) for own in written):
            yield f"{level}/zarr.json is missing or differs from what the store's layout says"


def _left_over(store: TileStore) -> Iterator[str]:
    """Name what an interrupted run left inside the store, and shards where the grid has none."""
    levels = store.grid.levels()
    for key in store.folder.find(""):
        parts = key.split("/")
        if key.endswith(PARTIAL) or parts[0] == ".work":
            yield f"{key} was left by an interrupted run"
        elif len(parts) == 5 and parts[1] == "c" and all(parts[i].isdecimal() for i in (0, 3, 4)):
            level, row, column = int(parts[0]), int(parts[3]), int(parts[4])
            side = store.grid.shard_tiles(level) * store.tile_px if level < len(levels) else 0
            if level >= len(levels) or row * side >= levels[level].y or column * side >= levels[level].x:
                yield f"{key}: a shard outside the grid"


def _pictures(store: TileStore) -> Iterator[str]:
    """Read mask and overview, every level."""
    for folder, n_levels in (("labels/tissue", len(store.grid.levels())), ("overview", 0)):
        (text,) = store.folder.read([f"{folder}/zarr.json"])
        try:
            datasets = json.loads(text or b"missing")["attributes"]["ome"]["multiscales"][0]["datasets"]
            if n_levels and len(datasets) != n_levels:
                yield f"{folder}: expected {n_levels} levels, found {len(datasets)}"
            for i, dataset in enumerate(datasets):
                if dataset["path"] != str(i):  # it could lead anywhere
                    raise ValueError(f"level {i} is said to lie at {str(dataset['path'])[:40]!r}")
                pixels = store.read_array(f"{folder}/{dataset['path']}")
                if n_levels and pixels.size and pixels.max() > 1:
                    yield f"{folder}/{dataset['path']}: expected 0 and 1, found {pixels.max()}"
        except (ValueError, KeyError, IndexError, TypeError, RecursionError, StoreError) as error:
            yield f"{folder} cannot be read ({error})"


def _tile_list(store: TileStore) -> Iterator[str]:
    yx, tiles = store.tiles_yx, store.grid.tiles
    flat = yx[:, 0].astype(np.int64) * tiles.x + yx[:, 1]
    if len(yx) and ((yx < 0).any() or (yx >= tiles).any()):
        yield f"tiles/yx: a tile lies outside the grid of {tiles.y} x {tiles.x}"
    elif (np.diff(flat) <= 0).any():
        yield "tiles/yx is not sorted by row, then column, or lists a tile twice"
    store.scores  # noqa: B018  raises where one is not as long as the list
    if not ((store.tissue >= 0) & (store.tissue <= 1)).all():
        yield "tiles/tissue: a share lies outside 0 to 1"


def _presence(store: TileStore, stored: list[Bools]) -> list[str]:
    """Name listed tiles that are not stored, and levels that do not show them."""
    problems = []
    for level, (shape, factor) in enumerate(zip(store.grid.levels(), store.grid.factors(), strict=True)):
        yx = np.unique(store.tiles_yx // factor, axis=0)
        yx = yx[(yx * store.tile_px < shape).all(axis=1)]  # halving may end just before the last row
        missing = yx[~stored[level][yx[:, 0], yx[:, 1]]]
        if len(missing):
            what = "listed tiles are" if level == 0 else f"tiles of level {level} that hold tissue are"
            problems.append(f"{len(missing)} {what} not stored, the first at {tuple(missing[0].tolist())}")
    return problems


def _all_shards(store: TileStore, quick: bool, threads: int, progress: Progress) -> tuple[list[Bools], list[str], int]:
    """Check every shard of every level; return which chunks are stored by level, the problems, the number of chunks."""
    jobs: list[tuple[int, int, int]] = []
    stored = []
    for level, shape in enumerate(store.grid.levels()):
        side = store.grid.shard_tiles(level)
        counts = [ceil_div(length, side * store.tile_px) for length in shape]
        stored.append(np.zeros([n * side for n in counts], bool))
        jobs += [(level, row, column) for row, column in product(*map(range, counts))]
    progress.begin(f"verify {store.image_id}", len(jobs), "shards")
    broken: list[str] = []
    checked = ordered(lambda job: _check_shard(store, job, quick), jobs, threads)
    for (level, row, column), (found, problem) in zip(jobs, checked, strict=True):
        side = store.grid.shard_tiles(level)
        stored[level][row * side : (row + 1) * side, column * side : (column + 1) * side] = found
        broken += [problem] if problem else []
        progress.advance(1)
    progress.end()
    return stored, broken, int(sum(level.sum() for level in stored))


def _check_shard(store: TileStore, place: tuple[int, int, int], quick: bool) -> tuple[Bools, str]:
    """Check the shard at a level, row and column; return which chunks are there, (side, side), and the problem."""
    key, side = shard_key(*place), store.grid.shard_tiles(place[0])
    stored = np.zeros((side, side), bool)
    try:
        (data,) = (None,) if quick else store.folder.read([key])
        if quick:
            index = store.folder.index(key, side**2)
        else:
            index = None if data is None else shard_index(data, side**2, key)
        if index is not None:
            stored = (index[:, 0] != ABSENT).reshape(side, side)
        if index is not None and data is not None:
            _decode_all(store, place[0], data, index, key)
    except StoreError as error:
        return stored, str(error).removesuffix(": tile the slide again")
    return stored, ""


def _decode_all(store: TileStore, level: int, data: bytes, index: NDArray[np.uint64], key: str) -> None:
    out = np.empty((3, store.tile_px, store.tile_px), np.uint8)
    jpeg = store.codec_names[level] == "jpeg"
    view, side = memoryview(data), store.grid.shard_tiles(level)
    for place in np.flatnonzero(index[:, 0] != ABSENT).tolist():
        offset, size = index[place].tolist()
        where = f"{key}: chunk ({place // side}, {place % side})"
        if jpeg and _JPEG_END not in data[offset + max(0, size - 20) : offset + size]:
            raise StoreError(f"{where} is cut short")  # the decoder would fill it up with grey
        try:
            store.codec_of(level).decode_into(view[offset : offset + size], out)
        except Exception as error:  # codecs raise nearly anything on damaged bytes
            if not says_damage(error):
                raise
            raise StoreError(f"{where} cannot be decoded ({error})") from None
