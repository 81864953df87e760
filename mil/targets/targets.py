"""What a model is asked for: one class of several, several labels at once, a value, or a survival time.

A target knows what is true of the slides it was made with, how many outputs a model needs, the loss of each bag, and
how a model's outputs become scores. Training, heads and evaluation ask it, and need no other word about the task.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mil.ragged.instances import wide
from mil.targets.metrics import Floats, Ints, softmax
from wsi.errors import ManifestError, RequestError

UNKNOWN = -1
"""Class number of a slide without a label."""
BETWEEN_LABELS = ";"
"""Between the labels of one slide in the manifest, where it may have several."""
NOT_KNOWN = "?"
"""Before a label of which it is not known whether it is there."""


class Truths(ABC):
    """What is true of the bags of one batch."""

    @property
    def classes_B(self) -> Tensor | None:
        """Return the class number of each bag, int64; None where the target is not one class of several."""
        return None

    @abstractmethod
    def loss(self, logits_BC: Tensor) -> Tensor:
        """Return the loss of each bag (B,), float32."""


class Target(ABC):
    """The task, with the truth about N slides."""

    kind: ClassVar[str]
    joint: ClassVar[bool] = False
    """A bag's loss depends on the outputs of the whole batch."""

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Return how many outputs a model needs."""

    @property
    @abstractmethod
    def known_N(self) -> NDArray[np.bool_]:
        """Return which slides can be trained on."""

    @abstractmethod
    def batch(self, slides: Ints, device: torch.device | str) -> Truths:
        """Return the truth about these slides (B,), on the device."""

    def fitted(self, slides: Ints) -> "Target":
        """Return the target as it is learnt from these slides: in other units where that helps."""
        return self

    def validation_loss(self, slides: Ints, outputs_PC: Floats) -> float:
        """Return the mean loss of outputs, in the target's own units, for these slides (P,)."""
        losses = self.batch(slides, "cpu").loss(torch.from_numpy(np.asarray(outputs_PC)))
        return float(losses.double().mean())

    @abstractmethod
    def scores(self, logits_NC: Floats) -> Floats:
        """Return what the user is told: probabilities, values in their own unit, or risks (higher is worse)."""


@dataclass(frozen=True, slots=True)
class _Classes(Truths):
    true_B: Tensor

    @property
    def classes_B(self) -> Tensor:
        return self.true_B

    def loss(self, logits_BC: Tensor) -> Tensor:
        return F.cross_entropy(wide(logits_BC), self.true_B, reduction="none")


@dataclass(frozen=True, slots=True)
class ClassTarget(Target):
    """One class of several; cross-entropy. Scores are probabilities (N, C)."""

    kind: ClassVar[str] = "classes"
    labels_N: Ints
    """Class numbers; -1 where unknown."""
    n_classes: int

    @property
    def n_outputs(self) -> int:
        return self.n_classes

    @property
    def known_N(self) -> NDArray[np.bool_]:
        return self.labels_N != UNKNOWN

    def batch(self, slides: Ints, device: torch.device | str) -> Truths:
        return _Classes(torch.from_numpy(self.labels_N[slides]).to(device))

    def scores(self, logits_NC: Floats) -> Floats:
        return softmax(logits_NC)


@dataclass(frozen=True, slots=True)
class _Labels(Truths):
    true_BC: Tensor

    def loss(self, logits_BC: Tensor) -> Tensor:
        known_BC = ~self.true_BC.isnan()
        losses_BC = F.binary_cross_entropy_with_logits(
            wide(logits_BC), self.true_BC.nan_to_num().to(wide(logits_BC).dtype), reduction="none"
        )
        return (losses_BC * known_BC).sum(1) / known_BC.sum(1).clamp(min=1)


@dataclass(frozen=True, slots=True)
class LabelsTarget(Target):
    """Any number of labels at once; the mean binary cross-entropy over a slide's known labels.

    Scores are probabilities (N, C), each on its own.
    """

    kind: ClassVar[str] = "labels"
    present_NC: Floats
    """1 present, 0 absent, NaN unknown."""

    @property
    def n_outputs(self) -> int:
        return self.present_NC.shape[1]

    @property
    def known_N(self) -> NDArray[np.bool_]:
        return np.asarray(~np.isnan(self.present_NC).all(axis=1))

    def batch(self, slides: Ints, device: torch.device | str) -> Truths:
        return _Labels(torch.from_numpy(self.present_NC[slides]).float().to(device))

    def scores(self, logits_NC: Floats) -> Floats:
        return told_by(self.kind, np.asarray(logits_NC, np.float64))


@dataclass(frozen=True, slots=True)
class _Values(Truths):
    true_B: Tensor

    def loss(self, logits_BC: Tensor) -> Tensor:
        return F.huber_loss(wide(logits_BC[:, 0]), self.true_B.to(wide(logits_BC).dtype), reduction="none")


@dataclass(frozen=True, slots=True)
class ValueTarget(Target):
    """A number; Huber loss (delta 1) on values standardised by ``center`` and ``spread``. Scores are values (N, 1)."""

    kind: ClassVar[str] = "value"
    values_N: Floats
    """In their own unit; NaN where unknown."""
    center: float
    """Mean of the training slides."""
    spread: float
    """Standard deviation of the training slides, above 0."""

    def __post_init__(self) -> None:
        if not self.spread > 0:
            raise RequestError("target value: all training slides have the same value; expected different ones")

    @property
    def n_outputs(self) -> int:
        return 1

    @property
    def known_N(self) -> NDArray[np.bool_]:
        return np.asarray(~np.isnan(self.values_N))

    def batch(self, slides: Ints, device: torch.device | str) -> Truths:
        standard_B = (self.values_N[slides] - self.center) / self.spread
        return _Values(torch.from_numpy(standard_B).float().to(device))

    def fitted(self, slides: Ints) -> "ValueTarget":
        values = self.values_N[slides]
        return ValueTarget(self.values_N, float(values.mean()), float(values.std()))

    def validation_loss(self, slides: Ints, outputs_PC: Floats) -> float:
        return Target.validation_loss(self, slides, (outputs_PC - self.center) / self.spread)

    def scores(self, logits_NC: Floats) -> Floats:
        return np.asarray(logits_NC, np.float64) * self.spread + self.center


@dataclass(frozen=True, slots=True)
class _Survivals(Truths):
    times_B: Tensor
    events_B: Tensor

    def loss(self, logits_BC: Tensor) -> Tensor:
        return cox_losses(wide(logits_BC[:, 0]), self.times_B, self.events_B)


@dataclass(frozen=True, slots=True)
class SurvivalTarget(Target):
    """Time to an event that not everybody has reached; Cox partial likelihood. Scores are log risks (N, 1).

    The patients at risk are those of the batch, however many steps and processes it is computed in: larger batches say
    more.
    """

    kind: ClassVar[str] = "survival"
    joint: ClassVar[bool] = True
    times_N: Floats
    """To the event, or to the last time seen without it; any unit; NaN where unknown."""
    events_N: NDArray[np.bool_]
    """Whether the event was seen."""

    @property
    def n_outputs(self) -> int:
        return 1

    @property
    def known_N(self) -> NDArray[np.bool_]:
        return np.asarray(~np.isnan(self.times_N))

    def batch(self, slides: Ints, device: torch.device | str) -> Truths:
        times_B = torch.from_numpy(self.times_N[slides]).to(device)
        return _Survivals(times_B, torch.from_numpy(self.events_N[slides]).to(device))

    def scores(self, logits_NC: Floats) -> Floats:
        return np.asarray(logits_NC, np.float64)


def told_by(kind: str, outputs_NC: Floats) -> Floats:
    """Return what a user is told of the outputs (N, C) of a run's models, for other targets than classes.

    Of labels probabilities, each on its own; values and risks as they are, for models give them in their own units.
    """
    return np.asarray(0.5 * (1 + np.tanh(0.5 * outputs_NC))) if kind == "labels" else outputs_NC


def cox_losses(risks_B: Tensor, times_B: Tensor, events_B: Tensor) -> Tensor:
    """Return each bag's part (B,) of the negative log partial likelihood, scaled so that the mean is per event.

    Source: Cox 1972; Faraggi and Simon 1995 for networks; ties after Efron 1977. Bags without an event have 0 and stand
    in the risk sets of the others. Without any event all are 0.
    """
    tied_BB = (times_B[None] == times_B[:, None]) & events_B[None] & events_B[:, None]
    earlier_B = tied_BB.tril(-1).sum(1).to(risks_B.dtype)
    share_B1 = (earlier_B / tied_BB.sum(1).clamp(min=1))[:, None]
    part_BB = (times_B[None] >= times_B[:, None]).to(risks_B.dtype) - share_B1 * tied_BB
    left_B = (risks_B[None] + part_BB.log()).logsumexp(1)
    losses_B = torch.where(events_B, left_B - risks_B, torch.zeros_like(risks_B))
    return losses_B * len(risks_B) / events_B.sum().clamp(min=1)


def labels_of(cell: str) -> frozenset[str]:
    """Return the parts of a cell such as ``a;?b``, in no order."""
    return frozenset(part.strip() for part in cell.split(BETWEEN_LABELS)) - {"", "none"}


def parse_labels(cells: Sequence[str | None], names: Sequence[str]) -> Floats:
    """Return (N, C) of 1 and 0 from cells such as ``a;b``; NaN for an empty cell, and for a label written ``?c``.

    A cell of ``none`` has no label. The order of a cell's labels says nothing.

    Raises
    ------
    ManifestError
        A label that is not among the names, or that a cell calls present and unknown.
    """
    present_NC = np.full((len(cells), len(names)), np.nan)
    for row, cell in zip(present_NC, cells, strict=True):
        if not cell:
            continue
        parts = labels_of(cell)
        open_ones = {part.removeprefix(NOT_KNOWN).strip() for part in parts if part.startswith(NOT_KNOWN)}
        found = {part for part in parts if not part.startswith(NOT_KNOWN)}
        unknown = sorted((found | open_ones) - set(names))
        if unknown:
            raise ManifestError(f"label {unknown[0]!r}: expected labels among {', '.join(names)}, joined by ';'")
        both = sorted(found & open_ones)
        if both:
            raise ManifestError(f"label cell {cell!r}: expected {both[0]} either as it is or with a '?', found both")
        row[:] = [np.nan if name in open_ones else float(name in found) for name in names]
    return present_NC


def parse_values(cells: Sequence[str | None], column: str) -> Floats:
    """Return (N,) float64 from cells; NaN for an empty one.

    Raises
    ------
    ManifestError
        A cell that is not a finite number.
    """
    values = []
    for cell in cells:
        try:
            values.append(float(cell) if cell else np.nan)
        except ValueError:
            raise ManifestError(f"{column} {cell!r}: expected a number") from None
        if cell and not np.isfinite(values[-1]):
            raise ManifestError(f"{column} {cell!r}: expected a finite number")
    return np.array(values, np.float64)


def parse_survival(times: Sequence[str | None], events: Sequence[str | None]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return times (N,), NaN where unknown, and events (N,) from cells of 1 (seen) and 0 (censored).

    Raises
    ------
    ManifestError
        A time of 0 or less, an event that is neither 0 nor 1, or one without the other.
    """
    times_N = parse_values(times, "time")
    for time, event in zip(times, events, strict=True):
        if bool(time) != bool(event):
            raise ManifestError(f"time {time!r} with event {event!r}: expected both, or neither")
        if event and event not in {"0", "1"}:
            raise ManifestError(f"event {event!r}: expected 1 (it happened) or 0 (not seen until then)")
    if (times_N <= 0).any():
        raise ManifestError(f"time {np.nanmin(times_N):g}: expected times above 0")
    return times_N, np.array([event == "1" for event in events], bool)
