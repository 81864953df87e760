"""The last layer of a head: linear, or ArcFace."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mil.heads.head import HeadSpec, Truth

SCALE = 30.0
"""ArcFace's s: cosines times this are the logits."""
MARGIN = 0.3
"""ArcFace's m in radians where the spec gives none."""


class Output(nn.Module):
    """Bag embeddings (B, H) to logits (B, C), in float32."""

    def __init__(self, spec: HeadSpec, width: int | None = None) -> None:
        super().__init__()
        width = width or spec.hidden
        self.drop = nn.Dropout(spec.dropout)
        self.layer = ArcFace(spec, width) if spec.output == "arcface" else nn.Linear(width, spec.n_classes)
        self.n_classes = spec.n_classes

    @property
    def linear(self) -> bool:
        """Tell whether the logits of a weighted mean are the weighted mean of the logits."""
        return isinstance(self.layer, nn.Linear)

    def forward(self, pooled_BH: Tensor, truth: Truth | None = None) -> Tensor:
        """Return the logits; ArcFace puts its margins on the true classes that ``truth`` names."""
        with torch.autocast(pooled_BH.device.type, enabled=False):
            dropped_BH = self.drop(pooled_BH)
            if isinstance(self.layer, ArcFace):
                logits_BC: Tensor = self.layer(dropped_BH, None if truth is None else truth.classes_B)
            else:
                logits_BC = self.layer(dropped_BH)
            return logits_BC


class ArcFace(nn.Module):
    """Cosine to each class's center, an angular margin on the true class, times a scale.

    Source: Deng, Guo, Xue and Zafeiriou, ArcFace, CVPR 2019, arXiv 1801.07698; several centers a class: Deng et al.,
    Sub-center ArcFace, ECCV 2020; a margin of its own for each class: Ha et al., Google Landmark Recognition 2020,
    arXiv 2010.05350. Past the angle where cos(angle + margin) would rise again, the logit goes on linearly.
    """

    margins_C: Tensor

    def __init__(self, spec: HeadSpec, width: int) -> None:
        super().__init__()
        self.centers_KCH = nn.Parameter(torch.empty(spec.subcenters, spec.n_classes, width))
        nn.init.normal_(self.centers_KCH)
        margins = spec.margins or (MARGIN,) * spec.n_classes
        self.register_buffer("margins_C", torch.tensor(margins))

    def forward(self, embedding_BH: Tensor, classes_B: Tensor | None) -> Tensor:
        """Return the logits (B, C), with margins where the true classes (B,) are given."""
        points_BH, centers_KCH = F.normalize(embedding_BH, dim=-1), F.normalize(self.centers_KCH, dim=-1)
        cosine_BC = torch.einsum("bh,kch->bkc", points_BH, centers_KCH).max(1).values
        if classes_B is None:
            return cosine_BC * SCALE
        margin_B1 = self.margins_C[classes_B][:, None].to(cosine_BC.dtype)
        true_B1 = cosine_BC.gather(1, classes_B[:, None]).clamp(-1 + 1e-7, 1 - 1e-7)
        moved_B1 = true_B1 * margin_B1.cos() - (1 - true_B1**2).sqrt() * margin_B1.sin()
        straight_B1 = true_B1 - margin_B1 * margin_B1.sin()
        kept_B1 = torch.where(true_B1 > (math.pi - margin_B1).cos(), moved_B1, straight_B1)
        return cosine_BC.scatter(1, classes_B[:, None], kept_B1) * SCALE


def dynamic_margins(counts: list[int], low: float = 0.1, high: float = 0.5, power: float = -0.25) -> tuple[float, ...]:
    """Return a margin of each class, radians: ``n ** power`` of its bags, spread from ``low`` to ``high``.

    The rarest class gets ``high`` (Ha et al. 2020, arXiv 2010.05350, equation 3); equal classes all get the middle.
    """
    raw = [max(count, 1) ** power for count in counts]
    least, most = min(raw), max(raw)
    if most - least < 1e-12:
        return ((low + high) / 2,) * len(counts)
    return tuple(low + (high - low) * (value - least) / (most - least) for value in raw)
