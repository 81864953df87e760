"""Many walkers over the attractors of n systems of maps, step by step together: the chaos game (Barnsley 1988).

At each position of a ring acts a map that was drawn once, and at each step all walkers move on round the ring by
another distance: the maps that a walker meets are drawn independently, and a step is a handful of products of arrays in
order, without gathering. Walkers begin at a fixed point, which is on the attractor as all is that follows.
"""

import torch
from torch import Tensor

from features.formulas.chance import uniform, whole
from features.formulas.maps import Maps
from features.formulas.splat import Canvas

SETTLING = 40
"""Steps from the origin to the fixed point of the map that contracts most."""
SPREADING, MEASURING = 6, 16
"""Steps until the walkers, from there, are everywhere; and further ones, over which the frame is found."""
FRAME_WALKERS = 256
PADDING = 0.03
"""Of a picture's side, left free on each side."""
SMALLEST_SPAN = 1e-3


class Walk:
    """Walkers of n systems: (n, W) float32 for each coordinate."""

    def __init__(self, maps: Maps, keys_n: Tensor, walkers: int) -> None:
        self._walkers, self._step = walkers, 0
        self._dims = maps.shifts.shape[-1]
        edges = maps.odds.cumsum(1)[:, :-1].contiguous()
        drawn = torch.searchsorted(edges, uniform(keys_n, "maps", walkers), right=True)
        twice = torch.cat((drawn, drawn), 1)
        numbers = torch.cat((maps.shifts[..., None], maps.matrices), 3).float()
        self._ring = [
            [numbers[:, :, row, column].gather(1, twice) for column in range(1 + self._dims)]
            for row in range(self._dims)
        ]
        self._at = [axis[:, None].expand(-1, walkers) for axis in _fixed_points(maps)]
        self._distances = whole(torch.zeros(1, dtype=torch.int64), "distances", 0, walkers - 1, 256)[0].tolist()

    def step(self) -> list[Tensor]:
        """Go on, and return where the walkers are: coordinates x, y (, z), (n, W) each."""
        start = self._distances[self._step % len(self._distances)]
        self._step += 1
        moved = []
        for row in self._ring:
            to = row[0][:, start : start + self._walkers]
            for column, at in enumerate(self._at, 1):
                to = torch.addcmul(to, row[column][:, start : start + self._walkers], at)
            moved.append(to)
        self._at = moved
        return moved


def extent(maps: Maps, keys_n: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest coordinates of the attractors, (n, d) each, as a short walk sees them."""
    walk = Walk(maps, keys_n, FRAME_WALKERS)
    for _ in range(SPREADING):
        walk.step()
    seen = torch.stack([torch.stack(walk.step(), 1) for _ in range(MEASURING)], 2).flatten(2)
    return seen.amin(2), seen.amax(2)


def counts(maps: Maps, keys_n: Tensor, size_px: int, walkers: int, steps: int, *, same_scale: bool) -> Tensor:
    """Return how many points fall on each pixel, int32 (n, size, size): x and y of the attractors, framed.

    ``same_scale``: for both axes; otherwise each fills the picture.
    """
    low, high = extent(maps, keys_n)
    span = (high - low).clamp(min=SMALLEST_SPAN)
    if same_scale:
        span = span[:, :2].amax(1, keepdim=True).expand_as(span)
    scale = size_px * (1 - 2 * PADDING) / span.double()
    walk = Walk(maps.framed(scale, size_px / 2 - scale * (low + high) / 2), keys_n, walkers)
    canvas = Canvas(len(keys_n), size_px, keys_n.device)
    for _ in range(steps):
        x, y = walk.step()[:2]
        canvas.add(y, x)
    return canvas.counts()


def _fixed_points(maps: Maps) -> list[Tensor]:
    """Return the fixed point of that map of each system that contracts most: coordinates (n,) float32."""
    rows = torch.arange(len(maps.odds), device=maps.odds.device)
    sizes = maps.matrices.square().sum((2, 3)).masked_fill(maps.odds == 0, torch.inf)
    smallest = sizes.argmin(1)
    matrix, shift = maps.matrices[rows, smallest], maps.shifts[rows, smallest]
    at = torch.zeros_like(shift)
    for _ in range(SETTLING):
        at = (matrix * at[:, None]).sum(-1) + shift
    return list(at.float().unbind(1))
