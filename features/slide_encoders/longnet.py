"""GigaPath's slide encoder: LongNet, a transformer whose attention is dilated, over all tiles of a slide.

Source: Xu et al., A whole-slide foundation model for digital pathology from real-world data, Nature 2024, doi
10.1038/s41586-024-07441-w; Ding et al., LongNet: Scaling Transformers to 1,000,000,000 Tokens, arXiv 2307.02486. The
attention is computed by plain matrix products in float32, in parts that fit into memory, where the authors' code asks
for FlashAttention in half precision on a GPU; parameters bear their files' names.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

GRID = 1000
"""Tiles a side of the slide that have a position."""
SEGMENTS = (1024, 5792, 32768, 185363, 1048576)
"""Tokens that attend to each other: powers of two from 2^10 to 2^20 in even steps, cut to whole numbers."""
DILATIONS = (1, 2, 4, 8, 16)
"""Every how many-th token of a segment of that length attends; each head begins at another one."""
HEADS = 16
NEVER = -1e8
"""The log of a sum of nothing."""
LARGEST = 1 << 26
"""Products of queries and keys that are held at once."""


def positions(places_N2: Tensor, dim: int) -> Tensor:
    """Return sines and cosines (N, dim) of tile columns and rows (N, 2), (x, y): half of them tell y, half x."""
    omega = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64, device=places_N2.device) / (dim / 4))
    parts = [own for axis in (1, 0) for own in _waves(places_N2[:, axis].double()[:, None] * omega)]
    return torch.cat(parts, dim=1).float()


def _waves(angles: Tensor) -> tuple[Tensor, Tensor]:
    return angles.sin(), angles.cos()


def _attend(q_BLHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> tuple[Tensor, Tensor]:
    """Return attention within each of B groups: values (B, L, H, D) and the log of each softmax's sum (B, L, H)."""
    q, k, v = (own.permute(0, 2, 1, 3).flatten(0, 1) for own in (q_BLHD, k_BLHD, v_BLHD))
    scale, length = q.shape[-1] ** -0.5, q.shape[1]
    rows = max(1, LARGEST // (length * length)) if length * length < LARGEST else 1
    queries = max(1, LARGEST // length)
    values, sums = torch.empty_like(q), q.new_empty(q.shape[:2])
    for first in range(0, len(q), rows):
        for start in range(0, length, queries):
            own = (slice(first, first + rows), slice(start, start + queries))
            scores = q[own] @ k[own[0]].transpose(1, 2) * scale
            sums[own] = scores.logsumexp(-1)
            values[own] = (scores - sums[own][..., None]).exp() @ v[own[0]]
    groups = q_BLHD.shape[0]
    return values.unflatten(0, (groups, HEADS)).transpose(1, 2), sums.unflatten(0, (groups, HEADS)).transpose(1, 2)


def _thin(rows_LHD: Tensor, segment: int, ratio: int) -> Tensor:
    """Return each segment's tokens of each head: (segments, tokens, H, D); missing ones are zeros, and attended to.

    Head h takes tokens h * ratio // H, that + ratio, ... of its segment.
    """
    length = len(rows_LHD)
    rows = pad(rows_LHD, (0, 0, 0, 0, 0, -length % segment)).unflatten(0, (-1, segment))
    rows = pad(rows, (0, 0, 0, 0, 0, -segment % ratio)).unflatten(1, (-1, ratio))
    share = HEADS // ratio
    return torch.cat([rows[:, :, r, r * share : (r + 1) * share] for r in range(ratio)], dim=2)


def _fill(thin: Tensor, nothing: float, segment: int, ratio: int) -> Tensor:
    """Put what `_thin` took back to its tokens, (L or more, H, ...); where nothing was taken stands ``nothing``."""
    groups, share = thin.shape[0], HEADS // ratio
    padded = segment + -segment % ratio
    rows = thin.new_full((groups, padded // ratio, ratio, *thin.shape[2:]), nothing)
    for r in range(ratio):
        rows[:, :, r, r * share : (r + 1) * share] = thin[:, :, r * share : (r + 1) * share]
    return rows.flatten(1, 2)[:, :segment].flatten(0, 1)


class DilatedAttention(nn.Module):
    """Attention at five lengths, each length's answer weighed by the sum of its softmax."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))
        self.inner_attn_ln = nn.LayerNorm(dim)

    def forward(self, rows_LD: Tensor) -> Tensor:
        """Return (L, D)."""
        q, k, v = (layer(rows_LD).unflatten(-1, (HEADS, -1)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        total, weight, highest = torch.zeros_like(q), q.new_zeros(q.shape[:2]), q.new_full(q.shape[:2], NEVER)
        for longest, ratio in zip(SEGMENTS, DILATIONS, strict=True):
            segment = min(longest, len(q))
            values, sums = _attend(*(_thin(own, segment, ratio) for own in (q, k, v)))
            values = _fill(values, 0.0, segment, ratio)[: len(q)]
            sums = _fill(sums, NEVER, segment, ratio)[: len(q)]
            before, highest = highest, torch.maximum(highest, sums)
            old, new = (before - highest).exp(), (sums - highest).exp()
            total = total * old[..., None] + values * new[..., None]
            weight = weight * old + new
        attended: Tensor = self.out_proj(self.inner_attn_ln((total / weight[..., None]).flatten(1)))
        return attended


class _FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.ffn_layernorm = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim), nn.LayerNorm(4 * dim)

    def forward(self, rows_LD: Tensor) -> Tensor:
        mapped: Tensor = self.fc2(self.ffn_layernorm(gelu(self.fc1(rows_LD))))
        return mapped


class _Layer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attn, self.ffn = DilatedAttention(dim), _FeedForward(dim)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, rows_LD: Tensor) -> Tensor:
        rows_LD = rows_LD + self.self_attn(self.self_attn_layer_norm(rows_LD))
        result: Tensor = rows_LD + self.ffn(self.final_layer_norm(rows_LD))
        return result


class _Encoder(nn.Module):
    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(dim) for _ in range(depth))
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, rows_LD: Tensor) -> Tensor:
        for layer in self.layers:
            rows_LD = layer(rows_LD)
        normed: Tensor = self.layer_norm(rows_LD)
        return normed


class _PatchEmbed(nn.Module):
    def __init__(self, tiles_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(tiles_dim, dim)


class LongNet(nn.Module):
    """The class token of 12 layers over a slide's tiles and their places."""

    unused: ClassVar = ("decoder", "mask_token", "pos_embed")

    def __init__(self, tiles_dim: int, dim: int, depth: int = 12) -> None:
        super().__init__()
        self.patch_embed, self.cls_token = _PatchEmbed(tiles_dim, dim), nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.encoder, self.norm = _Encoder(dim, depth), nn.LayerNorm(dim, eps=1e-6)

    def forward(self, rows_ND: Tensor, places_N2: Tensor) -> Tensor:
        """Return (dim,); ``places_N2``: column and row of each tile, (x, y), whole numbers from 0 to `GRID` - 1."""
        rows = self.patch_embed.proj(rows_ND)
        rows = rows + positions(places_N2, rows.shape[-1])
        vector: Tensor = self.norm(self.encoder(torch.cat([self.cls_token[0], rows])))[0]
        return vector
