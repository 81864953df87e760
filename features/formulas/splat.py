"""Points to pixels: how many fall on each, as whole numbers, so that the order of adding does not matter."""

import torch
from torch import Tensor

MARGIN_PX = 1
"""Round the picture; what falls outside is counted there, and cut off."""


class Canvas:
    """Counts of points in n square pictures."""

    def __init__(self, pictures: int, size_px: int, device: torch.device) -> None:
        self._size_px = size_px
        self._side = size_px + 2 * MARGIN_PX
        self._counts = torch.zeros(pictures, self._side**2, dtype=torch.int32, device=device)
        self._ones = torch.ones(0, 0, dtype=torch.int32, device=device)

    def add(self, y_nP: Tensor, x_nP: Tensor) -> None:
        """Count points, in pixels, (n, P) float32 each, at the pixels that they lie in."""
        if self._ones.shape != y_nP.shape:
            self._ones = torch.ones(y_nP.shape, dtype=torch.int32, device=y_nP.device)
        row, column = ((axis + MARGIN_PX).clamp_(0, self._side - 1).int() for axis in (y_nP, x_nP))
        self._counts.scatter_add_(1, row.mul_(self._side).add_(column).long(), self._ones)

    def counts(self) -> Tensor:
        """Return int32 (n, size, size)."""
        inside = slice(MARGIN_PX, MARGIN_PX + self._size_px)
        return self._counts.view(-1, self._side, self._side)[:, inside, inside]


class Topmost:
    """Small squares laid over n pictures: of all values at a pixel the largest stays, in whatever order they come."""

    def __init__(self, pictures: int, size_px: int, device: torch.device) -> None:
        self._size_px = size_px
        self._side = size_px + 2 * MARGIN_PX
        self._values = torch.zeros(pictures, self._side**2, dtype=torch.int32, device=device)

    def lay(self, corners_nm2: Tensor, values_nmbb: Tensor) -> None:
        """Lay squares of int32 values (n, m, b, b) with their first pixel at ``corners`` (y, x), int64."""
        along = torch.arange(values_nmbb.shape[-1], device=corners_nm2.device)
        at = (corners_nm2[..., None] + (along + MARGIN_PX)).clamp_(0, self._side - 1)
        index = at[:, :, 0, :, None] * self._side + at[:, :, 1, None, :]
        self._values.scatter_reduce_(1, index.flatten(1), values_nmbb.flatten(1), "amax")

    def values(self) -> Tensor:
        """Return int32 (n, size, size); 0 where nothing was laid."""
        inside = slice(MARGIN_PX, MARGIN_PX + self._size_px)
        return self._values.view(-1, self._side, self._side)[:, inside, inside]


def boxes(centres_nm2: Tensor, box_px: int) -> tuple[Tensor, Tensor]:
    """Return squares round centres (y, x) in pixels: first pixels, int64 (n, m, 2), and places, float32 (n, m, 2, b).

    Places: how far each row, and each column, of pixels lies from the centre.
    """
    corners = (centres_nm2 - box_px / 2).round()
    along = torch.arange(box_px, device=centres_nm2.device) + 0.5
    return corners.long(), ((corners - centres_nm2)[..., None] + along).float()


def stamped(points_nss: Tensor, patches_n33: Tensor) -> Tensor:
    """Return bool (n, s, s): each point of bool (n, s, s) drawn as its picture's 3 x 3 patch, bool (n, 3, 3).

    What the nine neighbours of a pixel hold is nine bits, the same for every patch; the patch says which of them count.
    """
    pictures, size, _ = points_nss.shape
    side = size + 2
    padded = torch.zeros(pictures, side, side, dtype=torch.int16, device=points_nss.device)
    padded[:, 1:-1, 1:-1] = points_nss
    flat, reach = padded.view(pictures, -1), side + 1
    bits = torch.zeros_like(flat)
    for index in range(9):
        start = reach - (index // 3 - 1) * side - (index % 3 - 1)
        bits[:, reach:-reach].add_(flat[:, start : start + side * side - 2 * reach], alpha=1 << index)
    wanted = (patches_n33.flatten(1) * (1 << torch.arange(9, device=bits.device))).sum(1).to(torch.int16)
    return (bits & wanted[:, None]).ne(0).view(pictures, side, side)[:, 1:-1, 1:-1]
