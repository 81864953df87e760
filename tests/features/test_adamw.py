"""AdamW as torch computes it, without what torch.compile needs."""

import copy
import sys

import pytest
import torch
from torch import nn

from features.adamw import AdamW


def stepped(model: nn.Module, kind: type[torch.optim.AdamW], fused: bool) -> torch.optim.AdamW:
    optimizer = kind(model.parameters(), lr=1e-2, weight_decay=0.1, fused=fused)
    randomness = torch.Generator().manual_seed(1)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(7, 5, generator=randomness)).square().sum().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("fused", [True, False])
def test_the_steps_are_those_of_torch_to_the_last_bit(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = nn.Linear(5, 3)
    theirs = copy.deepcopy(ours)
    wanted = stepped(theirs, torch.optim.AdamW, fused).state_dict()
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # an import of it fails
    optimizer = stepped(ours, AdamW, fused)
    found = optimizer.state_dict()
    optimizer.load_state_dict(wanted)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    for number, own in wanted["state"].items():
        for name, value in own.items():
            assert torch.equal(found["state"][number][name], value)
