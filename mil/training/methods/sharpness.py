"""Sharpness-aware minimisation: the gradient is taken where the loss is worst near by, the step from where one stands.

Source: Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR 2021,
arXiv 2010.01412, equation 2 with p = 2.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def ascended(parameters: Sequence[nn.Parameter], rho: float) -> Iterator[None]:
    """Move the parameters by ``rho * g / ||g||`` inside, and put them back, bit for bit, at the end.

    The scale of the gradient plays no part, so a gradient scaled for float16 serves as well. A gradient that is zero
    or not finite moves nothing.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    before = [parameter.detach().clone() for parameter in moved]
    grads: list[Tensor] = [parameter.grad for parameter in moved if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(grads))
    if 0 < norm < float("inf"):
        with torch.no_grad():
            for parameter, grad in zip(moved, grads, strict=True):
                parameter.add_(grad / norm, alpha=rho)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, before, strict=True):
                parameter.copy_(value)
