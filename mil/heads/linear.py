"""The mean of the features and one linear layer on it: the linear probe of vectors that a slide encoder made.

Source: linear probing as slide encoders are judged by it, such as Ding et al. (TITAN), arXiv 2411.19666; there it is a
logistic regression with an L2 penalty, here the same layer by AdamW with early stopping, as every other head.
"""

import torch

from mil.heads.head import Explains, Head, HeadOutput, HeadSpec, Truth
from mil.heads.mean_pool import mean_features
from mil.heads.parts.output import Output
from mil.ragged.instances import Instances, wide
from mil.ragged.segments import segment_sum


class Linear(Head, Explains):
    """Mean over instances, dropout, output layer: of one row a slide, logistic regression on it."""

    attends = False
    streams = True
    about = "one linear layer on the mean of the features: a linear probe"

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.classify = Output(spec, spec.dim)

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C); there is no attention. The point of a bag is the mean of its features (B, D)."""
        mean_BD = wide(mean_features(instances))
        return HeadOutput(self.classify(mean_BD, truth), embedding_BH=mean_BD)

    def explain(self, instances: Instances) -> HeadOutput | None:
        """Return what each tile adds: its even share of the logits of a slide of nothing but its like."""
        if not self.classify.linear:
            return None
        logits_NC = instances.map(lambda rows_ND: self.classify(wide(rows_ND)))
        sizes = torch.tensor(instances.sizes, device=logits_NC.device)
        tile_logits_NC = logits_NC / sizes.repeat_interleave(sizes)[:, None]
        return HeadOutput(segment_sum(tile_logits_NC, instances.offsets), tile_logits_NC=tile_logits_NC)
