"""How a slide's work divides among its steps, so that a progress bar is as quick in one step as in the next.

Unit costs are those of one core, seconds, rounded; only their ratios count. For times `gigamil plan` measures them.
"""

from dataclasses import dataclass

from wsi.tiling.plan import SlidePlan

PLAN = 0.05
"""Part of a slide that its header counts, before anything else is known of it."""
_TISSUE_S, _TISSUE_PER_MPX, _FINISH_S = 0.05, 0.15, 0.10
"""Finding tissue, and for each Mpx of the overview; finishing."""
_DECODE_PER_MPX, _TILE_PER_MPX, _COPY_PER_MPX = 0.004, 0.03, 0.008
"""For each Mpx decoded for the overview; of tiles with tissue made, or copied."""
_TISSUE_PART = 0.25
"""Of a slide, before it is known."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of a slide's work; with `PLAN` they make 1."""

    overview: float
    """In one pass with the regions where the slide is decoded once."""
    tissue: float
    regions: float
    finish: float


def step_shares(plan: SlidePlan) -> Shares:
    """Return how the work after the plan divides."""
    decoded = plan.slide_shape.y * plan.slide_shape.x / 1e6
    if plan.single_pass is None:
        decoded /= (plan.overview.l0_per_o / plan.overview.factor) ** 2
    made = plan.grid.shape.y * plan.grid.shape.x / 1e6 * _TISSUE_PART
    costs = [
        decoded * _DECODE_PER_MPX,
        _TISSUE_S + _TISSUE_PER_MPX * plan.overview.shape.y * plan.overview.shape.x / 1e6,
        made * (_TILE_PER_MPX if plan.copies[0] is None else _COPY_PER_MPX),
        _FINISH_S,
    ]
    scale = (1 - PLAN) / sum(costs)
    overview, tissue, regions, finish = (cost * scale for cost in costs)
    return Shares(overview, tissue, regions, finish)
