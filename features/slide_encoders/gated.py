"""Published slide encoders that are gated attention over a small network on each tile: CHIEF, MADELEINE, FEATHER.

Modules bear the names of the authors' files, so that their state dicts load as they are. In all of them the attention
is that of Ilse et al. 2018 (arXiv 1802.04712, equation 9).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """``w (tanh(V h) * sigmoid(U h))``, one score for each tile."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(width, hidden), nn.Tanh())
        self.attention_b = nn.Sequential(nn.Linear(width, hidden), nn.Sigmoid())
        self.attention_c = nn.Linear(hidden, 1)

    def forward(self, rows_NH: Tensor) -> Tensor:
        """Return the scores (N, 1)."""
        scores: Tensor = self.attention_c(self.attention_a(rows_NH) * self.attention_b(rows_NH))
        return scores


def _pooled(scores_N1: Tensor, rows_NH: Tensor) -> Tensor:
    """Return the rows' mean (H,) by the softmax of their scores."""
    return (scores_N1.softmax(dim=0) * rows_NH).sum(dim=0)


class Chief(nn.Module):
    """CHIEF's slide feature without its text: of CTransPath features (N, 768).

    Source: Wang et al., A pathology foundation model for cancer diagnosis and prognosis prediction, Nature 2024,
    doi 10.1038/s41586-024-07894-z; ``WSI_feature`` of the authors' code (size ``small``), which does not depend on the
    organ.
    """

    unused: ClassVar = ("classifiers.", "instance_classifiers.", "att_head.", "text_to_vision.", "organ_embedding")

    def __init__(self, tiles_dim: int) -> None:
        super().__init__()
        # the third place was dropout while it was trained
        self.attention_net = nn.Sequential(nn.Linear(tiles_dim, 512), nn.ReLU(), nn.Identity(), Gate(512, 256))

    def forward(self, rows_ND: Tensor, places_N2: Tensor) -> Tensor:
        """Return (512,)."""
        rows_NH = self.attention_net[:3](rows_ND)
        return _pooled(self.attention_net[3](rows_NH), rows_NH)


class Feather(nn.Module):
    """FEATHER: gated ABMIL that was trained on 108 diagnoses, without its classifier.

    Source: Shao et al., Do Multiple Instance Learning Models Transfer?, ICML 2025, arXiv 2506.09022; ``abmil.base`` of
    the authors' MIL-Lab.
    """

    unused: ClassVar = ("classifier.",)

    def __init__(self, tiles_dim: int) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(nn.Linear(tiles_dim, 512), nn.ReLU())
        self.global_attn = Gate(512, 384)

    def forward(self, rows_ND: Tensor, places_N2: Tensor) -> Tensor:
        """Return (512,)."""
        rows_NH = self.patch_embed(rows_ND)
        return _pooled(self.global_attn(rows_NH), rows_NH)


class _MadeleinePool(nn.Module):
    """Three layers on each tile, whose last gives four heads of 512; each head has a gate of its own."""

    heads: ClassVar = 4

    def __init__(self, tiles_dim: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((tiles_dim, hidden), (hidden, hidden), (hidden, hidden * self.heads)):
            # the fourth place was dropout while it was trained
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(), nn.Identity()]
        self.pre_attn = nn.Sequential(*layers)
        self.attn = nn.ModuleList(Gate(hidden, 512) for _ in range(self.heads))

    def forward(self, rows_ND: Tensor) -> Tensor:
        """Return (512 * 4,): value by value its four heads, as the authors' code lays them out."""
        rows_NHK = self.pre_attn(rows_ND).unflatten(-1, (-1, self.heads))
        pooled = [_pooled(gate(rows_NHK[..., k]), rows_NHK[..., k]) for k, gate in enumerate(self.attn)]
        return torch.stack(pooled, dim=-1).flatten()


class Madeleine(nn.Module):
    """MADELEINE's vector of an H&E slide: of CONCH features (N, 512); the weights without stain encodings.

    Source: Jaume et al., Multistain Pretraining for Slide Representation Learning in Pathology, ECCV 2024, arXiv
    2408.02859; ``encode_he`` of the authors' code.
    """

    unused: ClassVar = ("token_projector.",)

    def __init__(self, tiles_dim: int) -> None:
        super().__init__()
        self.wsi_embedders = _MadeleinePool(tiles_dim, 512)
        self.projector = nn.Linear(512 * _MadeleinePool.heads, 512)

    def forward(self, rows_ND: Tensor, places_N2: Tensor) -> Tensor:
        """Return (512,)."""
        vector: Tensor = self.projector(self.wsi_embedders(rows_ND))
        return vector
