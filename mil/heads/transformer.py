"""A plain transformer encoder over the tiles and a class token.

Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv 1706.03762; on slides, Wagner et al.,
Transformer-based biomarker prediction from colorectal cancer histology, Cancer Cell 2023, arXiv 2301.09617. Pre-norm,
without positions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mil.heads.head import Head, HeadOutput, HeadSpec, Truth
from mil.heads.parts.output import Output
from mil.ragged.instances import Instances, wide
from mil.ragged.segments import split

MOST_HEADS = 8


def attention_heads(width: int) -> int:
    """Return the largest number of attention heads up to 8 that divides the width into parts of 4 or more."""
    return max(n for n in range(1, MOST_HEADS + 1) if width % n == 0 and (n == 1 or width // n >= 4))


class Block(nn.Module):
    """Pre-norm self-attention and a feed-forward network; the second of two blocks asks for the class token only."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = attention_heads(width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, tokens_LH: Tensor) -> Tensor:
        """Return the tokens (L, H)."""
        query, key, value = self._qkv(tokens_LH)
        mixed_hLd = F.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        return self._finish(tokens_LH, mixed_hLd)

    def first(self, tokens_LH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first token (1, H), and its attention (L,) to all, the mean over heads."""
        query, key, value = self._qkv(tokens_LH)
        with torch.autocast(tokens_LH.device.type, enabled=False):
            scores_h1L = wide(query[:, :1]) @ wide(key).transpose(1, 2) / key.shape[-1] ** 0.5
            weights_h1L = scores_h1L.softmax(-1)
            mixed_h1d = weights_h1L @ wide(value)
        return self._finish(tokens_LH[:1], mixed_h1d), weights_h1L.mean(0).squeeze(0)

    def _qkv(self, tokens_LH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.qkv(self.norm(tokens_LH)).unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        return parts[0], parts[1], parts[2]

    def _finish(self, tokens_LH: Tensor, mixed_hLd: Tensor) -> Tensor:
        tokens_LH = tokens_LH + self.out(mixed_hLd.transpose(0, 1).flatten(1))
        finished: Tensor = tokens_LH + self.feed(tokens_LH)
        return finished


class Transformer(Head):
    """Embedding, two blocks over the tiles and a class token, output layer. The time grows with the square of a bag."""

    attends = True
    about = "two transformer layers over tiles and a class token (Wagner et al. 2023)"

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.embed = nn.Sequential(nn.Linear(spec.dim, spec.hidden), nn.ReLU())
        self.token_1H = nn.Parameter(torch.randn(1, spec.hidden) * 0.02)
        self.mix = Block(spec.hidden, spec.dropout)
        self.ask = Block(spec.hidden, spec.dropout)
        self.norm = nn.LayerNorm(spec.hidden)
        self.classify = Output(spec)

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C) and the class token's attention to the tiles (N,)."""
        embedded_NH = wide(instances.map(self.embed))
        points, maps = [], []
        for tiles_nH in split(embedded_NH, instances.offsets):
            token_1H, weights_L = self.ask.first(self.mix(torch.cat([self.token_1H, tiles_nH])))
            points.append(token_1H)
            maps.append(weights_L[1:] / weights_L[1:].sum())
        embedding_BH = wide(self.norm(wide(torch.cat(points))))
        return HeadOutput(self.classify(embedding_BH, truth), torch.cat(maps), embedding_BH=embedding_BH)
