"""What a model is asked for: one class of several, several labels at once, a value, or a survival time.

A target is the truth about N slides, or about N patients. It is read from the manifest, gives each bag's loss, and says
how a model's outputs become what a user is told, by which metrics that is measured, what is best said without looking,
and what figures show. Data, training, evaluation, report and inference ask it, and need no other word about the task.

A slide whose cells are empty is not trained on. The truth is the patient's: all slides of a patient have the same,
unless slides are judged by themselves (``--unit slide``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from mil.targets.calibration import Calibration
from mil.targets.judged import Breakdown, Judged
from mil.targets.plot import Plot
from mil.targets.questions import Question
from wsi.arrays import Bools, Floats, Ints
from wsi.cohort.manifest import ManifestRow
from wsi.recipe import Json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mil.targets.losses import Truths

Measure = Callable[[Floats], Floats]
"""A metric as a function of how often each patient counts in each draw, (B, N) to (B,)."""
SlideRow = Mapping[str, str]
"""A slide row of oof.csv."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How pages and messages speak of a target."""

    told: str
    """What a model tells; the name of the second output of an exported graph."""
    nobody: str
    """What is told of who could not be judged."""
    asked: str
    """What a center would give away."""
    enough: str
    """What there should be more of where few carry the result."""
    counted: str = "Patients"
    """Who carries the result, before their numbers."""
    joint: str = ", "
    """Between the outputs in a title."""
    row: str
    """What a row of predictions is."""
    caveat: str
    """What must not be made of it."""
    achieved: str
    """The first metric, with its article."""
    ranked: str
    """The metric that compares patients with each other."""
    second: str
    """The second metric."""
    score: str
    """Who scores the second metric when nothing is known, as the subject of a sentence, with its verb."""
    constant: str = "looks at nothing"
    """What that is."""
    colour: str
    """The model on colours."""
    loss: str
    """Of the training's history."""
    error: str
    """What counts as the error of one patient."""
    examples: str = "Those told the highest first, then the lowest, then the largest errors."
    """In what order slides are shown."""


class Target(ABC):
    """The task, with the truth about N slides or patients. Every array of a target has a row for each of them."""

    kind: ClassVar[str]
    column: ClassVar[str] = "label"
    """Of the manifest; slides without it are left out."""
    digested: ClassVar[tuple[str, ...]] = ("value", "time", "event")
    """Columns of the manifest that a run's recipe takes in beside the label."""
    joint: ClassVar[bool] = False
    """A bag's loss depends on the outputs of the whole batch."""
    needed: ClassVar[tuple[str, ...]] = ("default",)
    """Fields that metrics.json must have."""
    calibrated: ClassVar[bool] = False
    """Outputs are calibrated on the patients of the other folds."""
    located: ClassVar[bool] = False
    """Outputs have no zero of their own: it is the median of each model's inner validation patients."""
    counts_unjudged: ClassVar[bool] = False
    """Patients whom no model could judge count in the metrics, at what is told of them."""
    words: ClassVar[Words]
    metrics: ClassVar[Mapping[str, tuple[str, str]]]
    """Name and explanation of each metric."""
    shown: ClassVar[tuple[str, str]]
    """The first metric, of which higher is better, and the second: shown for every fold and center."""
    chance: ClassVar[float]
    """The first metric of a model that knows nothing."""
    names: tuple[str, ...]
    """Of the outputs that are told."""
    extra: int = 0
    """Outputs after those: classes that are learnt, so that the others are told from them, and never told."""
    center: float = 0.0
    spread: float = 1.0
    """A model learns what is true less the center, over the spread."""

    @classmethod
    @abstractmethod
    def read(
        cls, rows: Sequence[ManifestRow], names: Sequence[str], n_folds: int, others: Sequence[ManifestRow] = ()
    ) -> tuple[Self, list[str]]:
        """Return the truth about rows of the manifest, and of each row what folds hold alike shares of.

        ``names``: those that are wanted, none for those found. ``others``: rows that are trained on only, which stand
        last in what is returned.

        Raises
        ------
        ManifestError
            A cell cannot be read, or there is but one class, label or value.
        RequestError
            Fewer patients than folds.
        """

    @classmethod
    @abstractmethod
    def check_patients(cls, rows: Sequence[ManifestRow], source: str) -> None:
        """Raise `ManifestError` naming a patient of whose slides different things are true."""

    @classmethod
    @abstractmethod
    def columns(cls, names: Sequence[str]) -> list[str]:
        """Return the columns of oof.csv that hold the truth."""

    @classmethod
    @abstractmethod
    def of_cells(cls, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> Self:
        """Return the truth that `cells` told in these rows of oof.csv; rows without the columns: unknown.

        Raises
        ------
        ValueError
            A cell holds something else.
        """

    @abstractmethod
    def cells(self, slide: int) -> list[str]:
        """Return the truth about one slide, for oof.csv."""

    @property
    @abstractmethod
    def groups(self) -> tuple[str, ...]:
        """Return the names of the classes, which count equally in loss and metrics; none where there are no classes."""

    @property
    @abstractmethod
    def groups_N(self) -> Ints:
        """Return the class number of each slide, -1 where unknown; 0 for all where there are no classes."""

    @abstractmethod
    def carriers(self) -> dict[str, int]:
        """Return who carries the result, counted."""

    @abstractmethod
    def fitted(self, slides: Ints) -> Self:
        """Return the target as it is learnt from these slides: in other units where that helps."""

    @abstractmethod
    def learnt(self, slides: Ints) -> tuple[NDArray[Any], ...]:
        """Return the truth about these slides (B,), as the loss takes it."""

    @abstractmethod
    def validation(self, slides: Ints, outputs_PC: Floats) -> dict[str, float]:
        """Return ``loss``, and what else a history tells, of outputs in the target's own units for these slides."""

    @classmethod
    @abstractmethod
    def comparable(cls, logits_NC: Floats) -> Floats:
        """Return the outputs of one model so that those of several can be averaged."""

    @classmethod
    @abstractmethod
    def told(cls, outputs_NC: Floats, calibration: Calibration) -> Floats:
        """Return what the user is told: probabilities, values in their own unit, or log risks (higher is worse)."""

    @classmethod
    @abstractmethod
    def in_graph(cls, logits_MC: "Tensor", calibration: Calibration) -> "tuple[Tensor, Tensor]":
        """Return one bag's logits (C,) by several models together, and what is `told` of them, by torch alone."""

    @classmethod
    @abstractmethod
    def formula(cls, calibration: Calibration, n_outputs: int) -> str:
        """Return how what is told follows from the logits, with the run's numbers."""

    @classmethod
    @abstractmethod
    def mean(cls, tables: Sequence[Floats]) -> Floats:
        """Return what several runs tell together."""

    @abstractmethod
    def measures(
        self, told_PC: Floats, folds_P: Ints | None = None, blind_PC: Floats | None = None
    ) -> dict[str, Measure]:
        """Return the metrics: all patients compared; given folds those of one fold, and beside them all pooled.

        Patients of different folds are compared by different models, which need not have one scale. ``blind_PC``: what
        `blind` says, against which values are measured where folds are given.
        """

    @abstractmethod
    def prior(self) -> Floats:
        """Return what is best said (C,) of a patient like these without looking."""

    @abstractmethod
    def near(self, prior_C: Floats, own: Self) -> Floats:
        """Return what is best said (C,) of a patient of the center of ``own``, among these; one more of each added."""

    @abstractmethod
    def linear(self, seen_ND: Floats, asked_MD: Floats) -> Floats | None:
        """Return the outputs (M, C) of a linear model fitted on these slides' numbers; None where it cannot be."""

    @abstractmethod
    def plots(self, told: Mapping[str, Floats], own: str, area: str, draws_BP: Floats, folds_P: Ints) -> list[Plot]:
        """Return the report's figures: ``told`` by title, ``own`` the run's, ``area`` its first metric as text."""

    @classmethod
    @abstractmethod
    def said(cls, told_C: Floats, names: Sequence[str]) -> str:
        """Return what is told of one patient or slide, for a reader."""

    @abstractmethod
    def judged(self, told_PC: Floats, folds_P: Ints) -> list[Judged]:
        """Return how each patient was judged."""

    @abstractmethod
    def breakdown(self, told_PC: Floats, folds_P: Ints) -> Breakdown:
        """Return where the model is good and where it is not."""

    @abstractmethod
    def questions(self, told_PC: Floats, prevalence_PC: Floats) -> list[Question]:
        """Return the yes-or-no questions that the probabilities answer; none where none are told.

        ``prevalence_PC``: shares of the classes where the patients come from, as far as others than they tell them.
        """

    @classmethod
    @abstractmethod
    def claim(cls, names: Sequence[str]) -> str:
        """Return what the model did, as the predicate of a sentence."""

    @classmethod
    @abstractmethod
    def turns(cls, slides: Sequence[SlideRow], names: Sequence[str]) -> list[list[str]]:
        """Return lists of slides worth looking at, each from the most telling on; they are drawn in turns."""

    @classmethod
    @abstractmethod
    def telling(
        cls, slides: Sequence[SlideRow], names: Sequence[str], each: int, mistakes: int
    ) -> list[tuple[str, str]]:
        """Return (image id, caption) of ``each`` slides that speak for the model and ``mistakes`` that warn."""

    @property
    def n_outputs(self) -> int:
        """Return how many outputs a model needs."""
        return len(self.names) + self.extra

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is true of the slides, field by field."""
        own: Any = self  # each target is a dataclass
        values = {field.name: getattr(self, field.name) for field in fields(own)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    def counts(self) -> Json:
        """Return by how many patients the result is carried, for metrics.json."""
        carriers = self.carriers()
        return {"patients_per_class": list(carriers.values())} if self.groups else {"carried_by": carriers}

    @classmethod
    def carried(cls, counts: Json, names: Sequence[str]) -> dict[str, int]:
        """Return what `counts` told, each number with a name."""
        by_class = counts.get("patients_per_class")
        return dict(counts["carried_by"]) if by_class is None else dict(zip(names, by_class, strict=True))

    def of(self, chosen: Ints | Bools) -> Self:
        """Return the truth about some of the slides."""
        own: Any = self
        return cast("Self", replace(own, **{name: value[chosen] for name, value in self.arrays().items()}))

    def batch(self, slides: Ints, device: "torch.device | str", patients: Ints | None = None) -> "Truths":
        """Return the truth about these slides (B,), on the device.

        ``patients``: a number for whom each slide is of, where slides of one patient are not to count as several.
        """
        import torch

        from mil.targets.losses import LOSSES

        told = [*self.learnt(slides), *([patients] if self.joint and patients is not None else [])]
        return LOSSES[self.kind](*(torch.from_numpy(own).to(device, non_blocking=True) for own in told))

    def mean_loss(self, slides: Ints, outputs_PC: Floats) -> float:
        """Return the mean loss of outputs, in the target's own units, for these slides (P,)."""
        import torch

        standard_PC = np.asarray((outputs_PC - self.center) / self.spread)
        losses = self.batch(slides, "cpu").loss(torch.from_numpy(standard_PC))
        return float(losses.double().mean())

    def blind(self, folds_P: Ints) -> Floats:
        """Return what is best said (P, C) of each patient without looking, from the patients of the other folds."""
        prior_of = {fold: self.of(folds_P != fold).prior() for fold in np.unique(folds_P).tolist()}
        return np.stack([prior_of[fold] for fold in folds_P.tolist()])

    def constants(self, blind_PC: Floats) -> dict[str, Floats]:
        """Return the baselines that look at nothing, by name: of classes ``blind_PC`` and equal probabilities."""
        if not self.groups:
            return {"constant": blind_PC}
        return {"class_prior": blind_PC, "constant": np.full(blind_PC.shape, 1 / len(self.groups))}

    @classmethod
    def default(cls, read_metrics: Callable[[], Json], n_outputs: int) -> Floats:
        """Return what is told of who could not be judged (C,); ``read_metrics`` gives the run's metrics.json."""
        if cls.calibrated:
            return np.full(n_outputs, 1 / n_outputs)
        return np.array(read_metrics()["default"], np.float64)

    def by_center(self, centers: Sequence[str | None], folds_P: Ints) -> Floats | None:
        """Return what is best said (P, C) of each patient by the center alone, from the other folds.

        One patient like all of them is added to every center (Laplace), so that nothing is made of an unseen center.
        None without two centers.
        """
        if len({center for center in centers if center}) < 2:
            return None
        names = np.array([center or "" for center in centers], dtype=object)
        told = []
        for center, fold in zip(names, folds_P, strict=True):
            others = self.of(folds_P != fold)
            told.append(others.near(others.prior(), self.of((folds_P != fold) & (names == center))))
        return np.stack(told)
