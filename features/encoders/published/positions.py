"""Position embeddings of another grid than the model's, enlarged as the authors of the weights do it.

They are enlarged once, when they are loaded: every tile has the encoder's own size.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from features.encoders.published.preset import Positions

SUFFIX = "pos_embed"


def fitted(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], how: Positions) -> dict[str, Tensor]:
    """Return the state dict with position embeddings of the wanted grid; others as they are.

    ``bilinear``: to the grid's size (CONCH). ``dino``: bicubic by the factor (side + 0.1) / own side, as DINO's code
    guards against rounding (CONCH v1.5). The class token's own stands first and stays.
    """
    result = dict(state)
    for key in wanted if how else ():
        own = state.get(key)
        if key.endswith(SUFFIX) and own is not None and own.ndim == 3 and own.shape != wanted[key].shape:
            result[key] = _enlarged(own, wanted[key].shape[1], how)
    return result


def _enlarged(own_1LD: Tensor, tokens: int, how: Positions) -> Tensor:
    side, new = math.isqrt(own_1LD.shape[1] - 1), math.isqrt(tokens - 1)
    if side**2 + 1 != own_1LD.shape[1] or new**2 + 1 != tokens:
        return own_1LD  # no square grid behind a class token: its shape will be told
    grid = own_1LD[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if how == "dino":
        factor = (new + 0.1) / side
        grid = interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    else:
        grid = interpolate(grid, size=(new, new), mode="bilinear", antialias=False)
    return torch.cat([own_1LD[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2).to(own_1LD.dtype)], dim=1)
