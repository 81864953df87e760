"""A slide straight from its file, shown as a tile store is: square tiles at powers of two, whatever its format."""

from functools import cached_property

import numpy as np

from wsi.arrays import RGB, Bools
from wsi.errors import says_damage
from wsi.pixels.resample import area_average, halve, source_box
from wsi.readers.protocol import Slide
from wsi.readers.tiles import Tiles
from wsi.store.codecs import Jpeg
from wsi.store.grid import Grid
from wsi.store.layout import FILL
from wsi.tissue.background import estimate_background
from wsi.units import YX, Box
from wsi.viewing.kept import Kept

_PLAIN = Jpeg(checked=False)
_TILE_PX = 256
_SIDES = (128, 1024)
"""Tiles of the file's own size are shown as they are where it is within these, in pixels."""
_DIRECT = 4
"""A tile is averaged from the slide's own level up to this factor; a coarser one from the four tiles below it."""
_CACHE_BYTES = 64 << 20
_SMALL_PX = 4 << 20
"""The background is looked for on a whole level of at most so many pixels, else on patches along the border."""
_PATCH_PX = 256


class LivePicture:
    """An open slide as a `wsi.viewing.picture.Picture`: all of its tiles are there, with tissue or without.

    JPEG tiles are copied undecoded where the slide has them at that scale. What cannot be decoded is magenta. Coarse
    tiles of a slide of few levels are made of finer ones and kept, up to 64 MiB. May be asked from several threads.

    Parameters
    ----------
    slide
        Open, in its own colours; the caller closes it.
    image_id
        Its name.
    mpp
        um/px of its level 0; NaN where nobody knows.
    """

    l0_px_per_px = 1.0

    def __init__(self, slide: Slide, image_id: str, mpp: float) -> None:
        self.image_id, self.mpp = image_id, mpp
        self._slide = slide
        own = slide.levels[0].tile
        self.tile_px = own.y if own and own.y == own.x and _SIDES[0] <= own.y <= _SIDES[1] else _TILE_PX
        self._grid = Grid(slide.levels[0].shape, self.tile_px)
        self.levels, self.factors = tuple(self._grid.levels()), tuple(self._grid.factors())
        self._kept = Kept(_CACHE_BYTES)

    @cached_property
    def background(self) -> tuple[int, int, int]:
        """The colour of the empty slide, estimated."""
        last = len(self._slide.levels) - 1
        height, width = self._slide.levels[last].shape
        if height * width <= _SMALL_PX:
            seen = self._slide.read(last, Box(0, 0, height, width), [])
        else:
            sides = [[0, (n - _PATCH_PX) // 2, n - _PATCH_PX] for n in (height, width)]
            boxes = [Box(y, x, y + _PATCH_PX, x + _PATCH_PX) for y in sides[0] for x in sides[1]]
            seen = np.concatenate([self._slide.read(last, box, []) for box in boxes])
        return estimate_background(np.ascontiguousarray(seen), np.ones(seen.shape[:2], bool))[0]

    def present(self, level: int) -> Bools:
        return np.ones(self._grid.level_tiles(level), bool)

    def jpeg(self, level: int, row: int, column: int) -> bytes | None:
        tiles = self._grid.level_tiles(level) if 0 <= level < len(self.levels) else YX(0, 0)
        if not (0 <= row < tiles.y and 0 <= column < tiles.x):
            return None
        return self._copied(level, row, column) or self._encoded(level, row, column)[0]

    def pixels(self, level: int, row: int, column: int) -> RGB:
        """Return a tile, uint8 (T, T, 3); beyond the slide it is white."""
        source, factor = self._source(level)
        out = Box(row, column, row + 1, column + 1)
        place = Box(*(edge * self.tile_px for edge in out)).clipped(self.levels[level])
        tile = np.full((self.tile_px, self.tile_px, 3), FILL, np.uint8)
        found = self._averaged(source, factor, place) if factor <= _DIRECT else self._halved(level, place)
        tile[: place.shape.y, : place.shape.x] = found
        return tile

    def _source(self, level: int) -> tuple[int, float]:
        """Return the slide's coarsest level that is fine enough, and how many of its pixels make one of ``level``."""
        usable = [i for i, own in enumerate(self._slide.levels) if own.downsample <= 2**level * (1 + 1e-6)]
        source = max(usable, key=lambda i: self._slide.levels[i].downsample)
        factor = 2**level / self._slide.levels[source].downsample
        return source, float(round(factor)) if abs(factor - round(factor)) < 1e-6 else factor

    def _averaged(self, source: int, factor: float, place: Box) -> RGB:
        box, own = source_box(place, factor), self._slide.levels[source].shape
        tiles = self._slide.tiles(source) if factor > 1 else None
        if tiles and tiles.can_reduce(factor):
            return tiles.read_reduced(box, int(factor), [])
        inside = box.clipped(own)
        pixels = self._slide.read(source, inside, [])
        missing = [(a - b, d - c) for a, b, c, d in zip(inside[:2], box[:2], inside[2:], box[2:], strict=True)]
        if any(map(any, missing)):  # a level of the file may be rounded down
            pixels = np.pad(pixels, (*missing, (0, 0)), mode="edge")
        return area_average(np.ascontiguousarray(pixels), YX(box.y0, box.x0), place, factor)

    def _halved(self, level: int, place: Box) -> RGB:
        """Average the four tiles below one, each made once while there is room for it."""
        side, below = self.tile_px, self._grid.level_tiles(level - 1)
        row, column = 2 * place.y0 // side, 2 * place.x0 // side
        wide = np.full((2 * side, 2 * side, 3), FILL, np.uint8)
        for y in range(row, min(row + 2, below.y)):
            for x in range(column, min(column + 2, below.x)):
                part = np.s_[(y - row) * side : (y - row + 1) * side, (x - column) * side : (x - column + 1) * side]
                wide[part] = self._encoded(level - 1, y, x)[1]
        return halve(wide[: 2 * place.shape.y, : 2 * place.shape.x], YX(place.y0, place.x0))

    def _encoded(self, level: int, row: int, column: int) -> tuple[bytes, RGB]:
        """Return a tile as a JPEG file, kept where it was dear, and its pixels."""
        key = (level, row, column)
        if (known := self._kept.get(key)) is not None:
            return known, _PLAIN.pixels(known, self.tile_px)
        pixels = self.pixels(level, row, column)
        file = _PLAIN.encode(pixels)
        if self._source(level)[1] > 1:
            self._kept.put(key, file)
        return file, pixels

    def _copied(self, level: int, row: int, column: int) -> bytes | None:
        """Return the slide's own JPEG tile as a file, None where it has none at just that place, or a damaged one."""
        source, factor = self._source(level)
        tiles = self._slide.tiles(source) if factor == 1 else None
        if tiles is None or not _fits(tiles, self.tile_px, YX(row, column)):
            return None
        try:
            return tiles.file(row * tiles.cut.grid.x + column) or None
        except Exception as error:  # the way through the pixels shows what is wrong
            if not says_damage(error):
                raise
            return None


def _fits(tiles: Tiles, side: int, place: YX) -> bool:
    inside = place.y < tiles.cut.grid.y and place.x < tiles.cut.grid.x
    return tiles.jpeg is not None and tiles.cut.tile == (side, side) and inside
