"""Parts of a bag: the features of some rows, each a whole small file in a hidden folder beside the bag.

    .<bag name>.<recipe hash>.parts/<first row>-<end row>.npy      float16 or float32 (rows, dim)

Ranks that share a slide leave parts, and so does a run that is stopped; the last one joins and removes them.
"""

import glob
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.bags.bag import BagFacts, write_bag
from features.extraction.plan import Job, RowRange, SlideJob, joined
from features.stain import fit_stain
from wsi.arrays import Features
from wsi.errors import BagError
from wsi.files.atomic import PARTIAL, write_bytes
from wsi.files.replace import discard, remove
from wsi.recipe import recipe_hash
from wsi.store.tile_store import TileStore

HASH_DIGITS = 16


def parts_folder(slide: SlideJob) -> Path:
    """Return where the slide's parts lie: another recipe has another folder."""
    return slide.bag.with_name(f".{slide.bag.name}.{recipe_hash(slide.recipe)[:HASH_DIGITS]}.parts")


def write_part(slide: SlideJob, first_row: int, features_ND: Features) -> None:
    """Write the features of some rows, whole or not at all; `BagError` where the disk is full."""
    target = parts_folder(slide) / f"{first_row:09d}-{first_row + len(features_ND):09d}.npy"
    buffer = io.BytesIO()  # numpy, writing to a file, keeps quiet about a full disk
    np.save(buffer, features_ND, allow_pickle=False)
    try:
        write_bytes(target, buffer.getvalue())
    except OSError as error:
        told = f"{target} cannot be written ({error.strerror or error}): make room and run it again"
        raise BagError(told) from None


def covered_rows(slide: SlideJob, job: Job) -> tuple[RowRange, ...]:
    """Return the rows for which whole parts are there; parts that are not right are removed."""
    rows = []
    for path in parts_folder(slide).glob("*.npy"):
        start, stop = _rows_of(path)
        if _is_right(path, (stop - start, job.width), job.bag_dtype) and 0 <= start < stop <= slide.n_tiles:
            rows.append((start, stop))
        else:
            remove(path)
    return joined(rows)


def _rows_of(path: Path) -> RowRange:
    start, _, stop = path.stem.partition("-")
    return (int(start), int(stop)) if start.isdigit() and stop.isdigit() else (0, 0)


def _is_right(path: Path, shape: tuple[int, int], dtype: str) -> bool:
    try:
        part: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return part.shape == shape and part.dtype == dtype


def assemble(job: Job, slide: SlideJob) -> None:
    """Write the bag from its parts, then remove them.

    Raises
    ------
    BagError
        Rows are missing (another program removed parts), or a feature is not finite.
    """
    blocks: list[Features] = []
    position = 0
    for path in sorted(parts_folder(slide).glob("*.npy")):
        start, stop = _rows_of(path)
        if start <= position < stop:
            blocks.append(np.load(path, mmap_mode="r", allow_pickle=False)[position - start :])
            position = stop
    if position != slide.n_tiles:
        raise BagError(f"{slide.bag.name}: expected parts of {slide.n_tiles} tiles, found {position}: run it again")
    write_whole(job, slide, blocks)


def write_whole(job: Job, slide: SlideJob, blocks: list[Features]) -> None:
    """Write the bags from blocks of rows (n, width), and remove what is left of parts, of this recipe and of others."""
    store = TileStore(slide.store)
    blocks = blocks or [np.empty((0, job.width), job.bag_dtype)]
    coords_l0_yx = np.repeat(store.coords_l0_yx()[slide.store_rows(0, slide.n_tiles)], job.kept_views, axis=0)
    found = {"overview_sha256": store.overview_sha256()}
    if job.stain != "none":
        found |= fit_stain(job.stain, store).as_dict()
    for target in slide.targets:
        facts = BagFacts(
            image_id=slide.image_id,
            encoder=target.encoder,
            recipe=target.recipe,
            provenance={**target.provenance, **found},
            tile_px=slide.tile_px,
            l0_px_per_px=store.l0_px_per_px,
            level0_shape_yx=store.slide_shape_yx,
            mpp=store.mpp,
        )
        rows = [_rows(block, job, target.columns) for block in blocks]
        write_bag(target.path, rows, coords_l0_yx, facts, job.bag_dtype)
    remove_parts(slide)


def _rows(block: Features, job: Job, columns: slice) -> Features:
    """Return a bag's rows: its columns of the encoder's, and a row for each view that is kept."""
    views = block.reshape(len(block), job.kept_views, job.dim)[:, :, columns]
    return np.ascontiguousarray(views.reshape(len(block) * job.kept_views, views.shape[2]))


def remove_parts(slide: SlideJob) -> None:
    """Remove the parts of a slide's bags, of any recipe."""
    for target in slide.targets:
        for folder in target.path.parent.glob(f".{glob.escape(target.path.name)}.*.parts"):
            with suppress(OSError):
                discard(folder)


def remove_unfinished(slide: SlideJob) -> None:
    """Remove what killed runs left half-written; only while the bag is claimed."""
    beside = [
        path for bag in slide.targets for path in bag.path.parent.glob(f".{glob.escape(bag.path.name)}.*{PARTIAL}")
    ]
    for path in [*beside, *parts_folder(slide).glob(f".*{PARTIAL}")]:
        discard(path)
