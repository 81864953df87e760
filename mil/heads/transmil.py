"""A transformer with approximated attention and positions learnt by convolution on the sequence laid out as a square.

Source: Shao et al., TransMIL: Transformer based Correlated Multiple Instance Learning for Whole Slide Image
Classification, NeurIPS 2021, arXiv 2106.00908. The square holds the tiles in bag order (rows of the slide, one after
the other), its end filled with the first tiles again; so the order of the instances matters.
"""

import math

import torch
from torch import Tensor, nn

from mil.heads.head import Head, HeadOutput, HeadSpec, Truth
from mil.heads.parts.nystrom import NystromAttention
from mil.heads.parts.output import Output
from mil.heads.transformer import attention_heads
from mil.ragged.instances import Instances, wide
from mil.ragged.segments import split


class Ppeg(nn.Module):
    """Pyramid position encoding generator: depthwise convolutions of three sizes on the square, added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, k, padding=k // 2, groups=width) for k in (7, 5, 3))

    def forward(self, tokens_LH: Tensor) -> Tensor:
        """Return the class token and the encoded tiles."""
        side = math.isqrt(len(tokens_LH) - 1)
        square = tokens_LH[1:].T.reshape(1, -1, side, side)
        encoded = square + sum(conv(square) for conv in self.convs)
        return torch.cat([tokens_LH[:1], encoded[0].flatten(1).T])


class TransMil(Head):
    """Embedding, class token, Nystrom layer, PPEG, Nystrom layer, output layer on the class token."""

    attends = True
    order_free = False
    about = "Nystrom attention and positions by convolution (TransMIL, Shao et al. 2021)"

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        heads = attention_heads(spec.hidden)
        self.embed = nn.Sequential(nn.Linear(spec.dim, spec.hidden), nn.ReLU())
        self.token_1H = nn.Parameter(torch.randn(1, spec.hidden) * 0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(spec.hidden) for _ in range(3))
        self.layers = nn.ModuleList(NystromAttention(spec.hidden, heads) for _ in range(2))
        self.drop = nn.Dropout(spec.dropout)
        self.ppeg = Ppeg(spec.hidden)
        self.classify = Output(spec)

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C) and the class token's attention (N,): its positive part, scaled to sum 1."""
        bags = [self._bag(tiles_nH) for tiles_nH in split(wide(instances.map(self.embed)), instances.offsets)]
        embedding_BH = wide(self.norms[2](torch.cat([token_1H for token_1H, _ in bags])))
        attention_N = torch.cat([attention_n for _, attention_n in bags])
        return HeadOutput(self.classify(embedding_BH, truth), attention_N, embedding_BH=embedding_BH)

    def _bag(self, tiles_nH: Tensor) -> tuple[Tensor, Tensor]:
        size = len(tiles_nH)
        side = math.isqrt(size - 1) + 1
        tokens_LH = torch.cat([self.token_1H, tiles_nH, tiles_nH[: side * side - size]])
        mixed_LH, _ = self.layers[0](self.norms[0](tokens_LH))
        tokens_LH = self.ppeg(tokens_LH + self.drop(mixed_LH))
        mixed_LH, first_L = self.layers[1](self.norms[1](tokens_LH))
        positive_n = first_L.detach()[1 : size + 1].clamp(min=1e-12)
        return tokens_LH[:1] + self.drop(mixed_LH[:1]), positive_n / positive_n.sum()
