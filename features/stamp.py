"""Bags in STAMP's form: features and micrometre coordinates, for its training and its heat maps.

STAMP: github.com/KatherLab/STAMP. One file per slide: ``feats`` (N, D) float16; ``coords`` (N, 2) float32, (x, y) of a
tile's top-left corner in micrometres; attributes on the file.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from features.bag import BagHeader, find_bags, read_coords, read_features, read_header
from wsi.atomic import check_folder, replacing
from wsi.errors import BagError
from wsi.outcome import Outcome, Progress, Silent, Status, Summary


@dataclass(frozen=True, kw_only=True)
class StampOptions:
    """What to write anew."""

    bags: Sequence[Path]
    """Bags, or folders that hold them."""
    out: Path
    """Folder of the files, one per bag, of the bag's name."""
    overwrite: bool = False


def export_stamp(options: StampOptions, progress: Progress | None = None) -> Summary:
    """Write every bag in STAMP's form; files that are there are skipped unless overwriting is asked.

    Raises
    ------
    RequestError
        No bag is found, or ``out`` cannot be a folder.
    """
    start, progress = time.perf_counter(), progress or Silent()
    paths = find_bags(options.bags)
    check_folder(options.out)
    progress.begin("export", len(paths), "bags")
    outcomes = []
    for path in paths:
        outcomes.append(_exported(path, options))
        progress.advance(1)
    progress.end()
    return Summary("export", outcomes, time.perf_counter() - start)


def _exported(path: Path, options: StampOptions) -> Outcome:
    target = options.out / path.name
    if target.exists() and not options.overwrite:
        return Outcome(path.stem, Status.SKIPPED, "the file is there")
    try:
        if target.resolve() == path.resolve():
            raise BagError(f"{path}: the bag itself would be replaced: choose another --out")
        _write(target, read_header(path))
    except (BagError, OSError) as error:
        return Outcome(path.stem, Status.FAILED, str(error))
    return Outcome(path.stem, Status.DONE)


def _write(target: Path, header: BagHeader) -> None:
    features, yx = read_features(header.path), read_coords(header.path)
    if header.mpp is None or not header.tile_px_l0:
        raise BagError(
            f"{header.path}: expected a bag that tells its tiles' size and um/px, found none: extract it again"
        )
    with h5py.File(header.path, "r", locking=False) as file:
        tile_px = int(file["coords"].attrs.get("patch_size", round(header.tile_px_l0)))
    tile_um = header.mpp * tile_px
    with replacing(target) as temporary, h5py.File(temporary, "w") as file:
        file["feats"] = features.astype(np.float16)
        file["coords"] = (yx[:, ::-1] * (tile_um / header.tile_px_l0)).astype(np.float32)
        file.attrs.update(
            {
                "stamp_version": "2.0.0",
                "extractor": header.encoder,
                "unit": "um",
                "tile_size_um": tile_um,
                "tile_size_px": tile_px,
                "code_hash": header.recipe_hash,
                "feat_type": "tile",
            }
        )
