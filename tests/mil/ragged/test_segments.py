"""What bags' rows are put together by."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mil.ragged.segments import (
    _in_columns,
    attention_pool,
    of_winners,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
    weighted_sums,
)

OFFSETS = (0, 3, 10, 11, 40)


def both(branches: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores (40, K), of which some leave their row out, and values (40, 7), both wanting gradients."""
    torch.manual_seed(branches)
    scores_NK = torch.randn(40, branches, dtype=torch.float64)
    scores_NK[[1, 20], 0] = float("-inf")
    return scores_NK.requires_grad_(), torch.randn(40, 7, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("branches", [1, 3])
def test_all_bags_in_one_product_are_the_bags_one_by_one(branches: int) -> None:
    scores_NK, values_NH = both(branches)
    attention_NK = segment_softmax(scores_NK, OFFSETS)
    wanted = weighted_sums(attention_NK, values_NH, OFFSETS), attention_NK
    found = _in_columns(scores_NK, values_NH, OFFSETS)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    push = torch.randn(len(OFFSETS) - 1, branches, 7, dtype=torch.float64)
    grads = [
        torch.autograd.grad((sums * push).sum() + (own**2).sum(), (scores_NK, values_NH))
        for sums, own in (found, wanted)
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_what_is_put_together_is_numpys_bag_by_bag_in_float32_within_half_precision() -> None:
    scores_NK, values_NH = (own.detach().half() for own in both(3))
    scores_NK = scores_NK.clamp(min=-3)
    bags = [slice(*pair) for pair in pairwise(OFFSETS)]
    scores, values = (own.double().numpy() for own in (scores_NK, values_NH))
    weights = [np.exp(scores[own]) / np.exp(scores[own]).sum(0) for own in bags]
    wanted = {
        segment_sum: np.stack([values[own].sum(0) for own in bags]),
        segment_mean: np.stack([values[own].mean(0) for own in bags]),
        segment_max: np.stack([values[own].max(0) for own in bags]),
        segment_softmax: np.concatenate([np.exp(values[own]) / np.exp(values[own]).sum(0) for own in bags]),
    }
    with torch.autocast("cpu", torch.bfloat16):
        found = {function: function(values_NH, OFFSETS) for function in wanted}
        sums, attention = attention_pool(scores_NK, values_NH, OFFSETS)
    for function, own in wanted.items():
        np.testing.assert_allclose(found[function].numpy(), own, rtol=1e-5, atol=1e-6, err_msg=function.__name__)
    np.testing.assert_allclose(attention.numpy(), np.concatenate(weights), rtol=1e-5)
    sums_BKH = np.stack([own.T @ values[bag] for own, bag in zip(weights, bags, strict=True)])
    np.testing.assert_allclose(sums.numpy(), sums_BKH, rtol=1e-5, atol=1e-6)


def test_the_winner_is_each_bags_own_class() -> None:
    values_NC = torch.arange(12.0).view(4, 3)
    logits_BC = torch.tensor([[0.0, 2.0, 1.0], [5.0, 1.0, 1.0], [0.0, 0.0, 0.1]])
    assert of_winners(values_NC, logits_BC, (0, 2, 3, 4)).tolist() == [1.0, 4.0, 6.0, 11.0]


@pytest.mark.gpu
@pytest.mark.parametrize("branches", [1, 3])
def test_a_gpu_pools_as_a_cpu(branches: int) -> None:
    scores_NK, values_NH = (own.detach().float() for own in both(branches))
    found = attention_pool(scores_NK.cuda(), values_NH.cuda(), OFFSETS)
    for one, other in zip(found, attention_pool(scores_NK, values_NH, OFFSETS), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-6)
