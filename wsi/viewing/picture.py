"""A slide as pages show it: levels of square JPEG tiles, level 0 the finest, each a half, a quarter, ... of the last.

Tiles are addressed by level, row and column. Those at the right and lower end are as large as the others: what of them
lies beyond the level is nobody's, and whoever shows them cuts it off.
"""

from functools import cached_property
from typing import Protocol

import cv2
import numpy as np

from wsi.arrays import RGB, Bools, Ints
from wsi.errors import StoreError, says_damage
from wsi.pixels.channels import smallest
from wsi.pixels.jpeg import jpeg_header
from wsi.store.chunk_sizes import chunk_sizes
from wsi.store.codecs import Jpeg
from wsi.store.folder import Bytes
from wsi.store.layout import FILL, shard_key
from wsi.store.tile_store import TileStore
from wsi.tissue.background import estimate_background
from wsi.units import YX

_PLAIN = Jpeg(checked=False)
"""Quality 90, colours not subsampled; no checksum behind the file, which browsers would not want."""


class Picture(Protocol):
    """A slide in levels of JPEG tiles, from wherever it comes."""

    @property
    def image_id(self) -> str:
        """The slide's id."""

    @property
    def mpp(self) -> float:
        """um/px of level 0 as shown."""

    @property
    def l0_px_per_px(self) -> float:
        """Level-0 pixels of the slide per pixel of level 0 as shown."""

    @property
    def tile_px(self) -> int:
        """Side of a tile in pixels."""

    @property
    def levels(self) -> tuple[YX, ...]:
        """Height and width of each level, the finest first."""

    @property
    def factors(self) -> tuple[int, ...]:
        """How many pixels of level 0 one of each level covers, along each side."""

    @property
    def background(self) -> tuple[int, int, int]:
        """Red, green, blue (0 to 255) of the empty slide, for where there is no tile."""

    def present(self, level: int) -> Bools:
        """Return which tiles of a level there are, (rows, columns)."""

    def jpeg(self, level: int, row: int, column: int) -> bytes | None:
        """Return a tile as a JPEG file, None where there is none.

        Raises
        ------
        ItemError
            The tile cannot be read; the message names it.
        """


class StorePicture:
    """A tile store as a `Picture`: JPEG chunks as they are, undecoded; others encoded.

    Raises `StoreError` wherever the store is missing or damaged.
    """

    def __init__(self, store: TileStore) -> None:
        self.store = store
        self._sizes: dict[int, Ints] = {}

    @property
    def image_id(self) -> str:
        return self.store.image_id

    @property
    def mpp(self) -> float:
        return self.store.mpp

    @property
    def l0_px_per_px(self) -> float:
        return self.store.l0_px_per_px

    @property
    def tile_px(self) -> int:
        return self.store.tile_px

    @cached_property
    def levels(self) -> tuple[YX, ...]:
        return tuple(self.store.grid.levels())

    @cached_property
    def factors(self) -> tuple[int, ...]:
        return tuple(self.store.grid.factors())

    @cached_property
    def background(self) -> tuple[int, int, int]:
        """The colour that tissue was found against; of stores that do not tell it, estimated from the overview."""
        if colour := self.store.provenance.get("tissue", {}).get("background"):
            return (colour[0], colour[1], colour[2])
        overview = np.ascontiguousarray(self.store.read_array("overview/0").astype(np.uint8).transpose(1, 2, 0))
        return estimate_background(overview, np.ones(overview.shape[:2], bool))[0]

    def sizes(self, level: int) -> Ints:
        """Return the bytes of each chunk, int64 (rows, columns), 0 where it is absent; read once."""
        if level not in self._sizes:
            self._sizes[level] = chunk_sizes(self.store, level)
        return self._sizes[level]

    def copied(self, level: int) -> bool:
        """Tell whether a level's chunks are JPEG files already."""
        return isinstance(self.store.codec_of(level), Jpeg)

    def present(self, level: int) -> Bools:
        return self.sizes(level) > 0

    def holds(self, level: int, row: int, column: int) -> bool:
        """Tell whether there can be such a tile: it lies on the slide."""
        tiles = self.store.grid.level_tiles(level) if 0 <= level < len(self.levels) else YX(0, 0)
        return 0 <= row < tiles.y and 0 <= column < tiles.x

    def jpeg(self, level: int, row: int, column: int) -> bytes | None:
        if not self.holds(level, row, column):
            return None
        side = self.store.grid.shard_tiles(level)
        wanted = (shard_key(level, row // side, column // side), row % side * side + column % side)
        (data,) = self.store.folder.chunks([wanted], side**2)
        return None if data is None else self.tile_file(level, row, column, data)

    def tile_file(self, level: int, row: int, column: int, data: Bytes) -> bytes:
        """Return the JPEG file of a tile from its chunk's bytes, as they lie in the shard.

        Raises
        ------
        StoreError
            The chunk is damaged, or holds a picture of another size.
        """
        codec = self.store.codec_of(level)
        try:
            if isinstance(codec, Jpeg):
                return self._checked(bytes(codec.file(data)))
            return _PLAIN.encode(self._painted(level, row, column, codec.pixels(data, self.tile_px)))
        except Exception as error:  # codecs raise nearly anything on damaged bytes
            if not says_damage(error):
                raise
            what = f"tile ({row}, {column}) of level {level}"
            raise StoreError(f"{self.store.path}: {what} is damaged ({error}): tile the slide again") from None

    def _checked(self, file: bytes) -> bytes:
        """Return a JPEG file, unless it declares another size: browsers would make room for whatever it says."""
        size = jpeg_header(file).size
        if size != (self.tile_px, self.tile_px):
            raise ValueError(f"expected a JPEG of {self.tile_px} px a side, found {size.x} x {size.y}")
        return file

    def _painted(self, level: int, row: int, column: int, pixels: RGB) -> RGB:
        """Give what of a coarser tile was made from absent ones the background's colour in place of white."""
        step = self.factors[level]
        held = self.present(0)[row * step : (row + 1) * step, column * step : (column + 1) * step]
        if not level or held.all():
            return pixels
        absent = np.ones((step, step), np.uint8)
        absent[: held.shape[0], : held.shape[1]] = ~held
        wide = cv2.resize(absent, (self.tile_px, self.tile_px), interpolation=cv2.INTER_NEAREST)
        pixels[(wide > 0) & (smallest(pixels) == FILL)] = self.background
        return pixels
