"""Self-attention approximated from a few landmarks.

Source: Xiong et al., Nystromformer, AAAI 2021, arXiv 2102.03902. Differences: landmarks are means of consecutive tokens
without padding among them, and a sequence of no more tokens than landmarks is attended to exactly.
"""

import torch
from torch import Tensor, nn

from mil.ragged.instances import wide

LANDMARKS = 64
PINV_STEPS = 6
"""Steps of the iteration towards the pseudo-inverse."""
KERNEL = 33
"""Tokens that the residual convolution over the values spans."""


class NystromAttention(nn.Module):
    """Multi-head attention of tokens (L, H) in time and memory linear in L; softmax and inverse in float32."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.residual = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width, bias=False)

    def forward(self, tokens_LH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens (L, H), and the first token's attention (L,) to all, the mean over heads."""
        query_hLd, key_hLd, value_hLd = self.qkv(tokens_LH).unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        with torch.autocast(tokens_LH.device.type, enabled=False):
            query_hLd = wide(query_hLd) * query_hLd.shape[-1] ** -0.5
            key_hLd, value_hLd = wide(key_hLd), wide(value_hLd)
            left_hLm, right_hmL = _factors(query_hLd, key_hLd)
            mixed_hLd = left_hLm @ (right_hmL @ value_hLd)
            first_L = (left_hLm[:, :1] @ right_hmL).mean(0).squeeze(0)
            values_LH = value_hLd.transpose(0, 1).flatten(1)
            local_LH = self.residual(values_LH.T[None])[0].T
        return self.out(mixed_hLd.transpose(0, 1).flatten(1) + local_LH), first_L


def _factors(query_hLd: Tensor, key_hLd: Tensor) -> tuple[Tensor, Tensor]:
    """Return two factors (h, L, m) and (h, m, L) whose product stands for the attention (h, L, L)."""
    length = query_hLd.shape[1]
    if length <= LANDMARKS:
        weights_hLL = (query_hLd @ key_hLd.transpose(1, 2)).softmax(-1)
        return weights_hLL, torch.eye(length, dtype=weights_hLL.dtype, device=weights_hLL.device)[None]
    queries_hmd, keys_hmd = _landmarks(query_hLd), _landmarks(key_hLd)
    to_landmarks_hLm = (query_hLd @ keys_hmd.transpose(1, 2)).softmax(-1)
    among_hmm = (queries_hmd @ keys_hmd.transpose(1, 2)).softmax(-1)
    from_landmarks_hmL = (queries_hmd @ key_hLd.transpose(1, 2)).softmax(-1)
    return to_landmarks_hLm @ pseudo_inverse(among_hmm), from_landmarks_hmL


def _landmarks(tokens_hLd: Tensor) -> Tensor:
    """Return the means (h, m, d) of consecutive runs of equal length; the last run may be shorter."""
    heads, length, width = tokens_hLd.shape
    run = -(-length // LANDMARKS)
    count = -(-length // run)
    filled = torch.cat([tokens_hLd, tokens_hLd.new_zeros(heads, run * count - length, width)], dim=1)
    sizes_m = torch.full((count, 1), float(run), dtype=tokens_hLd.dtype, device=tokens_hLd.device)
    sizes_m[-1] = length - run * (count - 1)
    return filled.view(heads, count, run, width).sum(2) / sizes_m


def pseudo_inverse(matrix_hmm: Tensor) -> Tensor:
    """Return the approximate Moore-Penrose inverse by the iteration of Razavi et al. 2014 that the paper uses."""
    absolute = matrix_hmm.detach().abs()
    bound_h11 = absolute.sum(-1).amax(-1) * absolute.sum(-2).amax(-1)
    inverse = matrix_hmm.transpose(1, 2) / bound_h11[:, None, None]
    identity = torch.eye(matrix_hmm.shape[-1], dtype=matrix_hmm.dtype, device=matrix_hmm.device)
    for _ in range(PINV_STEPS):
        product = matrix_hmm @ inverse
        inner = 7 * identity - product
        inverse = inverse @ (13 * identity - product @ (15 * identity - product @ inner)) / 4
    return inverse
