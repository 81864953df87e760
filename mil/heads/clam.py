"""Attention pooling that also learns to tell the most attended instances from the least.

Source: Lu et al., Data-efficient and weakly supervised computational pathology on whole-slide images, Nature Biomedical
Engineering 2021, arXiv 2004.09666. Differences: the clustering loss is the cross-entropy, not the smooth SVM loss; bags
of fewer than two instances have none; the embedding has no dropout.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mil.heads.head import Explains, Head, HeadOutput, HeadSpec, Truth
from mil.heads.parts.attention import AttentionRows, share_out
from mil.heads.parts.output import Output
from mil.ragged.instances import Instances, wide
from mil.ragged.pooling import Pooled, pool
from mil.ragged.segments import of_winners, segment_softmax, segment_sum, split

SAMPLED = 8
"""Instances taken from the top, and from the bottom, of each bag's attention."""
CLUSTER_SHARE = 0.3
"""Weight of the clustering loss, of 1 in all; the target's loss has the rest."""


class Clam(Head, Explains):
    """Gated attention with one branch (SB) or one for each class (MB), and a two-way classifier of instances per class.

    Of the true class's classifier, the highest attended instances of its branch are positives, the lowest negatives; of
    the other classes' classifiers, the highest attended are negatives. Without a class target there is no such loss.
    """

    attends = True
    streams = True
    branches: ClassVar[bool]
    """Whether each class has its own attention."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.rows = AttentionRows(spec, branches=spec.n_classes if self.branches else 1)
        self.classify = nn.Linear(spec.hidden, spec.n_classes) if self.branches else Output(spec)
        self.drop = nn.Dropout(spec.dropout if self.branches else 0.0)
        self.cluster = nn.ModuleList(nn.Linear(spec.hidden, 2) for _ in range(spec.n_classes))

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C), the predicted class's attention (N,), and the clustering loss (B,)."""
        pooled = pool(self.rows, list(self.rows.parameters()), instances)
        logits_BC = self._logits(pooled.values_BKH, truth)
        classes_B = None if truth is None else truth.classes_B
        aux_loss_B = None if classes_B is None else self._clustering(instances, pooled, classes_B)
        embedding_BH = None if self.branches else pooled.values_BKH.squeeze(1)
        return HeadOutput(logits_BC, self._shown(pooled, logits_BC, instances), aux_loss_B, embedding_BH)

    def explain(self, instances: Instances) -> HeadOutput | None:
        """Return what each tile adds: its attention (MB: that of the class) times the logits of its embedding."""
        if isinstance(self.classify, Output):
            return share_out(self.rows, self.classify, instances)
        layer = self.classify

        def both(rows_ND: Tensor) -> Tensor:
            scores_NC, embedded_NH = self.rows(rows_ND)
            with torch.autocast(rows_ND.device.type, enabled=False):
                return torch.cat([scores_NC, layer(wide(embedded_NH))], dim=1)

        scores_NC, own_NC = instances.map(both).chunk(2, dim=1)
        attention_NC = segment_softmax(scores_NC, instances.offsets)
        tile_logits_NC = attention_NC * own_NC
        logits_BC = segment_sum(tile_logits_NC, instances.offsets)
        shown_N = of_winners(attention_NC, logits_BC, instances.offsets)
        return HeadOutput(logits_BC, shown_N, tile_logits_NC=tile_logits_NC)

    def _logits(self, values_BKH: Tensor, truth: Truth | None) -> Tensor:
        if isinstance(self.classify, Output):
            logits_BC: Tensor = self.classify(values_BKH.squeeze(1), truth)
            return logits_BC
        with torch.autocast(values_BKH.device.type, enabled=False):
            return (self.drop(values_BKH) * self.classify.weight).sum(-1) + self.classify.bias

    def _shown(self, pooled: Pooled, logits_BC: Tensor, instances: Instances) -> Tensor:
        if not self.branches:
            return pooled.attention_NK.squeeze(1)
        return of_winners(pooled.attention_NK, logits_BC, instances.offsets)

    def _clustering(self, instances: Instances, pooled: Pooled, classes_B: Tensor) -> Tensor:
        scores = split(pooled.scores_NK.detach(), instances.offsets)
        losses = [
            self._of_bag(instances, start, scores_nK, int(true))
            for start, scores_nK, true in zip(instances.offsets, scores, classes_B.tolist(), strict=False)
        ]
        return torch.stack(losses) * (CLUSTER_SHARE / (1 - CLUSTER_SHARE))

    def _of_bag(self, instances: Instances, start: int, scores_nK: Tensor, true: int) -> Tensor:
        """Return the mean loss of the classes' instance classifiers on one bag."""
        k = min(SAMPLED, len(scores_nK) // 2)
        if k == 0:
            return scores_nK.new_zeros(())
        n_classes = len(self.cluster)
        branch = [c if self.branches else 0 for c in range(n_classes)]
        picked = [scores_nK[:, b].topk(k).indices for b in branch] + [(-scores_nK[:, branch[true]]).topk(k).indices]
        embedded = torch.split(self.rows.embed(instances.take(start + torch.cat(picked))), k)
        tops, lowest_kH = embedded[:n_classes], embedded[n_classes]
        losses = []
        for c, classifier in enumerate(self.cluster):
            rows = torch.cat([tops[c], lowest_kH]) if c == true else tops[c]
            wanted = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
            wanted[:k] = int(c == true)
            losses.append(F.cross_entropy(wide(classifier(rows)), wanted))
        return torch.stack(losses).mean()


class ClamSb(Clam):
    """CLAM with a single attention branch."""

    branches = False
    about = "one attention branch, top and bottom tiles clustered (CLAM-SB, Lu et al. 2021)"


class ClamMb(Clam):
    """CLAM with an attention branch for each class. ArcFace does not apply: each class has a point of its own."""

    branches = True
    has_point = False
    about = "an attention branch for each class, tiles clustered (CLAM-MB, Lu et al. 2021)"
