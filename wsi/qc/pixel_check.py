"""Whether every pixel of a slide can be decoded: each tile of each level once, in bounded memory."""

from dataclasses import dataclass

from wsi.pages import plural
from wsi.progress.outcome import Progress, Silent
from wsi.readers.protocol import Level, Slide
from wsi.units import YX, Box, ceil_div

_BLOCK_PX = 2048
_UNTILED = YX(256, 256)


@dataclass(frozen=True, slots=True)
class PixelCheck:
    """What decoding everything showed."""

    n_tiles: int
    """Of all levels; where the reader knows no tiles, blocks of 256 px."""
    damaged: tuple[tuple[int, Box], ...]
    """(level, box in that level's pixels) of what cannot be decoded."""

    def __str__(self) -> str:
        """Say it in one clause."""
        if not self.damaged:
            return f"all {self.n_tiles:,} tiles decode" if self.n_tiles != 1 else "its one tile decodes"
        level, box = self.damaged[0]
        places = f"the first at level {level}, y {box.y0}, x {box.x0}"
        return f"{len(self.damaged):,} of {plural(self.n_tiles, 'tile')} cannot be decoded, {places}"


def check_pixels(slide: Slide, progress: Progress | None = None) -> PixelCheck:
    """Decode every tile of every level; a box that fails is recorded and the others go on."""
    progress = progress or Silent()
    tiles = [_tiles(level) for level in slide.levels]
    progress.begin(slide.path.name, sum(t.y * t.x for t in tiles), "tiles")
    damaged: list[tuple[int, Box]] = []
    for index, level in enumerate(slide.levels):
        tile = level.tile or _UNTILED
        for box in _blocks(level):
            found: list[Box] = []
            slide.read(index, box, found)
            damaged += [(index, part) for part in found]
            progress.advance(ceil_div(box.shape.y, tile.y) * ceil_div(box.shape.x, tile.x))
    progress.end()
    return PixelCheck(sum(t.y * t.x for t in tiles), tuple(damaged))


def _tiles(level: Level) -> YX:
    tile = level.tile or _UNTILED
    return YX(ceil_div(level.shape.y, tile.y), ceil_div(level.shape.x, tile.x))


def _blocks(level: Level) -> list[Box]:
    """Cut a level into blocks of whole tiles, about 2048 px a side."""
    tile = level.tile or _UNTILED
    step = YX(*(max(1, _BLOCK_PX // side) * side for side in tile))
    return [
        Box(y, x, y + step.y, x + step.x).clipped(level.shape)
        for y in range(0, level.shape.y, step.y)
        for x in range(0, level.shape.x, step.x)
    ]
