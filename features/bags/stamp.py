"""Bags in STAMP's form: features and micrometre coordinates, for its training and its heat maps.

STAMP: github.com/KatherLab/STAMP. One file per slide: ``feats`` (N, D) float16; ``coords`` (N, 2) float32, (x, y) of a
tile's top-left corner in micrometres; attributes on the file.
"""

import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from features.bags.bag import BagHeader, content_sha256, feature_rows, find_bags, read_coords, read_header
from features.bags.content import sha256_of, stored_rows
from features.bags.hdf5 import Attributes, read_hdf5, writing_hdf5
from features.bags.options import StampOptions
from wsi.errors import BagError
from wsi.files.atomic import check_folder
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary

SOURCE = "source_sha256"
"""Attribute: the content hash of the bag that a file was made of."""


def export_stamp(options: StampOptions, progress: Progress | None = None) -> Summary:
    """Write every bag in STAMP's form, whole or not at all; whole exports of the same content are skipped.

    Another file of that name is left alone, and its bag fails, unless overwriting is asked.

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
    try:
        if target.resolve() == path.resolve():
            raise BagError(f"{path}: the bag itself would be replaced: choose another --out")
        header = read_header(path)
        source = content_sha256(header)
        if target.exists() and not options.overwrite:
            _check_is_of(target, source)
            return Outcome(path.stem, Status.SKIPPED, "the file is there")
        _write(target, header, source)
    except (BagError, OSError) as error:
        return Outcome(path.stem, Status.FAILED, str(error))
    return Outcome(path.stem, Status.DONE)


def _check_is_of(target: Path, source_sha256: str) -> None:
    """Raise `BagError` unless a file is the whole export of that content."""
    with suppress(BagError):
        feature_rows(target)
        if read_hdf5(target, lambda file: Attributes(file, target).text(SOURCE)) == source_sha256:
            return
    raise BagError(f"{target} is there and is not the export of this bag: choose another --out, or give --overwrite")


def _write(target: Path, header: BagHeader, source_sha256: str) -> None:
    features, yx = feature_rows(header.path), read_coords(header.path)
    if header.mpp is None or not header.tile_px_l0:
        raise BagError(
            f"{header.path}: expected a bag that tells its tiles' size and um/px, found none: extract it again"
        )
    tile_px = round(header.tile_px or header.tile_px_l0)
    tile_um = header.mpp * tile_px
    feats = stored_rows(str(header.path), features, 0, yx)
    coords = (yx[:, ::-1] * (tile_um / header.tile_px_l0)).astype(np.float32)
    with writing_hdf5(target) as file:
        file["feats"] = feats
        file["coords"] = coords
        file.attrs.update(
            {
                "stamp_version": "2.0.0",
                "extractor": header.encoder,
                "unit": "um",
                "tile_size_um": tile_um,
                "tile_size_px": tile_px,
                "code_hash": header.recipe_hash,
                "feat_type": "tile",
                "content_sha256": sha256_of([feats, coords]),
                SOURCE: source_sha256,
            }
        )
