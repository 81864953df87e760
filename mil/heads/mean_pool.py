"""Mean pooling and a small network on the mean: the baseline that every attention head has to beat.

Source: the mean-MLP baseline of arXiv 2502.20823.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from mil.heads.head import Head, HeadOutput, HeadSpec
from mil.packing import mean_pool


class MeanPool(Head):
    """Mean over instances, then linear, ReLU, dropout, linear."""

    attends = False

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.classify = nn.Sequential(
            nn.Linear(spec.dim, spec.hidden),
            nn.ReLU(),
            nn.Dropout(spec.dropout),
            nn.Linear(spec.hidden, spec.n_classes),
        )

    def forward(self, rows_ND: Tensor, offsets: Sequence[int]) -> HeadOutput:
        """Return the logits (B, C); there is no attention."""
        return HeadOutput(self.classify(mean_pool(rows_ND, offsets)).float(), None)
