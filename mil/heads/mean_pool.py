"""The mean of the features and a small network on it: the baseline that every attention head has to beat.

Source: the simple baseline (SiMLP) of Li et al., Can We Simplify Slide-level Fine-tuning of Pathology Foundation
Models?, arXiv 2502.20823.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mil.heads.head import Head, HeadOutput, HeadSpec, Truth
from mil.heads.parts.output import Output
from mil.ragged.instances import Instances, wide
from mil.ragged.segments import segment_mean


class MeanPool(Head):
    """Mean over instances, then linear, ReLU, dropout, output layer."""

    attends = False
    streams = True
    about = "mean of the features, then a small network (Li et al. 2025)"

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.embed = nn.Sequential(nn.Linear(spec.dim, spec.hidden), nn.ReLU())
        self.classify = Output(spec)

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C); there is no attention."""
        embedding_BH = wide(self.embed(mean_features(instances)))
        return HeadOutput(self.classify(embedding_BH, truth), embedding_BH=embedding_BH)


def mean_features(instances: Instances) -> Tensor:
    """Return the mean of each bag's rows (B, D); of large bags chunk by chunk."""
    if not instances.streamed:
        return segment_mean(instances.rows(), instances.offsets)
    sums: dict[int, Tensor] = {}
    for bag, start, stop in instances.chunks():
        part_D = checkpoint(_sum, instances, start, stop, use_reentrant=False)
        sums[bag] = sums[bag] + part_D if bag in sums else part_D
    return torch.stack([sums[bag] / size for bag, size in enumerate(instances.sizes)])


def _sum(instances: Instances, start: int, stop: int) -> Tensor:
    return instances.rows(start, stop).sum(0)
