"""Two streams: the highest instance, and attention to the instances that resemble it.

Source: Li, Li and Eliceiri, Dual-stream Multiple Instance Learning Network for Whole Slide Image Classification with
Self-supervised Contrastive Learning, CVPR 2021, arXiv 2011.08939. Difference: the features are embedded once (linear,
ReLU) before both streams.
"""

import math

import torch
from torch import Tensor, nn

from mil.heads.head import Explains, Head, HeadOutput, HeadSpec, Truth
from mil.ragged.instances import Instances, wide
from mil.ragged.segments import of_winners, segment_max, split


class Dsmil(Head, Explains):
    """Maximum over instance scores, and for each class attention by similarity to its highest instance.

    While training, the logits are those of the bag stream and the loss of the instance stream is the head's own, as in
    the paper (times two); otherwise the logits are the mean of both streams. ArcFace does not apply.
    """

    attends = True
    has_point = False
    about = "the highest tile, and attention to tiles like it (DSMIL, Li et al. 2021)"

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.embed = nn.Sequential(nn.Linear(spec.dim, spec.hidden), nn.ReLU())
        self.instance = nn.Linear(spec.hidden, spec.n_classes)
        self.query = nn.Sequential(
            nn.Linear(spec.hidden, spec.attention), nn.ReLU(), nn.Linear(spec.attention, spec.attention), nn.Tanh()
        )
        self.width = spec.attention
        self.value = nn.Sequential(nn.Dropout(spec.dropout), nn.Linear(spec.hidden, spec.hidden), nn.ReLU())
        self.classify = nn.Conv1d(spec.n_classes, spec.n_classes, kernel_size=spec.hidden)

    def _rows(self, rows_ND: Tensor) -> Tensor:
        embedded_NH = self.embed(rows_ND)
        with torch.autocast(rows_ND.device.type, enabled=False):
            scores_NC = self.instance(wide(embedded_NH))
        return torch.cat([scores_NC, wide(self.query(embedded_NH)), wide(self.value(embedded_NH))], dim=1)

    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return the logits (B, C), the attention for the predicted class (N,), and the instance stream's loss (B,)."""
        scores_NC, queries_NQ, values_NH = self._columns(instances)
        with torch.autocast(scores_NC.device.type, enabled=False):
            highest_BC = segment_max(scores_NC, instances.offsets)
            columns = (split(part, instances.offsets) for part in (scores_NC, queries_NQ, values_NH))
            bags = [_attend(*bag) for bag in zip(*columns, strict=True)]
            bag_BC = self.classify(torch.stack([pooled_CH for pooled_CH, _ in bags])).squeeze(2)
        logits_BC = bag_BC if self.training else (highest_BC + bag_BC) / 2
        attention_N = of_winners(torch.cat([weights_nC for _, weights_nC in bags]), logits_BC, instances.offsets)
        return HeadOutput(logits_BC, attention_N, None if truth is None else truth.loss(highest_BC))

    def explain(self, instances: Instances) -> HeadOutput:
        """Return what each tile adds: of the bag stream its share, of the other one the highest tile's score."""
        told = zip(*(split(part, instances.offsets) for part in self._columns(instances)), strict=True)
        with torch.autocast(instances.rows_ND.device.type, enabled=False):
            bags = [self._of_bag(*bag) for bag in told]
        tile_logits_NC = torch.cat([tiles_nC for tiles_nC, _ in bags])
        logits_BC = torch.stack([tiles_nC.sum(0) for tiles_nC, _ in bags])
        attention_N = of_winners(torch.cat([weights_nC for _, weights_nC in bags]), logits_BC, instances.offsets)
        return HeadOutput(logits_BC, attention_N, tile_logits_NC=tile_logits_NC)

    def _of_bag(self, scores_nC: Tensor, queries_nQ: Tensor, values_nH: Tensor) -> tuple[Tensor, Tensor]:
        _, weights_nC = _attend(scores_nC, queries_nQ, values_nH)
        layer, n_classes = self.classify, scores_nC.shape[1]
        own_nCC = (values_nH @ layer.weight.flatten(0, 1).T).unflatten(1, (n_classes, n_classes))
        tiles_nC = (own_nCC * weights_nC[:, None]).sum(2)
        if layer.bias is not None:
            tiles_nC = tiles_nC + weights_nC.mean(1, keepdim=True) * layer.bias
        highest_1C = scores_nC.argmax(0, keepdim=True)
        return tiles_nC.scatter_add(0, highest_1C, scores_nC.gather(0, highest_1C)) / 2, weights_nC

    def _columns(self, instances: Instances) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows' scores (N, C), queries (N, Q) and values (N, H)."""
        sizes = (self.instance.out_features, self.width, self.classify.kernel_size[0])
        scores_NC, queries_NQ, values_NH = instances.map(self._rows).split(sizes, dim=1)
        return scores_NC, queries_NQ, values_NH


def _attend(scores_nC: Tensor, queries_nQ: Tensor, values_nH: Tensor) -> tuple[Tensor, Tensor]:
    """Return one bag's pooled values (C, H) and attention (n, C)."""
    critical_CQ = queries_nQ[scores_nC.detach().argmax(0)]
    weights_nC = (queries_nQ @ critical_CQ.T / math.sqrt(queries_nQ.shape[1])).softmax(0)
    return weights_nC.T @ values_nH, weights_nC
