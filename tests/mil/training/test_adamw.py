"""The optimizer against torch's own: the same bits, each other's checkpoints, and none of its start-up."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mil.training.adamw import AdamW

ROOT = Path(__file__).resolve().parents[3]


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (5,), (3, 3))]


def gradients(step: int) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(100 + step)
    shapes = ((7, 5), (5,), (3, 3))
    found: list[Tensor | None] = [torch.randn(shape, generator=generator) for shape in shapes]
    return [*found[:2], found[2] if step >= 4 else None]  # the last parameter joins later


def walk(optimizer: AdamW | torch.optim.AdamW, own: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for parameter, grad in zip(own, gradients(step), strict=True):
            parameter.grad = grad
        rate = 0.1 / (1 + step)
        if isinstance(optimizer, AdamW):
            optimizer.lr = rate
        else:
            optimizer.param_groups[0]["lr"] = rate
        optimizer.step()


def ours(own: list[nn.Parameter]) -> AdamW:
    return AdamW(own, 0.1, 0.03)


def torchs(own: list[nn.Parameter]) -> torch.optim.AdamW:
    return torch.optim.AdamW(own, lr=0.1, weight_decay=0.03, fused=True)


@pytest.mark.parametrize(("first", "second"), [(ours, ours), (torchs, ours), (ours, torchs)])
def test_steps_and_standings_are_those_of_torch(first: type, second: type) -> None:
    """Nine steps of torch's; and four of one, its standing taken up by the other, five of that."""
    wanted, found = parameters(), parameters()
    walk(torchs(wanted), wanted, range(9))
    begun = first(found)
    walk(begun, found, range(4))
    goes_on = second(found)
    goes_on.load_state_dict(begun.state_dict())
    walk(goes_on, found, range(4, 9))
    assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))
    assert not torch.equal(wanted[2], parameters()[2])


def test_another_models_standing_is_refused() -> None:
    own = parameters()
    with pytest.raises(ValueError, match="expected 2 parameters, found 3"):
        ours(own[:2]).load_state_dict(ours(own).state_dict())


def test_torchs_compiler_is_not_imported() -> None:
    program = (
        "import sys, torch; from mil.training.adamw import AdamW\n"
        "p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)\n"
        "AdamW([p], 0.1, 0.0).step()\n"
        "torch.nn.utils.clip_grad_norm_([p], 1.0)\n"
        "sys.exit('torch._dynamo' in sys.modules or float(p[0]) == 1.0)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
