"""Chance that is a function: numbers hashed from what they are for, the same wherever and in whichever batch.

No generator is asked and none moves on, so a picture depends on its own class and instance alone. Integers only until
the last step, which is exact: all devices give the same numbers. Mixing: SplitMix64 (Steele, Lea & Flood, Fast
splittable pseudorandom number generators, OOPSLA 2014), as a counter-based generator in the sense of Salmon et al.,
Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

import hashlib
import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_MANTISSA_BITS = 53


def name_key(text: str) -> int:
    """Return an int64 that stands for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def keys(parent: Tensor | int, children_n: Tensor) -> Tensor:
    """Return int64 keys (n,): one for each child of each parent, (n,) or one for all."""
    return _mixed(children_n * _GOLDEN + parent)


def stream(keys_n: Tensor, name: str) -> Tensor:
    """Return keys (n,) of an independent stream of numbers, by the name of its purpose."""
    return _mixed(keys_n ^ name_key(name))


def uniform(keys_n: Tensor, name: str, *shape: int) -> Tensor:
    """Return float64 in [0, 1), (n, *shape), for a purpose."""
    counters = torch.arange(1, 1 + math.prod(shape), device=keys_n.device) * _GOLDEN
    bits = _shifted(_mixed(stream(keys_n, name)[:, None] + counters), 64 - _MANTISSA_BITS)
    return bits.double().mul_(2.0**-_MANTISSA_BITS).view(len(keys_n), *shape)


def between(keys_n: Tensor, name: str, low: float, high: float, *shape: int) -> Tensor:
    """Return float64 in [low, high), (n, *shape)."""
    return uniform(keys_n, name, *shape).mul_(high - low).add_(low)


def whole(keys_n: Tensor, name: str, low: int, high: int, *shape: int) -> Tensor:
    """Return int64 from low to high, both included, (n, *shape)."""
    return between(keys_n, name, low, high + 1, *shape).floor_().long().clamp_(low, high)


def normal(keys_n: Tensor, name: str, *shape: int) -> Tensor:
    """Return float64 of the standard normal distribution (Box & Muller 1958), (n, *shape)."""
    first, second = uniform(keys_n, name, 2, *(shape or (1,))).unbind(1)
    return ((-2 * (1 - first).log()).sqrt() * (2 * math.pi * second).cos()).view(len(keys_n), *shape)


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Return the logical shift to the right: torch's copies the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
