"""The per-instance part that attention heads share: an embedding, and K scores for it."""

import torch
from torch import Tensor, nn

from mil.heads.head import HeadOutput, HeadSpec
from mil.heads.parts.output import Output
from mil.ragged.instances import Instances, wide
from mil.ragged.segments import segment_softmax, segment_sum


class AttentionRows(nn.Module):
    """Rows (n, D) to scores (n, K) and embeddings (n, H): linear and ReLU, then plain or gated attention.

    Source: Ilse, Tomczak and Welling, Attention-based Deep Multiple Instance Learning, ICML 2018, arXiv 1802.04712,
    equations 8 (plain) and 9 (gated). The last product, which makes the scores, is in float32 under autocast, too:
    half precision there shifts the gradients of large bags by percents.
    """

    def __init__(self, spec: HeadSpec, branches: int = 1, gated: bool = True, width: int | None = None) -> None:
        super().__init__()
        self.gated = gated
        self.embed = nn.Sequential(nn.Linear(width or spec.dim, spec.hidden), nn.ReLU())
        self.gate = nn.Linear(spec.hidden, 2 * spec.attention if gated else spec.attention)
        self.score = nn.Linear(spec.attention, branches)

    def forward(self, rows_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and embeddings."""
        embedded_NH = self.embed(rows_ND)
        return self.weigh(embedded_NH), embedded_NH

    def weigh(self, embedded_NH: Tensor) -> Tensor:
        """Return the scores (n, K) of embeddings, float32."""
        gate_NA = self.gate(embedded_NH)
        if self.gated:
            tanh_NA, sigmoid_NA = gate_NA.chunk(2, dim=1)
            gate_NA = tanh_NA.tanh() * sigmoid_NA.sigmoid()
        else:
            gate_NA = gate_NA.tanh()
        with torch.autocast(gate_NA.device.type, enabled=False):
            scores_NK: Tensor = self.score(wide(gate_NA))
            return scores_NK


def share_out(rows: AttentionRows, classify: Output, instances: Instances) -> HeadOutput | None:
    """Return what each instance adds to a linear layer's logits of the pooled embedding; None for another last layer.

    The pooling is a weighted mean, over K branches the mean of theirs, and a linear layer of it is the weighted mean of
    that layer of each instance.
    """
    if not classify.linear:
        return None

    def both(rows_ND: Tensor) -> Tensor:
        scores_NK, embedded_NH = rows(rows_ND)
        return torch.cat([scores_NK, classify(wide(embedded_NH))], dim=1)

    both_N = instances.map(both)
    n_classes = classify.n_classes
    attention_N = segment_softmax(both_N[:, :-n_classes], instances.offsets).mean(1)
    tile_logits_NC = attention_N[:, None] * both_N[:, -n_classes:]
    return HeadOutput(segment_sum(tile_logits_NC, instances.offsets), attention_N, tile_logits_NC=tile_logits_NC)
