"""What a family of formulas promises, and how it is asked."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from features.formulas.chance import keys, name_key

SMALLEST_PX = 16
GREY_LEVELS = 255


class Formula(ABC):
    """Labelled pictures of one family: a class is its formula's parameters, an instance one way to draw them.

    A picture depends on family, number of classes, seed, class, instance, size and device, and on nothing else: neither
    on the batch nor on what was drawn before.
    """

    pixels_together = 1 << 19
    """Of pictures that are drawn together on a CPU: what lies between stays in the cache."""

    def __init__(self, name: str, classes: int, seed: int) -> None:
        self.name, self.classes, self.seed = name, classes, seed
        self._root = keys(name_key(f"{name}/{seed}"), torch.zeros(1, dtype=torch.int64)).item()

    def draw(self, class_ids: Tensor, instances: Tensor, size_px: int) -> Tensor:
        """Return float32 RGB in [0, 1], whole steps of 1/255, (n, 3, size_px, size_px), on the ids' device.

        ``class_ids`` (n,) int64 in [0, classes), ``instances`` (n,) int64: any.
        """
        if size_px < SMALLEST_PX:
            raise ValueError(f"size_px={size_px}: expected at least {SMALLEST_PX}")
        together = len(class_ids) if class_ids.is_cuda else max(1, self.pixels_together // size_px**2)
        drawn = torch.empty(len(class_ids), 3, size_px, size_px, device=class_ids.device)
        with torch.no_grad():
            for start in range(0, len(class_ids), max(1, together)):
                part = slice(start, start + together)
                ids = class_ids[part]
                pictures = self._pictures(ids, keys(self._class_keys(ids), instances[part]), size_px)
                drawn[part] = pictures.mul_(GREY_LEVELS).round_().div_(GREY_LEVELS)
        return drawn

    def _class_keys(self, class_ids: Tensor) -> Tensor:
        return keys(int(self._root), class_ids)

    @abstractmethod
    def _pictures(self, class_ids: Tensor, instance_keys: Tensor, size_px: int) -> Tensor:
        """Return a tensor of its own, float32 (n, 3 or for grey 1, size_px, size_px) in [0, 1]."""


@dataclass(frozen=True, slots=True)
class FormulaSpec:
    """A family: where it comes from and how it is made."""

    paper: str
    draws: str
    """What a picture shows, in a line."""
    parameters: Mapping[str, str]
    """What a class is, what an instance is, and constants: name to range and meaning."""
    build: Callable[[str, int, int], Formula]
    """(name, classes, seed)."""
    classes: int = 1000
    """By default, as the papers' smaller sets."""
