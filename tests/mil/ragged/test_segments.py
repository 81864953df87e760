"""What bags' rows are put together by."""

import pytest
import torch

from mil.ragged.segments import _in_columns, attention_pool, segment_softmax, weighted_sums

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


@pytest.mark.gpu
@pytest.mark.parametrize("branches", [1, 3])
def test_a_gpu_pools_as_a_cpu(branches: int) -> None:
    scores_NK, values_NH = (own.detach().float() for own in both(branches))
    found = attention_pool(scores_NK.cuda(), values_NH.cuda(), OFFSETS)
    for one, other in zip(found, attention_pool(scores_NK, values_NH, OFFSETS), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-6)
