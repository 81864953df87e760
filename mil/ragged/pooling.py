"""Attention pooling of packed bags: all rows in one product where they fit, streamed where a bag is large."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mil.ragged.instances import Instances, wide
from mil.ragged.segments import attention_pool, segment_softmax
from mil.ragged.streaming import Attend, stream_pool


class Pooled(NamedTuple):
    """What attention pooling with K weightings gives for B bags of N instances in all; float32."""

    values_BKH: Tensor
    scores_NK: Tensor
    """Before the softmax."""
    attention_NK: Tensor
    """Sums to 1 in each bag."""


def pool(attend: Attend, parameters: list[nn.Parameter], instances: Instances, bias_NK: Tensor | None = None) -> Pooled:
    """Pool the values that ``attend`` gives, weighted by the softmax over each bag of its scores plus ``bias_NK``.

    Softmax and sums are in float32; the products inside ``attend`` in what autocast says. See `stream_pool` for the
    parameters.
    """
    if instances.streamed:
        values_BKH, scores_NK = stream_pool(attend, parameters, instances, bias_NK)
        return Pooled(values_BKH, scores_NK, segment_softmax(_biased(scores_NK, bias_NK), instances.offsets))
    scores_NK, values_NH = attend(instances.rows())
    scores_NK = wide(scores_NK)
    sums_BKH, attention_NK = attention_pool(_biased(scores_NK, bias_NK), values_NH, instances.offsets)
    return Pooled(sums_BKH, scores_NK, attention_NK)


def _biased(scores_NK: Tensor, bias_NK: Tensor | None) -> Tensor:
    return scores_NK if bias_NK is None else scores_NK + bias_NK


@torch.no_grad()
def scores_alone(attend: Attend, instances: Instances) -> Tensor:
    """Return the scores (N, K) in float32, without gradient."""
    if not instances.streamed:
        return wide(attend(instances.rows())[0])
    return torch.cat([wide(attend(instances.rows(start, stop))[0]) for _, start, stop in instances.chunks()])
