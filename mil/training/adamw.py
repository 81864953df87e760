"""AdamW on torch's fused kernel, without `torch.optim.AdamW`, whose making alone imports torch's compiler: 2.4 CPU s.

Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv 1711.05101. The function that
`torch.optim.AdamW` calls does the work, so steps are the same to the bit, and checkpoints of either go on in the other.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Decays of the gradient's mean and of its square's, and what is added to the root: torch's."""


class AdamW:
    """One group of parameters; one without a gradient is left alone."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.lr, self.weight_decay = lr, weight_decay
        self.state: dict[int, dict[str, Tensor]] = {}
        """By the parameter's number: ``step`` (), ``exp_avg`` and ``exp_avg_sq`` like the parameter."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Return the parameters as `torch.amp.GradScaler` looks for them."""
        return [{"params": self.parameters}]

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step down the gradients that there are."""
        moved = [number for number, parameter in enumerate(self.parameters) if parameter.grad is not None]
        states = [self.state.setdefault(number, {}) or self._begun(number) for number in moved]
        adamw(
            [self.parameters[number] for number in moved],
            [grad for number in moved if (grad := self.parameters[number].grad) is not None],
            [own["exp_avg"] for own in states],
            [own["exp_avg_sq"] for own in states],
            max_exp_avg_sqs=[],
            state_steps=[own["step"] for own in states],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.lr,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def _begun(self, number: int) -> dict[str, Tensor]:
        parameter = self.parameters[number]
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        self.state[number] = {"step": torch.zeros((), device=parameter.device), **moments}
        return self.state[number]

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands, in the form of `torch.optim.AdamW`."""
        fixed = {"amsgrad": False, "maximize": False, "foreach": None, "capturable": False, "differentiable": False}
        group = {"lr": self.lr, "betas": BETAS, "eps": EPSILON, "weight_decay": self.weight_decay, **fixed}
        numbers = list(range(len(self.parameters)))
        return {
            "state": self.state,
            "param_groups": [{**group, "fused": True, "decoupled_weight_decay": True, "params": numbers}],
        }

    def load_state_dict(self, standing: dict[str, Any]) -> None:
        """Go on from there; a `ValueError` where it was another model's."""
        (group,) = standing["param_groups"]
        if list(group["params"]) != list(range(len(self.parameters))):
            raise ValueError(f"expected {len(self.parameters)} parameters, found {len(group['params'])}")
        self.lr = group["lr"]
        self.state = {
            number: {name: value.to(self.parameters[number].device).clone() for name, value in own.items()}
            for number, own in standing["state"].items()
        }
