"""A small network on each instance, averaged over the bag: attention pooling with all weights equal.

Source: the mean-pooling embedding approach of Wang et al., Revisiting Multiple Instance Neural Networks, Pattern
Recognition 2018, arXiv 1610.02501 (MI-Net with mean pooling).
"""

import torch
from torch import Tensor, nn

from mil.heads.head import Explains, Head, HeadOutput, HeadSpec, Truth
from mil.heads.parts.output import Output
from mil.ragged.instances import Instances, wide
from mil.ragged.pooling import pool
from mil.ragged.segments import segment_sum


class MeanMlp(Head, Explains):
    """Linear and ReLU on each instance, mean over the bag, output layer."""

    attends = False
    streams = True
    about = "a small network on each tile, averaged (MI-Net, Wang et al. 2018)"

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.embed = nn.Sequential(nn.Linear(spec.dim, spec.hidden), nn.ReLU())
        self.classify = Output(spec)

    def _rows(self, rows_ND: Tensor) -> tuple[Tensor, Tensor]:
        values_NH = self.embed(rows_ND)
        return torch.zeros_like(wide(values_NH[:, :1])), values_NH

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C); there is no attention."""
        embedding_BH = pool(self._rows, list(self.embed.parameters()), instances).values_BKH.squeeze(1)
        return HeadOutput(self.classify(embedding_BH, truth), embedding_BH=embedding_BH)

    def explain(self, instances: Instances) -> HeadOutput | None:
        """Return what each tile adds: its even share of the logits of its embedding."""
        if not self.classify.linear:
            return None
        logits_NC = instances.map(lambda rows_ND: self.classify(wide(self.embed(rows_ND))))
        sizes = torch.tensor(instances.sizes, device=logits_NC.device)
        tile_logits_NC = logits_NC / sizes.repeat_interleave(sizes)[:, None]
        return HeadOutput(segment_sum(tile_logits_NC, instances.offsets), tile_logits_NC=tile_logits_NC)
