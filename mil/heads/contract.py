"""What every MIL head must satisfy: call `check_head` in the tests of a package that brings one.

Each check takes the head's class, builds it small, on the CPU, and raises `AssertionError` that says what is broken.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mil.heads.head import Explains, Head, HeadOutput, HeadSpec
from mil.ragged import instances
from mil.ragged.instances import Instances

Kind = type[Head]
DIM, CLASSES = 7, 3
_SEED = 20


@dataclass(frozen=True)
class Labels:
    """The classes of the bags of a batch, as a head's own losses ask for them."""

    classes_B: Tensor

    def loss(self, logits_BC: Tensor) -> Tensor:
        """Return the cross-entropy of each bag (B,)."""
        return F.cross_entropy(logits_BC, self.classes_B, reduction="none")

    @classmethod
    def of(cls, n_bags: int) -> "Labels":
        """Return classes for so many bags, all of them among the first three."""
        return cls(torch.arange(n_bags) % CLASSES)


def built(kind: Kind, n_classes: int = CLASSES, **spec: Any) -> Head:
    """Return the head, small, in evaluation mode, always with the same weights."""
    torch.manual_seed(_SEED)
    return kind(HeadSpec(name="contract", dim=DIM, n_classes=n_classes, hidden=12, attention=5, **spec)).eval()


def bags_of(sizes: Sequence[int], seed: int = _SEED) -> Instances:
    """Return packed bags of these sizes: noise, float32."""
    rows = np.random.default_rng(seed).normal(size=(sum(sizes), DIM)).astype(np.float32)
    return Instances(torch.from_numpy(rows), (0, *np.cumsum(sizes).tolist()))


def loss_of(output: HeadOutput, truth: Labels) -> Tensor:
    """Return what training descends: the target's loss and the head's own, summed over the bags."""
    return (truth.loss(output.logits_BC) + (0 if output.aux_loss_B is None else output.aux_loss_B)).sum()


@contextmanager
def streamed(above: int = 5, chunk: int = 3) -> Iterator[None]:
    """Have bags of more than so many instances gone over in chunks of so many rows."""
    before = instances.STREAM_ABOVE, instances.CHUNK["cpu"]
    instances.STREAM_ABOVE, instances.CHUNK["cpu"] = above, chunk
    try:
        yield
    finally:
        instances.STREAM_ABOVE, instances.CHUNK["cpu"] = before


def tells_what_it_is(kind: Kind) -> None:
    """Check the class's attributes: one short line, and flags."""
    _hold(0 < len(kind.about) < 90 and "\n" not in kind.about, "about: expected one line of less than 90 letters")
    for flag in ("attends", "order_free", "has_point", "streams"):
        _hold(isinstance(getattr(kind, flag), bool), f"{flag}: expected true or false")


def gives_logits_and_what_it_promises(kind: Kind) -> None:
    """Check shapes and types: logits of each bag, a single instance included, attention, the point, own losses."""
    sizes = [9, 1, 1, 4]
    for n_classes in (1, CLASSES):  # a value or a survival model has a single output
        head = built(kind, n_classes)
        output = head(bags_of(sizes), None)
        _hold_like(output.logits_BC, (len(sizes), n_classes), "logits_BC")
        _hold(kind.attends == (output.attention_N is not None), "attention_N: expected just where the head attends")
        _hold(output.aux_loss_B is None, "aux_loss_B: expected none without a truth")
        if kind.has_point:
            _hold(output.embedding_BH is not None, "has_point, but there is no embedding_BH")
        if output.embedding_BH is not None:
            _hold_like(output.embedding_BH, (len(sizes), output.embedding_BH.shape[1]), "embedding_BH")
        if output.attention_N is not None:
            _hold_like(output.attention_N, (sum(sizes),), "attention_N")
            sums = torch.stack([part.sum() for part in torch.split(output.attention_N, sizes)])
            _close(sums, torch.ones(len(sizes)), "attention does not sum to 1 in a bag")
    output = built(kind).train()(bags_of(sizes), Labels.of(len(sizes)))
    _hold(bool(torch.isfinite(output.logits_BC).all()), "while training a bag of one instance has no finite logits")
    if output.aux_loss_B is not None:
        _hold_like(output.aux_loss_B, (len(sizes),), "aux_loss_B")


def tells_each_bag_by_itself(kind: Kind) -> None:
    """Check that neither outputs nor gradients of packed bags depend on what else is packed; nor does damage spread."""
    head, rng = built(kind), np.random.default_rng(_SEED)
    for seed in range(12):
        together = bags_of(rng.integers(1, 31, rng.integers(1, 7)).tolist(), seed)
        output, alone = head(together, None), [head(bag, None) for bag in _each(together)]
        expected = torch.cat([one.logits_BC for one in alone])
        _close(output.logits_BC, expected, "logits depend on the other bags")
        if output.attention_N is not None:
            expected = torch.cat([one.attention_N for one in alone])
            _close(output.attention_N, expected, "attention depends on other bags")
    bags, truth = bags_of([9, 1, 70, 4]), Labels.of(4)
    loss_of(head(bags, truth), truth).backward()
    packed = _taken_gradients(head)
    for number, bag in enumerate(_each(bags)):
        own = Labels(truth.classes_B[number : number + 1])
        loss_of(head(bag, own), own).backward()
    for one, other in zip(packed, _taken_gradients(head), strict=True):
        _close(one, other, "gradients are not the sum of the bags' own")
    bags.rows_ND[11] = float("nan")  # in the third bag
    finite = torch.isfinite(head(bags, None).logits_BC).all(dim=1).tolist()
    _hold(finite == [True, True, False, True], f"a bag of NaN: expected it alone to be lost, found finite {finite}")


def keeps_to_its_word_on_order(kind: Kind) -> None:
    """Check that where ``order_free`` the order of a bag's instances changes nothing, and else that it does."""
    head, differs = built(kind), False
    for size in (1, 2, 13, 40):
        bag = bags_of([size], seed=size)
        order = torch.from_numpy(np.random.default_rng(size).permutation(size))
        one, other = head(bag, None), head(Instances(bag.rows_ND[order], bag.offsets), None)
        if kind.order_free:
            _close(one.logits_BC, other.logits_BC, "the order of instances counts")
            if one.attention_N is not None:
                moved = one.attention_N[order]
                _close(moved, other.attention_N, "attention does not follow the order")
        differs |= not torch.allclose(one.logits_BC, other.logits_BC, atol=1e-4)
    _hold(kind.order_free or differs, "order_free is false, but the order changes nothing")


def has_right_gradients(kind: Kind) -> None:
    """Check the gradients of rows and parameters against finite differences, in float64; of rows streamed, too."""
    head, bags = built(kind).double(), bags_of([8, 1, 4])
    rows, names = bags.rows_ND.double().requires_grad_(), [name for name, _ in head.named_parameters()]

    def of_rows(values: Tensor) -> Tensor:
        return head(Instances(values, bags.offsets), None).logits_BC

    def of_all(values: Tensor, *parameters: Tensor) -> Tensor:
        own = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(head, own, (Instances(values, bags.offsets), None)).logits_BC

    _hold(torch.autograd.gradcheck(of_all, (rows, *head.parameters()), fast_mode=True), "gradients are wrong")
    with streamed(above=4):
        _hold(torch.autograd.gradcheck(of_rows, rows, fast_mode=True), "gradients of streamed rows are wrong")


def streams_as_it_packs(kind: Kind) -> None:
    """Check that a large bag in chunks of rows gives the outputs and gradients of all rows at once."""
    bags, truth = bags_of([40, 1, 17, 5]), Labels.of(4)

    def run(head: Head) -> tuple[list[Tensor | None], list[Tensor | None]]:
        rows = bags.rows_ND.clone().requires_grad_()
        torch.manual_seed(_SEED)
        output = head(Instances(rows, bags.offsets), truth)
        seen = 0 if output.attention_N is None else (output.attention_N**2).sum()
        (loss_of(output, truth) + seen).backward()
        return list(output), [rows.grad, *_taken_gradients(head)]

    for training in (False, True):
        head = built(kind, dropout=0.0).train(training)
        with streamed():
            _hold(bags.streamed, "the contract's bags are not streamed")
            chunked = run(head)
        for what, found, wanted in zip(("outputs", "gradients"), chunked, run(head), strict=True):
            for one, other in zip(found, wanted, strict=True):
                if other is not None:
                    _close(one, other, f"streamed, {what} differ")


def trains_every_parameter(kind: Kind) -> None:
    """Check that each parameter has a finite gradient."""
    head, truth = built(kind).train(), Labels.of(3)
    loss_of(head(bags_of([20, 30, 70]), truth), truth).backward()
    idle = [n for n, p in head.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    _hold(not idle, f"without a finite gradient: {', '.join(idle)}")


def pools_in_float32(kind: Kind) -> None:
    """Check that under bfloat16 autocast outputs are float32 and near the exact ones, streamed or not."""
    head, bags, truth = built(kind), bags_of([2000, 50]), Labels.of(2)
    for above in (100, 10_000):
        with streamed(above, 512):
            exact = head(bags, truth)
            with torch.autocast("cpu", torch.bfloat16):
                mixed = head(bags, truth)
            _hold_like(mixed.logits_BC, exact.logits_BC.shape, "logits_BC")
            _close(mixed.logits_BC, exact.logits_BC, "bfloat16 tells other logits", within=0.03)
            truth.loss(mixed.logits_BC).sum().backward()
        if mixed.attention_N is not None:
            _hold_like(mixed.attention_N, (2050,), "attention_N")
            sums = torch.stack([part.sum() for part in torch.split(mixed.attention_N, bags.sizes)])
            _close(sums, torch.ones(2), "under bfloat16 attention does not sum to 1")


def repeats_itself(kind: Kind) -> None:
    """Check that the same bags give the same bits: asked again, seeded alike, pickled, and as float16 features."""
    head, bags = built(kind), bags_of([30, 8])
    copy: Head = pickle.loads(pickle.dumps(head))
    for other, what in ((head, "asked again"), (copy, "its copy")):
        _hold(torch.equal(head(bags, None).logits_BC, other(bags, None).logits_BC), f"{what}, logits differ")
    half = Instances(bags.rows_ND.half(), bags.offsets)
    full = Instances(half.rows_ND.float(), bags.offsets)
    _hold(torch.equal(head(half, None).logits_BC, head(full, None).logits_BC), "float16 features tell something else")
    head.train()
    seeded = [(torch.manual_seed(_SEED), head(bags, None).logits_BC)[1] for _ in range(2)]
    _hold(torch.equal(*seeded), "seeded alike, training differs")


def explains_its_logits(kind: Kind) -> None:
    """Check that where it `Explains`, what instances say makes the logits: their sum, or the highest."""
    if not issubclass(kind, Explains):
        return
    for n_classes in (1, 2, CLASSES):
        bags = bags_of([40, 1, 17, 5])
        head: Any = built(kind, n_classes)
        for above in (5, 1000):
            with streamed(above), torch.no_grad():
                plain, told = head(bags, None), head.explain(bags)
            _hold(told is not None and told.tile_logits_NC is not None, "explain tells no tile_logits_NC")
            _close(told.logits_BC, plain.logits_BC, "explained, logits differ")
            _hold((told.attention_N is None) == (plain.attention_N is None), "explained, attention is told or not")
            if plain.attention_N is not None:
                _close(told.attention_N, plain.attention_N, "explained, attention differs")
            parts = torch.split(told.tile_logits_NC, bags.sizes)
            made = torch.stack([_made(kind, part) for part in parts])
            _close(made, plain.logits_BC, "what instances say does not make the logits")


def _made(kind: Any, says_NC: Tensor) -> Tensor:
    if kind.says == "sum":
        return says_NC.sum(0)
    if says_NC.shape[1] == 2:
        return says_NC[says_NC[:, 1].argmax()]  # one score, for the second class being there
    return says_NC.max(0).values


CHECKS: tuple[Callable[[Kind], None], ...] = (
    tells_what_it_is,
    gives_logits_and_what_it_promises,
    tells_each_bag_by_itself,
    keeps_to_its_word_on_order,
    has_right_gradients,
    streams_as_it_packs,
    trains_every_parameter,
    pools_in_float32,
    repeats_itself,
    explains_its_logits,
)


def check_head(kind: Kind) -> None:
    """Hold a head to all of them: ``check_head(Ours)``."""
    for check in CHECKS:
        check(kind)


def _each(bags: Instances) -> list[Instances]:
    return [Instances(bags.rows_ND[start:stop], (0, stop - start)) for start, stop in pairwise(bags.offsets)]


def _taken_gradients(head: Head) -> list[Tensor | None]:
    """Return the parameters' gradients, and take them off."""
    found = [None if p.grad is None else p.grad.clone() for p in head.parameters()]
    head.zero_grad()
    return found


def _close(found: Any, wanted: Any, broken: str, within: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, atol=within, rtol=within, msg=lambda how: f"{broken}: {how}")


def _hold_like(found: Tensor, shape: Sequence[int], what: str) -> None:
    told = f"{tuple(found.shape)} {found.dtype}"
    right = tuple(found.shape) == tuple(shape) and found.dtype == torch.float32
    _hold(right, f"{what}: expected {tuple(shape)} float32, found {told}")


def _hold(condition: bool, broken: str) -> None:
    if not condition:
        raise AssertionError(broken)
