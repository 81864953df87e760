"""A tile store as one pyramidal OME-TIFF that OME and pathology readers both open with all levels.

OME-TIFF keeps the smaller levels in SubIFDs, which OpenSlide and viewers built on it do not look at: they want them as
further IFDs of the main chain, marked as reduced images. So each smaller level has two directory entries, one in
either place, over the same tiles: a few hundred bytes more. The OME-XML names IFD 0 alone, so that OME readers see one
image. JPEG tiles of the store are copied undecoded; anything else is written without loss unless asked otherwise.

Neither label, macro image nor overview of the slide, nor any of its text, is exported.

Specifications: TIFF 6.0, BigTIFF, OME-TIFF (ome-model 6), OpenSlide's generic tiled TIFF.
"""

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi.errors import RecipeMismatchError, StoreError
from wsi.export.jpeg_form import JpegForm, jpeg_form
from wsi.export.ome_xml import ome_xml
from wsi.export.once import export_once, profile_of
from wsi.export.options import OmeTiffOptions
from wsi.files.regular import check_regular
from wsi.machine.cpu import usable_cpus
from wsi.machine.ordered import ordered
from wsi.options import stage
from wsi.progress.outcome import Progress, Summary
from wsi.recipe import Recipe, recipe_hash
from wsi.store.codecs import Jpeg
from wsi.store.layout import FILL, shard_key
from wsi.store.tile_store import TileStore

_QUALITY = 90
_DEFLATE_LEVEL = 6
_ZSTD_LEVEL = 3
_CLASSIC_LIMIT = 3_500_000_000
"""Bytes of pixels above which the file is a BigTIFF; classic TIFF ends at 4 GiB."""
_SOFTWARE = "gigamil export "
"""How the Software tag of an export begins; the recipe's hash follows."""
_YCBCR_444 = JpegForm("ycbcr", (1, 1))


def _recipe(options: OmeTiffOptions, store: TileStore) -> dict[str, Any]:
    """Return what shapes the result."""
    return {
        "form": "OME-TIFF",
        "image_id": store.image_id,
        "store": store.recipe_hash,
        "compression": options.compression,
    }


@stage
def export_ome_tiff(options: OmeTiffOptions, progress: Progress | None = None) -> Summary:
    """Write the store's image as a pyramidal OME-TIFF, whole or not at all.

    A finished export of the same store with the same settings is skipped.

    Raises
    ------
    StoreError
        The store cannot be read.
    RecipeMismatchError
        Another file is there already.
    """
    return export_once(options, _recipe, progress, _refuse_other, _is_ours, partial(_write, options))


def _refuse_other(out: Path, recipe: Recipe) -> None:
    if _software(out) != _SOFTWARE + recipe_hash(recipe):
        raise RecipeMismatchError(
            f"{out} exists and was made from another store or with other settings: "
            "choose another --out, or give --overwrite to replace it"
        )


def _software(path: Path) -> str:
    try:
        check_regular(path)
        with tifffile.TiffFile(path) as tiff:
            return str(tiff.pages.first.software)
    except (tifffile.TiffFileError, OSError, ValueError, IndexError):
        return ""


def _is_ours(path: Path) -> bool:
    return _software(path).startswith(_SOFTWARE)


def _write(options: OmeTiffOptions, store: TileStore, path: Path, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    levels = store.grid.levels()
    counts = [store.grid.level_tiles(level) for level in range(len(levels))]
    progress.begin(f"export {store.image_id}", sum(n.y * n.x for n in counts), "tiles")
    big = sum(shape.y * shape.x * 3 for shape in levels) > _CLASSIC_LIMIT
    used = []
    with tifffile.TiffWriter(path, bigtiff=big, byteorder="<") as tiff:
        for level, shape in enumerate(levels):
            writer = _LevelWriter(store, level, options.compression)
            used.append(writer.name)
            per_cm = 1e4 / (store.mpp * store.grid.factors()[level])
            tiff.write(
                writer.tiles(options.threads or usable_cpus(), progress),
                shape=(*shape, 3),
                dtype=np.uint8,
                tile=(store.tile_px, store.tile_px),
                subifds=None if level else len(levels) - 1,
                subfiletype=1 if level else 0,
                description=None if level else ome_xml(store.image_id, shape, store.mpp, interleaved=True).encode(),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                software=_SOFTWARE + recipe_hash(recipe),
                iccprofile=profile_of(store) or None,
                metadata=None,
                **writer.tags,
            )
    progress.end()
    _link_levels(path)
    return {"levels": len(levels), "compression": used, "bigtiff": big, "bytes_out": path.stat().st_size}


class _LevelWriter:
    """Turns one level's chunks into compressed TIFF tiles."""

    def __init__(self, store: TileStore, level: int, compression: str) -> None:
        self._store = store
        self._level = level
        self._count = store.grid.level_tiles(level)
        form = self._copied_form() if compression in {"auto", "jpeg"} else None
        self._copied = form is not None
        self._form = form or (_YCBCR_444 if compression == "jpeg" else None)
        self._method = "jpeg" if self._form else "zstd" if compression == "zstd" else "deflate"
        self.name = "jpeg, copied" if self._copied else self._method
        self._blank = self._encode(np.full((store.tile_px, store.tile_px, 3), FILL, np.uint8), 100)

    @property
    def tags(self) -> dict[str, Any]:
        """What tifffile is to say of the tiles."""
        if self._form:
            # tifffile tags JPEG tiles with the colours that it would encode them in, not with `photometric`.
            return {
                "photometric": self._form.photometric,
                "compression": "jpeg",
                "compressionargs": {"outcolorspace": self._form.photometric},
                "subsampling": self._form.subsampling,
            }
        named = {"deflate": "adobe_deflate", "zstd": "zstd"}[self._method]
        return {"photometric": "rgb", "compression": named, "predictor": True}

    def tiles(self, threads: int, progress: Progress) -> Iterator[bytes]:
        """Yield the level's tiles row by row."""
        for row in ordered(self._row, range(self._count.y), threads):
            yield from row
            progress.advance(len(row))

    def _chunks(self, row: int) -> list[Any]:
        side = self._store.grid.shard_tiles(self._level)
        wanted = [
            (shard_key(self._level, row // side, column // side), row % side * side + column % side)
            for column in range(self._count.x)
        ]
        return self._store.folder.chunks(wanted, side**2)

    def _files(self, row: int) -> list[Any]:
        """Return the JPEG files of a row's chunks, None where there is none."""
        codec = self._store.codec_of(self._level)
        assert isinstance(codec, Jpeg)
        try:
            return [None if data is None else codec.file(data) for data in self._chunks(row)]
        except ValueError as error:
            where = f"a tile of row {row} of level {self._level}"
            raise StoreError(f"{self._store.path}: {where} is damaged ({error}): tile the slide again") from None

    def _copied_form(self) -> JpegForm | None:
        """Return what all of the level's chunks are alike in, None where they are not JPEG files of one form."""
        if self._store.codec_names[self._level] != "jpeg":
            return None
        forms = {jpeg_form(data) for row in range(self._count.y) for data in self._files(row) if data is not None}
        return forms.pop() if len(forms) == 1 else None

    def _row(self, row: int) -> list[bytes]:
        if self._copied and self._form:
            as_tile = self._form.as_tile
            return [self._blank if data is None else as_tile(data) for data in self._files(row)]
        tile_px, width = self._store.tile_px, self._count.x
        pixels = np.empty((width, 3, tile_px, tile_px), np.uint8)
        places = np.column_stack([np.full(width, row), np.arange(width)])
        stored = self._store.read_chunks(self._level, places, pixels)
        return [
            self._encode(np.ascontiguousarray(tile.transpose(1, 2, 0)), _QUALITY) if there else self._blank
            for tile, there in zip(pixels, stored, strict=True)
        ]

    def _encode(self, tile: NDArray[np.uint8], quality: int) -> bytes:
        if self._form:
            return self._form.encode(tile, quality)
        differences = imagecodecs.delta_encode(tile, axis=1)
        if self._method == "zstd":
            return bytes(imagecodecs.zstd_encode(differences.tobytes(), _ZSTD_LEVEL))
        return bytes(imagecodecs.deflate_encode(differences.tobytes(), _DEFLATE_LEVEL))


def _link_levels(path: Path) -> None:
    """Append a copy of each SubIFD's directory and link the copies into the main chain; tags and tiles are shared.

    OME-TIFF wants the offsets of SubIFDs kept out of the main chain, so the directories themselves are not linked.
    """
    with tifffile.TiffFile(path) as tiff:
        first, form = tiff.pages.first.offset, tiff.tiff
        levels = tiff.pages.first.subifds or ()
    with path.open("r+b") as file:

        def directory(offset: int) -> bytes:
            file.seek(offset)
            (n_tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            file.seek(offset)
            return file.read(form.tagnosize + n_tags * form.tagsize)

        pointer = first + len(directory(first))
        for level in levels:
            copy = directory(level)
            place = file.seek(0, 2)
            place += file.write(b"\0" * (-place % 8))
            file.write(copy + struct.pack(form.offsetformat, 0))
            file.seek(pointer)
            file.write(struct.pack(form.offsetformat, place))
            pointer = place + len(copy)
