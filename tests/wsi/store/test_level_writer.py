"""Levels made tile by tile equal the picture halved as a whole."""

from contextlib import nullcontext

import numpy as np
import pytest

from wsi.pixels.resample import halve
from wsi.store.codecs import codec
from wsi.store.grid import Grid
from wsi.store.pyramid import LevelWriter, whiten_beyond
from wsi.units import YX

SIDE = 16


def tiles_of(pixels: np.ndarray, shape: YX) -> dict[YX, np.ndarray]:
    """Cut a picture into tiles, white beyond it."""
    rows, columns = -(-shape.y // SIDE), -(-shape.x // SIDE)
    padded = np.full((rows * SIDE, columns * SIDE, 3), 255, np.uint8)
    padded[: shape.y, : shape.x] = pixels[: shape.y, : shape.x]
    places = [YX(y, x) for y in range(rows) for x in range(columns)]
    return {p: padded[p.y * SIDE : (p.y + 1) * SIDE, p.x * SIDE : (p.x + 1) * SIDE].copy() for p in places}


def write(name: str, pixels: np.ndarray, grid: Grid, first: int = 0) -> list[dict[YX, bytes]]:
    """Write all levels from one on, whose tiles are put in; return each level's compressed tiles."""
    found: list[dict[YX, bytes]] = [{} for _ in grid.levels()]
    steps: list[str] = []

    def timed(step: str) -> nullcontext[None]:
        steps.append(step)
        return nullcontext()

    writer: LevelWriter | None = None
    for level in reversed(range(first, len(found))):
        writer = LevelWriter(grid, level, name, found[level].__setitem__, timed, writer)
        assert writer.wants_pixels == (level < len(found) - 1)
    assert writer is not None
    for place, tile in tiles_of(pixels, grid.levels()[first]).items():
        beyond = tile.copy()
        height, width = (n - p * SIDE for n, p in zip(grid.levels()[first], place, strict=True))
        beyond[max(height, 0) :], beyond[:, max(width, 0) :] = 0, 0  # black padding must not get through
        writer.put(place, beyond)
    writer.end()
    assert set(steps) == {"encode", "scale"}
    return found


def halved(stored: np.ndarray) -> np.ndarray:
    """Halve tile by tile, as levels are made: whether a half goes up depends on the place within its tile."""
    out = np.empty((stored.shape[0] // 2, stored.shape[1] // 2, 3), np.uint8)
    for y in range(0, stored.shape[0], SIDE):
        for x in range(0, stored.shape[1], SIDE):
            out[y // 2 : (y + SIDE) // 2, x // 2 : (x + SIDE) // 2] = halve(stored[y : y + SIDE, x : x + SIDE])
    return out


def decoded(name: str, data: bytes) -> np.ndarray:
    planes = np.empty((3, SIDE, SIDE), np.uint8)
    codec(name).decode_into(data, planes)
    return planes.transpose(1, 2, 0)


@pytest.mark.parametrize("shape", [YX(70, 53), YX(64, 96), YX(33, 130), YX(65, 17)])
@pytest.mark.parametrize("name", ["zstd", "jpeg"])
def test_each_level_is_half_of_the_one_above_as_it_is_stored(name: str, shape: YX) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    grid = Grid(shape, SIDE)
    found = write(name, pixels, grid)
    above = pixels
    for level, (own, tiles) in enumerate(zip(grid.levels(), found, strict=True)):
        expected = tiles_of(above, own)
        assert sorted(tiles) == sorted(expected)
        stored = np.empty((grid.level_tiles(level).y * SIDE, grid.level_tiles(level).x * SIDE, 3), np.uint8)
        for place, tile in expected.items():
            assert tiles[place] == bytes(codec(name).encode(np.ascontiguousarray(tile)))
            part = stored[place.y * SIDE :, place.x * SIDE :]
            part[:SIDE, :SIDE] = decoded(name, tiles[place])
        above = halved(stored)[: own.y // 2, : own.x // 2]


def test_a_tile_that_lies_there_already_reaches_the_coarser_levels() -> None:
    grid = Grid(YX(40, 40), SIDE)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    found: dict[YX, bytes] = {}
    sunk: list[YX] = []
    coarser = LevelWriter(grid, 1, "zstd", found.__setitem__, lambda _: nullcontext())
    writer = LevelWriter(grid, 0, "zstd", lambda place, _: sunk.append(place), lambda _: nullcontext(), coarser)
    tiles = tiles_of(pixels, YX(40, 40))
    for place, tile in tiles.items():
        data = bytes(codec("zstd").encode(np.ascontiguousarray(tile)))
        if place.y == 0:
            writer.pass_on(place, writer.decoded(place, data))
        else:
            writer.put_stored(place, data, tile if place.x < 2 else None)
    writer.end()
    assert sunk == [place for place in tiles if place.y]
    padded = np.full((48, 48, 3), 255, np.uint8)
    padded[:40, :40] = pixels
    expected = tiles_of(halved(padded)[:20, :20], YX(20, 20))
    assert sorted(found) == sorted(place for place in expected if place != (1, 1))  # its tile was not handed on
    expected[YX(0, 1)][8:] = 255  # nor that of its lower half
    for place in (YX(0, 0), YX(0, 1), YX(1, 0)):
        np.testing.assert_array_equal(decoded("zstd", found[place]), expected[place])


def test_what_lies_beyond_is_whitened_and_nothing_else() -> None:
    for shape, tile, height, width in (((40, 24), (1, 1), 16, 8), ((40, 24), (2, 0), 8, 16), ((40, 24), (3, 2), 0, 0)):
        pixels = whiten_beyond(np.zeros((SIDE, SIDE, 3), np.uint8), YX(*shape), YX(*tile))
        assert (pixels[:height, :width] == 0).all()
        assert (pixels[height:] == 255).all()
        assert (pixels[:, width:] == 255).all()
