"""Gated attention pooling.

Source: Ilse, Tomczak and Welling, Attention-based Deep Multiple Instance Learning, ICML 2018, arXiv 1802.04712,
equation 9.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mil.heads.head import Head, HeadOutput, HeadSpec
from mil.packing import attention_pool


class GatedAbmil(Head):
    """Instance embedding, then ``softmax(w (tanh(V h) * sigmoid(U h)))`` over each bag, then a linear classifier."""

    attends = True

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.embed = nn.Sequential(nn.Linear(spec.dim, spec.hidden), nn.ReLU())
        self.gate = nn.Linear(spec.hidden, 2 * spec.attention)
        self.score = nn.Linear(spec.attention, 1)
        self.classify = nn.Sequential(nn.Dropout(spec.dropout), nn.Linear(spec.hidden, spec.n_classes))

    def forward(self, rows_ND: Tensor, offsets: Sequence[int]) -> HeadOutput:
        """Return the logits (B, C) and the attention (N,)."""
        embedded_NH = self.embed(rows_ND)
        tanh_NA, sigmoid_NA = self.gate(embedded_NH).chunk(2, dim=1)
        gated_NA = tanh_NA.tanh() * sigmoid_NA.sigmoid()
        with torch.autocast(rows_ND.device.type, enabled=False):
            scores_N = self.score(gated_NA.float()).squeeze(1)
            pooled_BH, attention_N = attention_pool(scores_N, embedded_NH, offsets)
            return HeadOutput(self.classify(pooled_BH), attention_N)
