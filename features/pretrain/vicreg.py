"""VICReg: two views of a tile get like features, and features over tiles neither vanish nor repeat each other.

Source: Bardes, Ponce & LeCun, VICReg: variance-invariance-covariance regularization for self-supervised learning, ICLR
2022 (arXiv 2105.04906), with its weights. It needs no teacher, no queue and no prototypes, a quarter less work per step
than DINO of two views, and what keeps it from collapsing stands in the loss itself: for small convolutional networks on
CPUs, where batches are small and runs short. Variance and covariance are those of a part of the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from features.learning.ranks import Setting
from features.pretrain.objectives import Objective

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
LEAST_STD = 1.0
_EPSILON = 1e-4


def expander(dim: int, outputs: int) -> nn.Module:
    """Return the expander: three layers, batch norm between."""
    return nn.Sequential(
        nn.Linear(dim, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(),
        nn.Linear(outputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(),
        nn.Linear(outputs, outputs, bias=False),
    )  # fmt: skip


class Vicreg(Objective):
    """Invariance of the two views, variance and covariance of each."""

    def loss_sum(self, outputs: Sequence[Tensor], views: Sequence[Tensor], targets: Tensor) -> Tensor:
        """See `Objective.loss_sum`; the loss is of the part as a whole."""
        one, two = (own.float() for own in outputs)
        loss = INVARIANCE * mse_loss(one, two)
        for own in (one, two):
            std = torch.sqrt(own.var(0) + _EPSILON)
            loss = loss + VARIANCE / 2 * relu(LEAST_STD - std).mean() + COVARIANCE * off_diagonal(own)
        return loss * len(one)

    def settle(self, setting: Setting, step: int, n_steps: int) -> None:
        """See `Objective.settle`."""
        self._follow(step)


def off_diagonal(outputs_ND: Tensor) -> Tensor:
    """Return the squared covariances of different dimensions, summed, over the number of dimensions."""
    centred = outputs_ND - outputs_ND.mean(0)
    covariance = centred.T @ centred / (len(outputs_ND) - 1)
    squares = covariance.square()
    return (squares.sum() - squares.diagonal().sum()) / outputs_ND.shape[1]
