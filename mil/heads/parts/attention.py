"""The per-instance part that attention heads share: an embedding, and K scores for it."""

import torch
from torch import Tensor, nn

from mil.heads.head import HeadSpec
from mil.ragged.instances import wide


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
