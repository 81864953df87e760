"""The highest instance decides.

Source: mi-Net of Wang et al., Revisiting Multiple Instance Neural Networks, Pattern Recognition 2018, arXiv 1610.02501;
on slides, Campanella et al., Nature Medicine 2019.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mil.heads.head import Explains, Head, HeadOutput, HeadSpec, Truth
from mil.ragged.instances import Instances, wide
from mil.ragged.segments import of_winners, segment_max, segment_softmax


class MaxPool(Head, Explains):
    """A small network scores each instance; a bag's logits are the maxima over its instances.

    With two classes there is one score, for the second class being there at all: a bag is of the second class if and
    only if one of its instances is (the standard MIL assumption). The map shows a softmax over the bag's scores for the
    class that it predicts. ArcFace does not apply: no point stands for the bag.
    """

    attends = True
    has_point = False
    says: ClassVar[Literal["sum", "max"]] = "max"
    about = "the highest-scoring tile decides (mi-Net, Wang et al. 2018)"

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.two_classes = spec.n_classes == 2
        self.score = nn.Sequential(
            nn.Linear(spec.dim, spec.hidden),
            nn.ReLU(),
            nn.Dropout(spec.dropout),
            nn.Linear(spec.hidden, 1 if self.two_classes else spec.n_classes),
        )

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C), the tiles' own logits (N, C), and a map (N,)."""
        scores_NC = wide(instances.map(self.score))
        logits_BC = segment_max(scores_NC, instances.offsets)
        chosen_N = of_winners(scores_NC.detach(), logits_BC, instances.offsets)
        attention_N = segment_softmax(chosen_N, instances.offsets)
        if self.two_classes:
            scores_NC, logits_BC = _both_ways(scores_NC), _both_ways(logits_BC)
        return HeadOutput(logits_BC, attention_N, tile_logits_NC=scores_NC)

    def explain(self, instances: Instances) -> HeadOutput:
        """Return each tile's own logits, as `forward` does."""
        return self.forward(instances)


def _both_ways(score_N1: Tensor) -> Tensor:
    """Return two logits whose difference is the score."""
    return torch.cat([-score_N1 / 2, score_N1 / 2], dim=1)
