"""Pure geometry: the grid covers the slide exactly once."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi.store.grid import SHARD_TILES, TASK_LEVELS, Grid, any_under, runs, tile_means, with_levels
from wsi.units import YX

sides = st.integers(1, 40_000)
tile_sizes = st.sampled_from([32, 224, 240, 256, 512])


@given(sides, sides, tile_sizes)
def test_regions_cover_every_tile_exactly_once(height: int, width: int, tile_px: int) -> None:
    grid = Grid(YX(height, width), tile_px)
    counts = np.zeros(grid.tiles, int)
    for y in range(grid.regions.y):
        for x in range(grid.regions.x):
            box = grid.region_tiles(YX(y, x))
            counts[box.y0 : box.y1, box.x0 : box.x1] += 1
    assert (counts == 1).all()
    assert (grid.tiles.y - 1) * tile_px < height <= grid.tiles.y * tile_px


@given(sides, sides, tile_sizes)
def test_levels_halve_until_one_tile_holds_them(height: int, width: int, tile_px: int) -> None:
    levels = Grid(YX(height, width), tile_px).levels()
    for finer, coarser in pairwise(levels):
        assert coarser == (finer.y // 2, finer.x // 2)
        assert max(finer) > tile_px
        assert min(finer) > 1
    assert min(levels[-1]) >= 1
    assert max(levels[-1]) <= tile_px or min(levels[-1]) == 1


@given(sides, sides, tile_sizes)
def test_a_region_is_one_whole_shard_on_each_task_level(height: int, width: int, tile_px: int) -> None:
    grid = Grid(YX(height, width), tile_px)
    for level, shape in list(enumerate(grid.levels()))[:TASK_LEVELS]:
        shard_px = grid.shard_tiles(level) * tile_px
        assert shard_px << level == SHARD_TILES * tile_px
        shards = {
            (y, x) for y in range(grid.regions.y) for x in range(grid.regions.x) if grid.has_shard(level, YX(y, x))
        }
        assert len(shards) == -(-shape.y // shard_px) * -(-shape.x // shard_px)


@given(st.lists(st.booleans(), max_size=40))
def test_runs_give_back_the_mask(flags: list[bool]) -> None:
    back = np.zeros(len(flags), bool)
    for start, stop in runs(np.array(flags, bool)):
        assert not back[start:stop].any()
        back[start:stop] = True
    assert back.tolist() == flags


@settings(max_examples=60)
@given(st.integers(4, 40), st.integers(4, 40), st.floats(1.0, 17.0), st.integers(0, 2**32 - 1))
def test_tissue_fractions_lose_nothing(height: int, width: int, tile_o: float, seed: int) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < 0.3).astype(np.uint8)
    tiles = YX(int(np.ceil(height / tile_o)), int(np.ceil(width / tile_o)))
    fractions = tile_means(mask, tile_o, tiles, (height, width))
    edges_y = np.minimum(np.arange(tiles.y + 1) * tile_o, height)
    edges_x = np.minimum(np.arange(tiles.x + 1) * tile_o, width)
    areas = np.diff(edges_y)[:, None] * np.diff(edges_x)
    assert fractions.min() >= 0
    assert fractions.max() <= 1
    np.testing.assert_allclose((fractions * areas).sum(), mask.sum(), rtol=1e-4, atol=1e-3)


def test_tissue_fractions_of_a_known_mask() -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[:2, :3] = 1
    np.testing.assert_allclose(tile_means(mask, 2, YX(2, 3), (4, 6)), np.array([[1, 0.5, 0], [0, 0, 0]]))


def test_edge_tiles_are_judged_by_what_lies_on_the_slide() -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[:9, :9] = 1
    np.testing.assert_allclose(tile_means(mask, 4.0, YX(3, 3), (9.0, 9.0)), 1.0)
    np.testing.assert_allclose(tile_means(mask, 4.0, YX(3, 3), (9.0, 9.5))[0], [1, 1, 1 / 1.5])


def test_levels_shards_and_tiles_at_the_ends() -> None:
    assert Grid(YX(512, 512), 256).levels() == [(512, 512), (256, 256)]  # fits: no further level
    assert Grid(YX(300, 2), 64).levels() == [(300, 2), (150, 1)]  # a row of pixels cannot be halved
    assert SHARD_TILES >> (TASK_LEVELS - 1) == 1
    grid = Grid(YX(513, 1026), 32)
    assert [grid.shard_tiles(level) for level in range(7)] == [16, 8, 4, 2, 1, 1, 1]
    assert [grid.level_tiles(level) for level in range(6)] == [(17, 33), (8, 17), (4, 8), (2, 4), (1, 2), (1, 1)]
    assert [grid.has_shard(level, YX(1, 0)) for level in (0, 1, 4)] == [True, False, False]  # 256 rows at level 1
    assert [grid.has_shard(level, YX(0, 2)) for level in (0, 1, 2)] == [True, True, False]
    assert not any(grid.has_shard(0, far) for far in (YX(3, 0), YX(0, 4)))
    assert grid.factors() == [1, 2, 4, 8, 16, 32]
    assert grid.task_levels() == 5
    assert grid.regions == (2, 3)
    assert grid.region_tiles(YX(1, 2)) == (16, 32, 17, 33)


def test_levels_of_a_source_pyramid_are_taken_as_they_are() -> None:
    grid = with_levels(Grid(YX(4100, 2050), 256), [(4, YX(1025, 513)), (32, YX(128, 64))])
    assert grid.levels() == [(4100, 2050), (1025, 513), (128, 64)]
    assert grid.factors() == [1, 4, 32]
    assert grid.task_levels() == 2
    assert [grid.shard_tiles(level) for level in range(3)] == [16, 4, 1]
    assert grid.level_tiles(1) == (5, 3)
    assert with_levels(Grid(YX(64, 64), 32), [(2, YX(32, 32)), (4, YX(16, 16))]).factors() == [1, 2, 4]
    for wrong in (
        [(3, YX(1366, 683))],
        [(4, YX(1025, 513)), (4, YX(1025, 513))],
        [(4, YX(1027, 513))],
        [(1, YX(4100, 2050))],
    ):
        with pytest.raises(ValueError, match="does not fit"):
            with_levels(Grid(YX(4100, 2050), 256), wrong)


@pytest.mark.parametrize("shape", [(8, 8), (7, 8), (8, 5), (5, 6)])
def test_chunks_under_a_coarser_one_are_cut_off_by_the_edge(shape: tuple[int, int]) -> None:
    for y, x in np.ndindex(shape):
        present = np.zeros(shape, bool)
        present[y, x] = True
        expected = np.zeros([-(-side // 4) for side in shape], bool)
        expected[y // 4, x // 4] = True
        np.testing.assert_array_equal(any_under(present, 4), expected)


@settings(max_examples=60)
@given(
    st.sampled_from([np.uint8, np.float32]), st.floats(0.6, 9.0), st.floats(1.0, 14.0), st.floats(1.0, 14.0),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_means_are_those_of_the_area_that_a_tile_covers(
    dtype: type, tile_o: float, height: float, width: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    picture: NDArray[Any] = (255 * rng.random((11, 9))).astype(dtype)
    tiles = YX(int(np.ceil(14 / tile_o)), int(np.ceil(14 / tile_o)))

    def overlaps(n: int, end: float, count: int) -> np.ndarray:
        """Return how much of each pixel each tile covers."""
        low = np.minimum(np.arange(count) * tile_o, end)[:, None]
        high = np.minimum(np.arange(1, count + 1) * tile_o, end)[:, None]
        return np.clip(np.minimum(high, np.arange(n) + 1) - np.maximum(low, np.arange(n)), 0, None)

    down, across = overlaps(11, min(height, 11), tiles.y), overlaps(9, min(width, 9), tiles.x)
    area = down.sum(1)[:, None] * across.sum(1)
    expected = np.where(area > 1e-6, down @ picture.astype(float) @ across.T / np.maximum(area, 1e-9), 0)
    found = tile_means(picture, tile_o, tiles, (height, width))
    sure = (area > 1e-3) | (area == 0)  # the rest is a sliver, whose mean is lost in rounding
    np.testing.assert_allclose(found[sure], expected[sure], rtol=1e-3, atol=2e-3)
    assert found.max() <= picture.max()
