"""A head whose tile scores add up to the slide's logits.

Source: Javed et al., Additive MIL: Intrinsically Interpretable Multiple Instance Learning for Pathology, NeurIPS 2022,
arXiv 2206.01794.
"""

import torch
from torch import Tensor, nn

from mil.heads.head import Explains, Head, HeadOutput, HeadSpec, Truth
from mil.heads.parts.attention import AttentionRows
from mil.ragged.instances import Instances, wide
from mil.ragged.segments import segment_softmax, segment_sum


class Additive(Head, Explains):
    """A tile adds its attention times its own logits; the sum over the bag is the bag's logits, exactly.

    The paper's tile network sees the embedding already weighted by attention, so that its bias grows with the number of
    tiles. Here attention weighs the network's answer: a bag's logits stay in the range of its tiles' logits. ArcFace
    does not apply: no point stands for the bag.
    """

    attends = True
    has_point = False
    about = "tile scores that sum to the slide's logits (Additive MIL, Javed et al. 2022)"

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.rows = AttentionRows(spec)
        self.classify = nn.Sequential(
            nn.Linear(spec.hidden, spec.hidden),
            nn.ReLU(),
            nn.Dropout(spec.dropout),
            nn.Linear(spec.hidden, spec.n_classes),
        )

    def _rows(self, rows_ND: Tensor) -> Tensor:
        scores_N1, embedded_NH = self.rows(rows_ND)
        return torch.cat([scores_N1, wide(self.classify(embedded_NH))], dim=1)

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C), the attention (N,) and what each tile adds (N, C)."""
        both_N = instances.map(self._rows)
        attention_N = segment_softmax(both_N[:, 0], instances.offsets)
        tile_logits_NC = attention_N[:, None] * both_N[:, 1:]
        return HeadOutput(segment_sum(tile_logits_NC, instances.offsets), attention_N, tile_logits_NC=tile_logits_NC)

    def explain(self, instances: Instances) -> HeadOutput:
        """Return what each tile adds, as `forward` does."""
        return self.forward(instances)
