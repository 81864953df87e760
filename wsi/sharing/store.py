"""One tile store as it is shared: its pixels, tile list and scores under a new id, written file by file from a list.

Nothing is copied because it is there. Arrays are described anew, small ones written anew. Of the overview, which shows
the whole glass, stays what lies in stored tiles; the rest gets the slide's own background colour.
"""

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB, Bools
from wsi.errors import SlideError, StoreError
from wsi.files.atomic import write_bytes
from wsi.machine.cpu import usable_cpus
from wsi.machine.ordered import ordered
from wsi.pixels.neutral_icc import neutral_profile
from wsi.progress.outcome import Progress
from wsi.recipe import Json
from wsi.scores.drop import SCORES
from wsi.sharing.chunks import Chunks, held_tiles, shards_of
from wsi.sharing.metadata import shared_meta
from wsi.store.layout import (
    FILL,
    ICC_KEY,
    group,
    image_array,
    image_multiscales,
    omero,
    shard_path,
    write_json,
    write_small_array,
)
from wsi.store.shards import write_shard
from wsi.store.side_images import write_overview, write_tissue_label
from wsi.store.tile_store import TileStore
from wsi.units import YX

_MARKED_PX = 16
"""Pixels of the overview by which its hash is no more the original's."""
_INK = 0.02
"""Share of ink from which a tile is looked at by a person."""


def share_store(store: TileStore, folder: Path, image_id: str, secret: bytes, *, icc: bool, progress: Progress) -> Json:
    """Write the store as it is shared into a folder that does not exist yet; return facts for the summary.

    Parameters
    ----------
    store
        A finished store.
    folder
        Of the new store; the caller names it by the new id and claims it.
    image_id
        The new id.
    secret
        Of the bundle, and kept by nobody: by it the overview is marked, so that its hash is another one than the
        original's, and equal for equal pictures of one bundle.
    icc
        Whether the ICC profile goes with it.

    Raises
    ------
    StoreError
        The store is damaged.
    SlideError
        Its ICC profile cannot be kept without its texts.
    """
    levels = store.grid.levels()
    n_bytes = _write_shards(store, folder, progress)
    for level, (shape, name) in enumerate(zip(levels, store.codec_names, strict=True)):
        array = image_array(shape, store.grid, level, name, checked=store.is_checked)
        write_json(folder / str(level) / "zarr.json", array)
    _write_tiles(store, folder / "tiles")
    mask, um = store.tissue_mask()
    write_tissue_label(folder, (mask > 0).astype(np.uint8), um, store.mpp, store.grid.factors())
    write_overview(folder, _overview(store, um, secret), um, store.mpp)
    profile = _profile(store) if icc else b""
    if profile:
        write_bytes(folder / ICC_KEY, profile)
    meta = shared_meta(store.meta, image_id, hashlib.sha256(profile).hexdigest() if profile else "")
    scales = image_multiscales(image_id, store.grid, store.mpp)
    ome = {"version": "0.5", "multiscales": [scales], "omero": omero()}
    write_json(folder / "zarr.json", group({"ome": ome, "gigamil": meta}))
    return {"tiles": store.n_tiles, "bytes_out": n_bytes, "inked_tiles": _inked(store.scores)}


def _profile(store: TileStore) -> bytes:
    try:
        return neutral_profile(store.icc_profile)
    except SlideError as error:
        raise SlideError(f"{error}: leave it out with --no-icc") from None


def _write_shards(store: TileStore, folder: Path, progress: Progress) -> int:
    """Write every shard of every level; return their bytes."""
    chunks = Chunks(store)
    jobs = [(level, *place) for level in range(len(store.grid.levels())) for place in shards_of(store, level)]
    progress.begin(f"share {store.image_id}", len(jobs), "shards")

    def write(job: tuple[int, int, int]) -> int:
        level, row, column = job
        found, path = chunks.shard(level, row, column), shard_path(folder, level, row, column)
        if isinstance(found, dict):
            return write_shard(path, found, store.grid.shard_tiles(level) ** 2)
        if found is not None:
            write_bytes(path, found)
        return len(found or b"")

    total = 0
    for written in ordered(write, jobs, min(4, usable_cpus())):
        total += written
        progress.advance(1)
    progress.end()
    return total


def _write_tiles(store: TileStore, folder: Path) -> None:
    damaged = store.read_array("tiles/damaged")
    if damaged.ndim != 2 or damaged.shape[1] != 2 or damaged.dtype.kind not in "iu":
        raise StoreError(f"{store.path}: tiles/damaged: expected rows and columns: tile the slide again")
    write_json(folder / "zarr.json", group({}))
    write_small_array(folder / "yx", store.tiles_yx, ("tile", "yx"))
    write_small_array(folder / "tissue", store.tissue, ("tile",))
    write_small_array(folder / "damaged", damaged.astype(np.int32), ("tile", "yx"))
    for name, values in store.scores.items():
        if name in SCORES:
            write_small_array(folder / name, values, ("tile",))


def _overview(store: TileStore, um: float, secret: bytes) -> RGB:
    """Return the overview of what lies in stored tiles, in the slide's background colour elsewhere."""
    rgb = store.read_array("overview/0").astype(np.uint8).transpose(1, 2, 0).copy()
    background = store.provenance.get("tissue", {}).get("background", (FILL, FILL, FILL))
    shown = _shown(store, YX(*rgb.shape[:2]), um)
    rgb[~shown] = np.array(background, np.uint8)
    _mark(rgb, shown, keyed(secret, store.overview_sha256()))
    return rgb


def _mark(rgb: RGB, shown: Bools, key: str) -> None:
    """Change a few pixels of the glass by a grey level, in place, as the key says."""
    rng = np.random.default_rng(int(key, 16))
    places = np.argwhere(~shown) if not shown.all() else np.argwhere(shown)
    for y, x in rng.choice(places, min(_MARKED_PX, len(places)), replace=False):
        channel = rng.integers(3)
        rgb[y, x, channel] ^= 1


def keyed(secret: bytes, picture: str) -> str:
    """Return a hash (hex) by which equal pictures are equal within one bundle, and lead nowhere outside it."""
    return hmac.new(secret, picture.encode(), hashlib.sha256).hexdigest()


def _shown(store: TileStore, shape: YX, um: float) -> Bools:
    """Return which pixels of the overview lie in a stored tile, with their centre, bool (h, w)."""
    held, tile_o = held_tiles(store), store.tile_px * store.mpp / um
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) / tile_o).astype(int), k - 1) for n, k in zip(shape, held.shape, strict=True)
    )
    shown: Bools = held[rows[:, None], columns]
    return shown


def _inked(scores: Mapping[str, NDArray[np.float32]]) -> int:
    """Return how many listed tiles show ink."""
    return int((scores["pen"] > _INK).sum()) if "pen" in scores else 0
