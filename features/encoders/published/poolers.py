"""What makes a feature vector of a model's tokens, where that is more than timm's own pooling."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from features.encoders.published.preset import Feature


class ClassAndMean(nn.Module):
    """A vision transformer's class token beside the mean of its patch tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._prefix_tokens = int(model.num_prefix_tokens)  # type: ignore[arg-type]

    def forward(self, tiles_NCHW: Tensor) -> Tensor:
        """Return (N, 2 D) from tokens (N, prefix + patches, D); registers are left out."""
        tokens = self.model(tiles_NCHW)
        return torch.cat([tokens[:, 0], tokens[:, self._prefix_tokens :].mean(1)], dim=1)


class ClassToken(nn.Module):
    """A vision transformer's class token alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tiles_NCHW: Tensor) -> Tensor:
        """Return (N, D) from tokens (N, prefix + patches, D)."""
        tokens: Tensor = self.model(tiles_NCHW)
        return tokens[:, 0]


class AttentionPool(nn.Module):
    """One learned query over all tokens (Yu et al. 2022, CoCa, arXiv 2205.01917), in CONCH's parameters."""

    def __init__(self, dim: int, tokens_dim: int, heads: int = 8) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, dim))
        self.attn = nn.MultiheadAttention(dim, heads, kdim=tokens_dim, vdim=tokens_dim, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(tokens_dim)

    def forward(self, tokens_NLD: Tensor) -> Tensor:
        """Return (N, dim)."""
        keys = self.ln_k(tokens_NLD)
        queries = self.ln_q(self.query).expand(len(keys), 1, -1)
        pooled: Tensor = self.attn(queries, keys, keys, need_weights=False)[0]
        return pooled[:, 0]


class BiaslessAttentionPool(nn.Module):
    """The same with linear maps of its own, without biases, in CONCH v1.5's parameters."""

    def __init__(self, dim: int, tokens_dim: int, heads: int = 8) -> None:
        super().__init__()
        self._heads = heads
        self.query = nn.Parameter(torch.randn(1, dim))
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(tokens_dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(tokens_dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def _by_head(self, values_NLD: Tensor) -> Tensor:
        return values_NLD.unflatten(-1, (self._heads, -1)).transpose(1, 2)

    def forward(self, tokens_NLD: Tensor) -> Tensor:
        """Return (N, dim)."""
        keys, values = self.to_kv(self.ln_k(tokens_NLD)).chunk(2, dim=-1)
        queries = self.to_q(self.ln_q(self.query)).expand(len(keys), 1, -1)
        by_head = self._by_head
        pooled = scaled_dot_product_attention(by_head(queries), by_head(keys), by_head(values))
        out: Tensor = self.to_out(pooled.transpose(1, 2).flatten(-2)[:, 0])
        return out


class Conch(nn.Module):
    """CONCH's image side up to its contrastive pool; names as in the authors' files."""

    def __init__(self, trunk: nn.Module, pool: nn.Module, dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = pool
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, tiles_NCHW: Tensor) -> Tensor:
        """Return (N, dim), not normalised."""
        features: Tensor = self.ln_contrast(self.attn_pool_contrast(self.trunk(tiles_NCHW)))
        return features


class Keep(nn.Module):
    """KEEP's image side with its projection to the text's space; names as in the authors' files."""

    def __init__(self, visual: nn.Module, dim: int = 768) -> None:
        super().__init__()
        self.visual = visual
        self.visual_head = nn.Sequential(nn.Linear(_width(visual), dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, tiles_NCHW: Tensor) -> Tensor:
        """Return (N, dim) of length 1."""
        return normalize(self.visual_head(self.visual(tiles_NCHW)), dim=-1)


def _width(model: nn.Module) -> int:
    return int(model.num_features)  # type: ignore[arg-type]


def _conch(trunk: nn.Module) -> nn.Module:
    return Conch(trunk, AttentionPool(512, _width(trunk)), 512)


def _conch_v1_5(trunk: nn.Module) -> nn.Module:
    return Conch(trunk, BiaslessAttentionPool(768, _width(trunk)), 768)


_POOLERS: Mapping[Feature, Callable[[nn.Module], nn.Module]] = {
    "pooled": lambda model: model,
    "class": ClassToken,
    "class_and_mean": ClassAndMean,
    "conch": _conch,
    "conch_v1_5": _conch_v1_5,
    "keep": Keep,
}


def pooled(model: nn.Module, feature: Feature) -> nn.Module:
    """Return the model that gives that feature of a timm model."""
    return _POOLERS[feature](model)


def as_published(model: nn.Module) -> nn.Module:
    """Return the part whose parameters bear the names of the authors' file."""
    return model.model if isinstance(model, (ClassToken, ClassAndMean)) else model
