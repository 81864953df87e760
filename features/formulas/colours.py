"""Colours as light that went through stained tissue: optical densities of real stains, varied as laboratories vary.

Convention as everywhere in this package (`features.stain`): density is the natural logarithm; what comes through is
exp(-amount x vector), channel by channel. Vectors lie between those of Ruifrok & Johnston (Anal Quant Cytol Histol
2001) and of Macenko et al. (ISBI 2009) for haematoxylin and eosin; of DAB there is Ruifrok & Johnston's alone.
"""

import torch
from torch import Tensor

from features.encoders.texture_encoder import STAINS_RGB
from features.formulas.chance import between, normal, uniform
from features.stain import REFERENCE_STAINS_32

VARIED = 0.04
"""Standard deviation of each number of a vector."""
BRIGHTEST = (0.9, 1.0)
"""Of the light where nothing absorbs, each channel by itself."""
HAEMATOXYLIN, EOSIN, DAB = STAINS_RGB


def stains(keys_n: Tensor, dab_n: Tensor) -> Tensor:
    """Return two stains of each slide, (n, 2, 3) float32: haematoxylin, and eosin or where bool (n,) says so DAB."""
    macenko = torch.from_numpy(REFERENCE_STAINS_32.T).to(keys_n.device)
    ruifrok = macenko.new_tensor((HAEMATOXYLIN, EOSIN))
    share = uniform(keys_n, "stain", 2, 1)
    vectors = ruifrok + share * (macenko - ruifrok)
    vectors[:, 1] = torch.where(dab_n[:, None], macenko.new_tensor(DAB), vectors[:, 1])
    vectors = (vectors + VARIED * normal(keys_n, "stain varied", 2, 3)).clamp(min=0.02)
    return (vectors / vectors.norm(dim=2, keepdim=True)).float()


def transmitted(amounts_n2hw: Tensor, stains_n23: Tensor, keys_n: Tensor) -> Tensor:
    """Return RGB in [0, 1], (n, 3, h, w): light that went through amounts of two stains."""
    light = between(keys_n, "light", *BRIGHTEST, 3).float()[..., None, None]
    first, second = stains_n23[..., None, None].unbind(1)
    density = amounts_n2hw[:, :1] * first
    density.addcmul_(amounts_n2hw[:, 1:], second)
    return density.neg_().exp_().mul_(light)
