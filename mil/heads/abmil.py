"""Attention pooling, without and with a gate.

Source: Ilse, Tomczak and Welling, Attention-based Deep Multiple Instance Learning, ICML 2018, arXiv 1802.04712,
equations 8 and 9.
"""

from typing import ClassVar

from mil.heads.head import Explains, Head, HeadOutput, HeadSpec, Truth
from mil.heads.parts.attention import AttentionRows, share_out
from mil.heads.parts.output import Output
from mil.ragged.instances import Instances
from mil.ragged.pooling import pool


class AttentionPool(Head, Explains):
    """Instance embedding, then a softmax over each bag of what its attention gives, then the output layer."""

    attends = True
    streams = True
    gated: ClassVar[bool]

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.rows = AttentionRows(spec, gated=self.gated)
        self.classify = Output(spec)

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C) and the attention (N,)."""
        pooled = pool(self.rows, list(self.rows.parameters()), instances)
        embedding_BH = pooled.values_BKH.squeeze(1)
        return HeadOutput(self.classify(embedding_BH, truth), pooled.attention_NK.squeeze(1), embedding_BH=embedding_BH)

    def explain(self, instances: Instances) -> HeadOutput | None:
        """Return what each tile adds: its attention times the logits of its embedding."""
        return share_out(self.rows, self.classify, instances)


class Abmil(AttentionPool):
    """``softmax(w tanh(V h))``: equation 8."""

    gated = False
    about = "attention pooling (Ilse et al. 2018)"


class GatedAbmil(AttentionPool):
    """``softmax(w (tanh(V h) * sigmoid(U h)))``: equation 9."""

    gated = True
    about = "gated attention pooling (Ilse et al. 2018)"
