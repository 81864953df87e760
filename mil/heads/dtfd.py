"""Pseudo-bags: attention pooling in each, then attention pooling over them.

Source: Zhang et al., DTFD-MIL: Double-Tier Feature Distillation Multiple Instance Learning for Histopathology Whole
Slide Image Classification, CVPR 2022, arXiv 2203.12081, with the aggregated feature (AFS) of each pseudo-bag.
Differences: both tiers learn from one optimizer; in evaluation mode the split into pseudo-bags is not random but deals
out the instances in the order of their feature sums, so that results repeat and order does not matter.
"""

from itertools import accumulate, pairwise

import torch
from torch import Tensor

from mil.heads.head import Head, HeadOutput, HeadSpec, Truth
from mil.heads.parts.attention import AttentionRows
from mil.heads.parts.output import Output
from mil.ragged.instances import Instances
from mil.ragged.pooling import pool

PSEUDO_BAGS = 5
"""Pseudo-bags of a bag; one with fewer instances has one for each."""


class Dtfd(Head):
    """Gated attention in each pseudo-bag with a classifier of its own, then gated attention over the pseudo-bags."""

    attends = True
    streams = True
    about = "random parts of a bag pooled, then their poolings (DTFD-MIL, Zhang et al. 2022)"

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.rows = AttentionRows(spec)
        self.part_classify = Output(spec)
        self.parts = AttentionRows(spec, width=spec.hidden)
        self.classify = Output(spec)

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C), the product of both tiers' attention (N,), and the pseudo-bags' loss (B,)."""
        counts = [min(PSEUDO_BAGS, size) for size in instances.sizes]
        order_N, sizes = self._deal(instances, counts)
        dealt = Instances(
            instances.rows_ND,
            tuple(accumulate(sizes, initial=0)),
            instances.mean_D,
            instances.scale_D,
            instances.limit,
            order_N if instances.order_N is None else instances.order_N[order_N],
            large=instances.streamed,
            presence_N=instances.presence_N,
        )
        first = pool(self.rows, list(self.rows.parameters()), dealt)
        parts_PH = first.values_BKH.squeeze(1)
        second = pool(self.parts, [], Instances(parts_PH, tuple(accumulate(counts, initial=0))))
        share_P = second.attention_NK.squeeze(1).repeat_interleave(torch.tensor(sizes, device=parts_PH.device))
        attention_N = torch.zeros_like(share_P).index_copy(0, order_N, first.attention_NK.squeeze(1) * share_P)
        embedding_BH = second.values_BKH.squeeze(1)
        aux_loss_B = None if truth is None else self._part_loss(parts_PH, counts, truth)
        return HeadOutput(self.classify(embedding_BH, truth), attention_N, aux_loss_B, embedding_BH)

    def _deal(self, instances: Instances, counts: list[int]) -> tuple[Tensor, list[int]]:
        """Return the instances' numbers (N,), one pseudo-bag after the other, and the pseudo-bags' sizes."""
        order, sizes = [], []
        for (start, stop), count in zip(pairwise(instances.offsets), counts, strict=True):
            device = instances.rows_ND.device
            if self.training:
                shuffled_n = torch.randperm(stop - start, device=device)
            else:
                shuffled_n = _by_sum(instances, start, stop).argsort(stable=True)
            for part in range(count):
                order.append(start + shuffled_n[part::count])
                sizes.append(len(order[-1]))
        return torch.cat(order), sizes

    def _part_loss(self, parts_PH: Tensor, counts: list[int], truth: Truth) -> Tensor:
        """Return the mean loss (B,) of each bag's pseudo-bags."""
        firsts = list(accumulate(counts, initial=0))
        total_B: Tensor | float = 0.0
        for turn in range(max(counts)):
            chosen = [first + min(turn, count - 1) for first, count in zip(firsts, counts, strict=False)]
            losses_B = truth.loss(self.part_classify(parts_PH[chosen], truth))
            shares_B = losses_B.new_tensor([1 / count if turn < count else 0.0 for count in counts])
            total_B = total_B + losses_B * shares_B
        return torch.as_tensor(total_B)


@torch.no_grad()
def _by_sum(instances: Instances, start: int, stop: int) -> Tensor:
    """Return the sum of each row's features as stored, float64: a number that goes with the instance wherever it is."""
    rows = instances.rows_ND if instances.order_N is None else instances.rows_ND[instances.order_N]
    return torch.cat([part.double().sum(1) for part in torch.split(rows[start:stop], 2048)])
