"""What a plan says of one stage, and of the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mil.accounting.ranges import NOTHING, Range, largest, total
from mil.planning.machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage, as far as it is still to be done."""

    stage: str
    """``tile``, ``extract``, ``train``."""
    name: str = ""
    """Which of several: the encoder, the experiment."""
    todo: int
    """Slides, bags or models."""
    done: int = 0
    """Those that are there already, and cost nothing more."""
    tiles: Range = NOTHING
    """That are stored, encoded, or trained on in one epoch."""
    seconds: Range
    """Wall time on the machine that the costs were measured on."""
    cpu_seconds: Range = NOTHING
    peak_bytes: Range
    """Resident memory of all processes together."""
    gpu_bytes: Range = NOTHING
    """Of one GPU; nothing where there is none."""
    disk_bytes: Range = NOTHING
    parts: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the expected time by what takes them."""
    bottleneck: str = ""
    """What to make faster first."""
    notes: Sequence[str] = ()
    """How it was found, and what is not certain."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        ranges = ("tiles", "seconds", "cpu_seconds", "peak_bytes", "gpu_bytes", "disk_bytes")
        told: dict[str, Any] = {"stage": self.stage, "name": self.name, "todo": self.todo, "done": self.done}
        told |= {name: getattr(self, name).as_dict() for name in ranges}
        parts = {name: round(value, 3) for name, value in self.parts.items()}
        return told | {"parts": parts, "bottleneck": self.bottleneck, "notes": list(self.notes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be expected of a cohort."""

    stages: tuple[StagePlan, ...]
    machine: Machine
    """That the costs were measured on."""
    memory_bytes: int
    """That may be taken."""
    free_bytes: int
    """Free on the disk that the folder is on."""
    slides: int
    slide_bytes: float
    """Of the slides' files."""
    headers: int
    """Slides whose header was read."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Image id -> why a slide is left out of every sum."""
    price: float = 0.0
    """For an hour of the machine."""
    advice: Sequence[str] = ()
    """What does not fit, and what to change."""
    notes: Sequence[str] = ()
    earlier: Sequence[str] = ()
    """How earlier estimates of this folder compared with the truth."""

    @property
    def seconds(self) -> Range:
        """Of all stages, one after the other."""
        return total(own.seconds for own in self.stages)

    @property
    def disk_bytes(self) -> Range:
        """Of all stages together."""
        return total(own.disk_bytes for own in self.stages)

    @property
    def peak_bytes(self) -> Range:
        """Of the stage that needs most memory."""
        return largest(own.peak_bytes for own in self.stages)

    @property
    def cost(self) -> Range:
        """In the currency of the price."""
        return self.seconds.times(self.price / 3600)

    @property
    def fits(self) -> bool:
        """Tell whether memory and disk are expected to suffice."""
        return self.peak_bytes.expected <= self.memory_bytes and self.disk_bytes.expected <= self.free_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        whole = {name: getattr(self, name).as_dict() for name in ("seconds", "disk_bytes", "peak_bytes")}
        whole |= {"cost": self.cost.as_dict()} if self.price else {}
        return {
            "machine": self.machine.as_dict(),
            "slides": self.slides,
            "headers": self.headers,
            "slide_bytes": self.slide_bytes,
            "stages": [own.as_dict() for own in self.stages],
            "whole": whole,
            "memory_bytes": self.memory_bytes,
            "free_bytes": self.free_bytes,
            "fits": self.fits,
            "failures": dict(self.failures),
            "advice": list(self.advice),
            "notes": list(self.notes),
            "earlier": list(self.earlier),
        }
