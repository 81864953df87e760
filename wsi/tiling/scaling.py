"""From which level of the slide the store's pixels come, by which factor they are averaged, or what is copied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsi.errors import ResolutionError
from wsi.readers.protocol import Level, Slide
from wsi.store.grid import TASK_LEVELS, Grid, fits, with_levels
from wsi.units import YX

SNAP = 0.03
"""Within this share of a whole factor of level 0 no pixel is interpolated: a 0.499 um/px slide is stored as 0.499."""
MAX_UPSAMPLING = 1.2
"""A slide this much coarser than the target is interpolated; a still coarser one is refused."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How the store's level 0 is made from the slide."""

    level: int
    """Level of the slide that is read."""
    factor: float
    """Pixels of that level per store pixel; below 1 where the slide is coarser than the target."""
    l0_per_s: float
    """Level-0 pixels per store pixel."""
    mpp: float
    """um/px of the store's level 0: the target, or the nearest whole multiple of the slide's own."""
    shape: YX
    """Store pixels at level 0."""


def choose_scaling(levels: Sequence[Level], mpp: float, target_mpp: float) -> Scaling:
    """Choose the level and the factor.

    Parameters
    ----------
    levels
        The slide's levels, largest first.
    mpp, target_mpp
        um/px of the slide's level 0, and the wanted one.

    Raises
    ------
    ResolutionError
        The slide is coarser than the target by more than 1.2 times.
    """
    l0_per_s = target_mpp / mpp
    whole = max(1, round(l0_per_s))
    if abs(l0_per_s / whole - 1) <= SNAP:
        l0_per_s = float(whole)
    if l0_per_s < 1 / MAX_UPSAMPLING:
        raise ResolutionError(
            f"the slide has {mpp:.4g} um/px, coarser than the wanted {target_mpp:g}: "
            f"ask for --mpp {mpp:.3g} or more, or correct its um/px in the manifest"
        )
    usable = [i for i, level in enumerate(levels) if level.downsample <= l0_per_s * (1 + 1e-6)] or [0]
    level = max(usable, key=lambda i: levels[i].downsample)
    factor = l0_per_s / levels[level].downsample
    if abs(factor - round(factor)) < 1e-6:
        factor = float(round(factor))
    height, width = (max(1, int(side / l0_per_s + 1e-6)) for side in levels[0].shape)
    shape = levels[level].shape if factor == 1 else YX(height, width)
    return Scaling(level, factor, l0_per_s, mpp * l0_per_s, shape)


def copyable_levels(slide: Slide, tile_px: int) -> dict[int, Level]:
    """Return the slide's levels of baseline colour JPEG tiles of that size that stand upright, by their index."""
    side = YX(tile_px, tile_px)
    return {
        i: level
        for i, level in enumerate(slide.levels)
        if (tiles := slide.tiles(i)) and tiles.jpeg and tiles.cut.tile == side
    }


def copied_levels(scaling: Scaling, grid: Grid, copyable: Mapping[int, Level]) -> tuple[int | None, ...]:
    """Return for each level of the store the slide's level whose JPEG tiles can be copied, None where none can.

    That needs tiles of the store's tile size, at just the store's scale and size. Of levels that are halves, only those
    that a task writes are copied.
    """

    def source_of(factor: int, shape: YX) -> int | None:
        if factor >= 1 << TASK_LEVELS and not grid.coarser:
            return None
        scale = scaling.l0_per_s * factor
        fitting = (i for i, own in copyable.items() if _is_at(own, scale) and own.shape == shape)
        return next(fitting, None)

    return tuple(source_of(*each) for each in zip(grid.factors(), grid.levels(), strict=True))


def own_levels(scaling: Scaling, grid: Grid, copyable: Mapping[int, Level]) -> Grid:
    """Return the grid with the slide's own levels below level 0 that can be copied, and halves below the last of them.

    A level counts where it is a power of two coarser than the store's level 0, in scale and in size.
    """
    found: list[tuple[int, YX]] = []
    for own in copyable.values():
        factor = round(own.downsample / scaling.l0_per_s)
        least = 2 * found[-1][0] if found else 2
        if factor >= least and not factor & (factor - 1) and _is_at(own, factor * scaling.l0_per_s):
            found += [(factor, own.shape)] if fits(grid.shape, factor, own.shape) else []
    own_grid = with_levels(grid, found + (grid.halves(*found[-1]) if found else []))
    return grid if own_grid.levels() == grid.levels() else own_grid


def _is_at(level: Level, l0_per_px: float) -> bool:
    return abs(level.downsample / l0_per_px - 1) < 1e-6
