"""Several attention branches that are kept apart, and from leaning on a few instances.

Source: Zhang et al., Attention-Challenging Multiple Instance Learning for Whole Slide Image Classification, ECCV 2024,
arXiv 2311.07125: multiple branch attention (MBA) and stochastic top-K instance masking (STKIM).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mil.heads.head import Explains, Head, HeadOutput, HeadSpec, Truth
from mil.heads.parts.attention import AttentionRows, share_out
from mil.heads.parts.output import Output
from mil.ragged.instances import Instances
from mil.ragged.pooling import pool, scores_alone
from mil.ragged.segments import split

BRANCHES = 5
MASKED_TOP = 10
"""Instances of the highest attention, in each branch, that may be masked while training."""
MASKED_SHARE = 0.6
"""Of those, how many are."""


class Acmil(Head, Explains):
    """Gated attention branches, each with its classifier; the bag is the mean over branches.

    The head's own loss is the mean of the branches' losses plus the mean cosine between two branches' attentions.
    """

    attends = True
    streams = True
    about = "several attention branches, top tiles masked at random (ACMIL, Zhang et al. 2024)"

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.rows = AttentionRows(spec, branches=BRANCHES)
        self.branch_classify = nn.ModuleList(Output(spec) for _ in range(BRANCHES))
        self.classify = Output(spec)

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C), the mean attention of the branches (N,), and the head's own loss (B,)."""
        bias_NK = self._mask(instances) if self.training else None
        pooled = pool(self.rows, list(self.rows.parameters()), instances, bias_NK)
        embedding_BH = pooled.values_BKH.mean(1)
        aux_loss_B = None
        if truth is not None:
            branches = zip(self.branch_classify, pooled.values_BKH.unbind(1), strict=True)
            losses = [truth.loss(classify(values_BH, truth)) for classify, values_BH in branches]
            aux_loss_B = torch.stack(losses).mean(0) + _likeness(pooled.attention_NK, instances)
        logits_BC = self.classify(embedding_BH, truth)
        return HeadOutput(logits_BC, pooled.attention_NK.mean(1), aux_loss_B, embedding_BH)

    def explain(self, instances: Instances) -> HeadOutput | None:
        """Return what each tile adds: the branches' mean attention times the logits of its embedding."""
        return share_out(self.rows, self.classify, instances)

    def _mask(self, instances: Instances) -> Tensor:
        """Return (N, K): minus infinity for a random part of each branch's highest instances, else 0."""
        scores_NK = scores_alone(self.rows, instances)
        bias_NK = torch.zeros_like(scores_NK)
        for scores_nK, bias_nK in zip(
            split(scores_NK, instances.offsets), split(bias_NK, instances.offsets), strict=True
        ):
            top = min(MASKED_TOP, len(scores_nK) - 1)
            highest_tK = scores_nK.topk(top, dim=0).indices
            drawn = torch.rand(highest_tK.shape, device=scores_nK.device).argsort(0)[: int(top * MASKED_SHARE)]
            bias_nK.scatter_(0, highest_tK.gather(0, drawn), float("-inf"))
        return bias_NK


def _likeness(attention_NK: Tensor, instances: Instances) -> Tensor:
    """Return each bag's mean cosine (B,) between the attentions of two branches."""
    values = []
    for weights_nK in split(attention_NK, instances.offsets):
        unit_nK = F.normalize(weights_nK, dim=0)
        cosines_KK = unit_nK.T @ unit_nK
        values.append(cosines_KK.triu(1).sum() / (BRANCHES * (BRANCHES - 1) / 2))
    return torch.stack(values)
