"""Views of a batch, made on the device: cut out, turned, enlarged, in other colours and other stain.

What happens to an image is drawn for the whole batch of a step at once, from its seed, epoch and step, and divided
afterwards: it depends neither on ranks nor on parts.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from features.learning.colours import COLOURS, coloured
from features.pretrain.options import PretrainOptions
from features.stain import REFERENCE_STAINS_32
from wsi.arrays import Ints

STAINS = 3
"""Haematoxylin, eosin, and what neither explains."""
LOCAL_AREA = (0.05, 0.4)
"""Shares of a tile's area that a small view shows, as DINO's (arXiv 2104.14294)."""
DARKEST = 1 / 255
"""Added before the logarithm."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What happens to each image of a batch, in one view; the arrays run in parallel."""

    matrix: NDArray[np.float32]
    """(n, 2, 3): from the view's frame to the image's, both -1 to 1, (x, y, 1) as `affine_grid` wants it."""
    colours: NDArray[np.float32]
    """(n, 5) factors."""
    stains: NDArray[np.float32]
    """(n, 2, 3): factors of the stains' amounts, and what is added to them."""

    def rows(self, rows: Ints) -> "Changes":
        """Return those of some of the images."""
        return Changes(**{own.name: getattr(self, own.name)[rows] for own in fields(self)})


@dataclass(frozen=True, slots=True)
class View:
    """How large a view is, and how much of the image it shows."""

    size: int
    """Pixels per side."""
    area: tuple[float, float]
    """Least and largest share of the area that it may show."""
    largest: float = 1.0
    """Share of the image's side that stands for the whole: the view is then at the scale of the encoder's input."""

    def reduction(self, image_px: int) -> int:
        """Return the whole factor by which images are averaged before they are cut out: sampling them is no mean."""
        return max(1, int(image_px * self.largest * self.area[1] ** 0.5 / self.size))


def draw_changes(rng: np.random.Generator, count: int, view: View, options: PretrainOptions) -> Changes:
    """Draw what happens to ``count`` images."""
    side = view.largest * np.sqrt(rng.uniform(*view.area, count))
    centre = rng.uniform(-1, 1, (count, 2)) * (1 - side)[:, None]
    turns = rng.integers(8, size=count) if options.flips else np.zeros(count, np.int64)
    colours, stains = rng.uniform(-1, 1, (count, 1 + COLOURS)), rng.uniform(-1, 1, (count, 2, STAINS))
    factors = 1 + options.jitter * colours
    gains = factors[:, :1] * (1 + options.jitter / 2 * colours[:, 1:4])  # brightness, and less for each channel
    amounts = options.stain_jitter * stains * np.array([1.0, 0.25])[:, None] + np.array([1.0, 0.0])[:, None]
    return Changes(
        np.concatenate([_turns()[turns] * side[:, None, None], centre[:, :, None]], axis=2).astype(np.float32),
        np.concatenate([gains, factors[:, 4:]], axis=1).astype(np.float32),
        amounts.astype(np.float32),
    )


def _turns() -> NDArray[np.float64]:
    """Return (8, 2, 2): quarter turns, and these after a flip."""
    quarters = [np.array([[c, -s], [s, c]], float) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.stack([*quarters, *(own @ np.diag([-1.0, 1.0]) for own in quarters)])


def viewed(images_NCHW: Tensor, changes: Changes, view: View, *, stain: bool) -> Tensor:
    """Return views float32 (N, 3, S, S) in [0, 1] of float images in [0, 1]."""
    device = images_NCHW.device
    tiles = cut(images_NCHW, torch.from_numpy(changes.matrix).to(device), view)
    if stain:
        tiles = stained(tiles, torch.from_numpy(changes.stains).to(device))
    return coloured(tiles, torch.from_numpy(changes.colours).to(device))


def plain(images_NCHW: Tensor, view: View) -> Tensor:
    """Return the middle of the images at the scale of views, otherwise as it is."""
    if view.largest == 1 and images_NCHW.shape[2] == view.size:
        return images_NCHW
    matrix = images_NCHW.new_tensor([[view.largest, 0, 0], [0, view.largest, 0]])
    return cut(images_NCHW, matrix.expand(len(images_NCHW), 2, 3), view)


def cut(images_NCHW: Tensor, matrix_N23: Tensor, view: View) -> Tensor:
    """Return (N, 3, S, S), sampled bilinearly."""
    factor = view.reduction(images_NCHW.shape[2])
    images = avg_pool2d(images_NCHW, factor) if factor > 1 else images_NCHW
    grid = affine_grid(matrix_N23, [len(images), 3, view.size, view.size], align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


def stained(tiles_NCHW: Tensor, stains_N23: Tensor) -> Tensor:
    """Return tiles with their amounts of haematoxylin and eosin changed, in optical density.

    As arXiv 1902.06543 (Tellez et al.) does, with the stains of `features.stain`; the third axis is what neither
    explains.
    """
    stains_33 = torch.from_numpy(_STAINS_33).to(tiles_NCHW)
    unmix_33 = torch.linalg.inv(stains_33)
    density = -torch.log(tiles_NCHW + DARKEST)
    matrix_N33 = torch.einsum("is,ns,sj->nij", stains_33, stains_N23[:, 0], unmix_33)
    shift_N3 = torch.einsum("is,ns->ni", stains_33, stains_N23[:, 1])
    changed = torch.einsum("nij,njhw->nihw", matrix_N33, density) + shift_N3[:, :, None, None]
    return (torch.exp(-changed) - DARKEST).clamp(0, 1)


def _with_third(stains_32: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the stains as unit columns, (3, 3), with the direction that is at right angles to both."""
    two = stains_32 / np.linalg.norm(stains_32, axis=0)
    third = np.cross(two[:, 0], two[:, 1])
    return np.column_stack([two, third / np.linalg.norm(third)])


_STAINS_33 = _with_third(REFERENCE_STAINS_32)
