"""Attention pooling over bags too large to hold: one pass over chunks of rows forward, one more backward.

Forward, each chunk's scores and values are computed, the running maximum, normaliser and weighted sum are brought up to
date (online softmax: Milakov and Gimelshein 2018, arXiv 1805.02867), and the chunk is forgotten. Backward, the chunk is
computed again, as in Dao et al. 2022 (arXiv 2205.14135). Memory: one chunk, the scores (N, K), and while training what
`KEPT_BYTES` allow: the graphs of the first chunks, which are then not computed again; but for their rows, for to cast
and standardise those costs little beside the products. The numbers are the same, to the bit.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mil.ragged.instances import Instances, wide
from mil.ragged.randomness import Randomness

Attend = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From rows (n, D) to scores (n, K) and values (n, H); a row's result depends on that row alone."""


KEPT_BYTES = {"cpu": 512 << 20, "cuda": 2 << 30}
"""By device: what the graphs of a pooling may hold. 100,000 rows at widths 512 and 256, 400,000 at 128 and 64."""


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What a computation depends on beside its tensors: autocast and the random numbers of dropout."""

    device: torch.device
    autocast: bool
    dtype: torch.dtype
    randomness: Randomness

    @classmethod
    def now(cls, device: torch.device) -> "_Surroundings":
        """Return those of this moment."""
        kind = device.type
        return cls(device, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind), Randomness(device))

    def autocasting(self) -> torch.autocast:
        """Return the autocast of that moment, as a context."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.autocast)


@dataclass(slots=True)
class _Kept:
    """Scores and values of the first chunks with their graphs, as long as there is room."""

    instances: Instances
    room: int
    """Bytes."""
    outputs: list[tuple[Tensor, Tensor] | None] = field(default_factory=list)
    """By number of the chunk; each can be gone through once."""
    randomness: Randomness | None = None
    """That of the first chunk that was not kept."""

    def attend(self, attend: Attend, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return scores and values of a chunk, which are kept if there is room."""
        rows_nD = self.instances.rows(start, stop)
        if self.room <= 0:
            self.randomness = self.randomness or Randomness(rows_nD.device)
            return attend(rows_nD)
        with torch.enable_grad(), self._holding(rows_nD, start, stop):
            found = attend(rows_nD)
        self.outputs.append(found)
        return found[0].detach(), found[1].detach()

    def _holding(self, rows_nD: Tensor, start: int, stop: int) -> AbstractContextManager[None]:
        """Count what the graph holds, but for the weights; in place of the chunk's rows it holds none."""
        place, seen = (rows_nD.data_ptr(), rows_nD.shape, rows_nD.dtype), set[int]()

        def held(tensor: Tensor) -> Tensor | None:
            if (tensor.data_ptr(), tensor.shape, tensor.dtype) == place:
                return None
            storage = tensor.untyped_storage()
            if not tensor.is_leaf and storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                self.room -= storage.nbytes()
            return tensor

        instances = self.instances  # and not self, which holds the graph: it would live until it is collected

        def given(tensor: Tensor | None) -> Tensor:
            return instances.rows(start, stop) if tensor is None else tensor

        context: AbstractContextManager[None] = torch.autograd.graph.saved_tensors_hooks(held, given)
        return context

    def take(self, number: int) -> tuple[Tensor, Tensor] | None:
        """Return what was kept of a chunk, once."""
        if number >= len(self.outputs):
            return None
        found, self.outputs[number] = self.outputs[number], None
        return found


class _Running:
    """The online softmax of one bag: K weightings of values (n, H)."""

    def __init__(self) -> None:
        self.highest_K: Tensor | None = None
        self.total_K: Tensor
        self.sums_KH: Tensor

    def add(self, scores_nK: Tensor, values_nH: Tensor) -> None:
        highest_K = scores_nK.max(0).values
        if self.highest_K is not None:
            highest_K = torch.maximum(highest_K, self.highest_K)
        powers_nK = (scores_nK - highest_K).exp()
        total_K, sums_KH = powers_nK.sum(0), powers_nK.T @ values_nH
        if self.highest_K is not None:
            shrink_K = (self.highest_K - highest_K).exp()
            total_K, sums_KH = total_K + shrink_K * self.total_K, sums_KH + shrink_K[:, None] * self.sums_KH
        self.highest_K, self.total_K, self.sums_KH = highest_K, total_K, sums_KH

    @property
    def pooled_KH(self) -> Tensor:
        return self.sums_KH / self.total_K[:, None]

    @property
    def normaliser_K(self) -> Tensor:
        """Return log sum exp of the scores."""
        assert self.highest_K is not None
        return self.highest_K + self.total_K.log()


def stream_pool(
    attend: Attend, parameters: Sequence[Tensor], instances: Instances, bias_NK: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the pooled values (B, K, H) and the scores (N, K), both in float32 and differentiable.

    Parameters
    ----------
    attend
        Scores and values of a chunk; may use random numbers, which are replayed in the backward pass.
    parameters
        The tensors that ``attend`` uses and that want gradients. Tensors that it uses and that are not here get none.
    instances
        Rows of the bags; they get a gradient if they want one.
    bias_NK
        Added to the scores before the softmax, without gradient: minus infinity leaves a row out.
    """
    kept = _Kept(instances, _room(parameters, instances))
    pooled_BKH, scores_NK = _StreamedPool.apply(
        attend, kept, bias_NK, instances.rows_ND, instances.presence_N, *parameters
    )
    return pooled_BKH, scores_NK


def _room(parameters: Sequence[Tensor], instances: Instances) -> int:
    """Return the bytes of graphs that may be kept: none where nothing is learnt, or where rows want gradients."""
    rows_ND, presence_N = instances.rows_ND, instances.presence_N
    of_rows = rows_ND.requires_grad or (presence_N is not None and presence_N.requires_grad)
    if of_rows or not torch.is_grad_enabled() or not any(own.requires_grad for own in parameters):
        return 0
    return KEPT_BYTES.get(rows_ND.device.type, KEPT_BYTES["cpu"])


class _StreamedPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        attend: Attend,
        kept: _Kept,
        bias_NK: Tensor | None,
        rows_ND: Tensor,
        presence_N: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Pool chunk by chunk; keep what the backward pass needs to make the weights again."""
        ctx.attend, ctx.kept, instances = attend, kept, kept.instances
        ctx.surroundings = _Surroundings.now(rows_ND.device)
        running = [_Running() for _ in instances.sizes]
        scores = []
        for bag, start, stop in instances.chunks():
            scores_nK, values_nH = (wide(part) for part in kept.attend(attend, start, stop))
            scores.append(scores_nK)
            with torch.autocast(rows_ND.device.type, enabled=False):
                running[bag].add(scores_nK if bias_NK is None else scores_nK + bias_NK[start:stop], values_nH)
        pooled_BKH = torch.stack([bag.pooled_KH for bag in running])
        normaliser_BK = torch.stack([bag.normaliser_K for bag in running])
        scores_NK = torch.cat(scores)
        ctx.save_for_backward(pooled_BKH, normaliser_BK, scores_NK, bias_NK, *parameters)
        ctx.set_materialize_grads(False)
        return pooled_BKH, scores_NK

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute each chunk again and add up its part of the gradients."""
        grad_BKH, grad_NK = grads
        pooled_BKH, normaliser_BK, scores_NK, bias_NK, *parameters = ctx.saved_tensors
        wanted = [p for p, needed in zip(parameters, ctx.needs_input_grad[5:], strict=True) if needed]
        sums: list[Tensor | None] = [None] * len(wanted)
        row_grads: list[Tensor] = []
        presence_grads: list[Tensor] = []
        of_rows, of_presence = ctx.needs_input_grad[3], ctx.needs_input_grad[4]
        kept, instances, again = ctx.kept, ctx.kept.instances, False
        device = ctx.surroundings.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            for number, (bag, start, stop) in enumerate(instances.chunks()):
                found = kept.take(number)
                if found is None:
                    if not again:
                        (kept.randomness if number else ctx.surroundings.randomness).replay()
                    again = True
                    with torch.enable_grad(), ctx.surroundings.autocasting():
                        rows_nD = instances.rows(start, stop).detach().requires_grad_(of_rows or of_presence)
                        found = ctx.attend(rows_nD)
                scores_nK, values_nH = found
                biased_nK = scores_NK[start:stop] if bias_NK is None else scores_NK[start:stop] + bias_NK[start:stop]
                weights_nK = (biased_nK - normaliser_BK[bag]).exp()
                extra_nK = None if grad_NK is None else grad_NK[start:stop]
                upstream = _chunk_gradients(weights_nK, wide(values_nH), pooled_BKH[bag], grad_BKH, bag, extra_nK)
                inputs = [*wanted, rows_nD] if of_rows or of_presence else wanted
                parts = _through((scores_nK, values_nH), upstream, inputs)
                sums = [_plus(total, part) for total, part in zip(sums, parts, strict=False)]
                if of_rows:
                    row_grads.append(_of_rows(parts[-1], rows_nD, instances))
                if of_presence:
                    own_nD = torch.zeros_like(rows_nD) if parts[-1] is None else parts[-1]
                    presence_grads.append((own_nD * rows_nD.detach()).sum(1))
        found = iter(sums)
        param_grads = [next(found) if needed else None for needed in ctx.needs_input_grad[5:]]
        rows_grad_ND = _in_place(row_grads, instances, instances.rows_ND.dtype)
        presence_grad_N = _in_place(presence_grads, instances, torch.float32)
        return None, None, None, rows_grad_ND, presence_grad_N, *param_grads


def _chunk_gradients(
    weights_nK: Tensor,
    values_nH: Tensor,
    pooled_KH: Tensor,
    grad_BKH: Tensor | None,
    bag: int,
    extra_nK: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of a chunk's scores (n, K) and values (n, H)."""
    if grad_BKH is None:
        return extra_nK, None
    grad_KH = grad_BKH[bag]
    detached_nH = values_nH.detach()
    by_score_nK = weights_nK * (detached_nH @ grad_KH.T - (pooled_KH * grad_KH).sum(1))
    return by_score_nK if extra_nK is None else by_score_nK + extra_nK, weights_nK @ grad_KH


def _through(
    outputs: tuple[Tensor, Tensor], upstream: tuple[Tensor | None, Tensor | None], inputs: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """Return the gradients of the inputs, None where the outputs do not depend on one."""
    pairs = [
        (output, grad.to(output.dtype))
        for output, grad in zip(outputs, upstream, strict=True)
        if grad is not None and output.requires_grad
    ]
    if not pairs or not inputs:
        return [None] * len(inputs)
    heads, grads = zip(*pairs, strict=True)
    return torch.autograd.grad(heads, inputs, grads, allow_unused=True)


def _plus(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    if total is None or part is None:
        return part if total is None else total
    return total + part


def _of_rows(grad: Tensor | None, rows_nD: Tensor, instances: Instances) -> Tensor:
    """Return the gradient of a chunk's rows as they were before standardisation."""
    grad = torch.zeros_like(rows_nD) if grad is None else grad
    return grad if instances.scale_D is None else grad * instances.scale_D


def _in_place(row_grads: list[Tensor], instances: Instances, dtype: torch.dtype) -> Tensor | None:
    """Return the gradients of stored rows, each where its row came from."""
    if not row_grads:
        return None
    grad_ND = torch.cat(row_grads).to(dtype)
    if instances.order_N is None:
        return grad_ND
    return torch.zeros_like(grad_ND).index_copy_(0, instances.order_N, grad_ND)
