"""DINO: a student that sees parts of a tile says what its own moving average says of larger ones.

Source: Caron et al., Emerging properties in self-supervised vision transformers, ICCV 2021 (arXiv 2104.14294), with its
multi-crop, centering and sharpening. A class of a tile is one of K prototypes that nobody named; the center keeps one
prototype from taking all, the teacher's low temperature keeps all from being alike. Published pathology encoders (UNI,
Virchow, Hibou, Phikon's line) grew from it.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from features.encoders.device import autocast
from features.learning.average import move_average
from features.learning.checkpoint import Tensors
from features.learning.ranks import Setting
from features.learning.steps import over_ranks
from features.pretrain.objectives import Objective
from features.pretrain.student import Student

HIDDEN, BOTTLENECK = 2048, 256
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
CENTER_DECAY = 0.9
LARGE_VIEWS = 2
HELD_EPOCHS = 1
"""In which the prototypes stand still."""


class Prototypes(nn.Module):
    """Cosines to K learned directions: a linear layer whose weights have length 1."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, K) of features of length 1."""
        return linear(features, normalize(self.weight, dim=1))


class DinoHead(nn.Module):
    """Three layers, a bottleneck of length 1, prototypes."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, BOTTLENECK)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = Prototypes(BOTTLENECK, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return cosines (N, K)."""
        cosines: Tensor = self.prototypes(normalize(self.layers(features), dim=1))
        return cosines


class Dino(Objective):
    """Cross-entropy between the teacher's large views and every other view of the student."""

    def __init__(self, student: Student, ema: float, setting: Setting) -> None:
        super().__init__(student, ema)
        self._setting = setting
        weight = next(module.weight for module in student.modules() if isinstance(module, Prototypes))
        self._prototypes = weight
        self._center = torch.zeros(len(weight), device=weight.device)
        self._sum, self._count = self._center.double(), 0

    def loss_sum(self, outputs: Sequence[Tensor], views: Sequence[Tensor], targets: Tensor) -> Tensor:
        """See `Objective.loss_sum`."""
        taught = self._taught(views)
        told = [torch.log_softmax(output.float() / STUDENT_TEMPERATURE, 1) for output in outputs]
        losses = [
            -(teacher * student).sum()
            for large, teacher in enumerate(taught)
            for number, student in enumerate(told)
            if number != large
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _taught(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Return the teacher's probabilities (N, K) of the large views; its batch norm sees the part alone, too."""
        assert self.average is not None
        self.average.train()
        with autocast(self._setting.device, self._setting.precision):
            outputs = [own.float() for own in self.average(views[:LARGE_VIEWS])]
        self._sum += sum(own.sum(0) for own in outputs)
        self._count += sum(map(len, outputs))
        return [torch.softmax((own - self._center) / TEACHER_TEMPERATURE, 1) for own in outputs]

    @torch.no_grad()
    def settle(self, setting: Setting, step: int, n_steps: int) -> None:
        """Move the center by all ranks' outputs, and the teacher, whose decay rises to 1 by half a cosine."""
        total = over_ranks(np.append(self._sum.cpu().numpy(), self._count), setting)
        mean = torch.from_numpy(total[:-1] / total[-1]).to(self._center)
        self._center.lerp_(mean, 1 - CENTER_DECAY)
        self._sum.zero_()
        self._count = 0
        assert self.average is not None
        decay = 1 - (1 - self._ema) * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        move_average(self.average, self.student, decay, step)

    def hold_back(self, epoch: int) -> None:
        """Let prototypes stand still at first, as the source does."""
        if epoch < HELD_EPOCHS:
            self._prototypes.grad = None

    def state(self) -> Tensors:
        """Return the center."""
        return {"center": self._center}

    def go_on_from(self, state: Tensors) -> None:
        """Take it over."""
        self._center.copy_(state["center"])
