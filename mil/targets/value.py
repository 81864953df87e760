"""A number: column ``value`` of the manifest; told in its own unit; Huber loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from mil.targets.base import Measure, Words
from mil.targets.judged import Breakdown, Judged, judgements
from mil.targets.metrics import r2, r2_over, spearman
from mil.targets.plot import Line, Plot
from mil.targets.questions import Question
from mil.targets.unclassed import BINS, Unclassed, alike_strata, binned, parse_values
from wsi.arrays import Floats, Ints
from wsi.cohort.manifest import ManifestRow
from wsi.errors import ManifestError, RequestError


@dataclass(frozen=True, slots=True)
class ValueTarget(Unclassed):
    """A number; Huber loss (delta 1) on values standardised by ``center`` and ``spread``. Values (N, 1) are told."""

    kind: ClassVar[str] = "value"
    column: ClassVar[str] = "value"
    shown: ClassVar[tuple[str, str]] = ("r2", "mean_absolute_error")
    chance: ClassVar[float] = 0.0
    words: ClassVar[Words] = Words(
        told="values",
        nobody="the mean of the training",
        asked="the value",
        enough="in all",
        row="One value per patient, in the unit of the manifest.",
        caveat="Values far from those of the training are not to be believed.",
        achieved="an R\N{SUPERSCRIPT TWO}",
        ranked="rank correlation",
        second="mean absolute error",
        score="the mean of the training scores",
        colour="a linear model",
        loss="Huber loss",
        error="the distance from the true value",
    )
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {
        "r2": (
            "R\N{SUPERSCRIPT TWO} over the constant",
            "Share of the squared error of the training's mean that the model takes away. 0 is chance, 1 is perfect.",
        ),
        "r2_pooled": ("R\N{SUPERSCRIPT TWO}, folds pooled", "As that, against the mean of all these patients."),
        "spearman": ("Rank correlation", "Whether patients of one fold are put in the right order. 0 is chance."),
        "spearman_pooled": ("Rank correlation, folds pooled", "As that, over patients of different folds, too."),
        "mean_absolute_error": ("Mean absolute error", "In the value's unit. Lower is better."),
    }
    values_N: Floats
    """In their own unit; NaN where unknown."""
    center: float = 0.0
    """Mean of the training slides."""
    spread: float = 1.0
    """Standard deviation of the training slides, above 0."""
    names: tuple[str, ...] = ("value",)

    def __post_init__(self) -> None:
        if not self.spread > 0:
            raise RequestError("target value: all training slides have the same value; expected different ones")

    @classmethod
    def read(
        cls, rows: Sequence[ManifestRow], names: Sequence[str], n_folds: int, others: Sequence[ManifestRow] = ()
    ) -> tuple[Self, list[str]]:
        values_N = parse_values([row.value for row in rows], "value", [row.image_id for row in rows])
        if np.ptp(values_N) == 0:
            raise ManifestError(
                f"--target value: expected different values in the manifest, found {values_N[0]:g} only"
            )
        return cls(values_N), alike_strata(binned(values_N), rows, n_folds)

    @classmethod
    def cell(cls, row: ManifestRow) -> object:
        return parse_values([row.value], "value", [row.image_id])[0]

    @classmethod
    def columns(cls, names: Sequence[str]) -> list[str]:
        return ["true_value"]

    @classmethod
    def of_cells(cls, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> Self:
        return cls(parse_values([row.get("true_value") for row in rows], "true_value"))

    def cells(self, slide: int) -> list[str]:
        return [repr(float(self.values_N[slide]))]

    def carriers(self) -> dict[str, int]:
        return {"in all": len(self.values_N)}

    def fitted(self, slides: Ints) -> Self:
        values = self.values_N[slides]
        return replace(self, center=float(values.mean()), spread=float(values.std()))

    def learnt(self, slides: Ints) -> tuple[NDArray[Any], ...]:
        return (((self.values_N[slides] - self.center) / self.spread).astype(np.float32),)

    def measures(
        self, told_PC: Floats, folds_P: Ints | None = None, blind_PC: Floats | None = None
    ) -> dict[str, Measure]:
        true, told = self.values_N, told_PC[:, 0]
        off = np.abs(true - told)
        pooled: dict[str, Measure] = {"r2": partial(r2, true, told), "spearman": partial(spearman, true, told)}
        found = pooled
        if folds_P is not None and blind_PC is not None:
            found = {
                "r2": partial(r2_over, true, told, blind_PC[:, 0]),
                "r2_pooled": pooled["r2"],
                "spearman": partial(spearman, true, told, folds_N=folds_P),
                "spearman_pooled": pooled["spearman"],
            }
        return {**found, "mean_absolute_error": lambda weights: weights @ off / weights.sum(axis=1)}

    def prior(self) -> Floats:
        return np.array([self.values_N.mean()])

    def near(self, prior_C: Floats, own: Self) -> Floats:
        return np.asarray((own.values_N.sum() + prior_C) / (len(own.values_N) + 1))

    def plots(self, told: Mapping[str, Floats], own: str, area: str, draws_BP: Floats, folds_P: Ints) -> list[Plot]:
        return [
            Plot(
                lines=(Line("", self.values_N, told[own][:, 0], "dots"),),
                x_label="true value",
                y_label="predicted value",
                alt="Predicted against true value of each patient",
                caption="Each dot is a patient, by models that never saw them. On the dashed line the prediction is "
                "right.",
                diagonal=True,
            )
        ]

    @classmethod
    def said(cls, told_C: Floats, names: Sequence[str]) -> str:
        return f"{told_C[0]:.4g}"

    def judged(self, told_PC: Floats, folds_P: Ints) -> list[Judged]:
        return judgements(
            ["" if np.isnan(value) else f"{value:.4g}" for value in self.values_N],
            [self.said(own_C, self.names) for own_C in told_PC],
            np.abs(told_PC[:, 0] - self.values_N),
            [None] * len(told_PC),
            None,
        )

    def breakdown(self, told_PC: Floats, folds_P: Ints) -> Breakdown:
        told, rows = told_PC[:, 0], []
        for part in np.array_split(np.argsort(self.values_N, kind="stable"), BINS):
            true, off = self.values_N[part], told[part] - self.values_N[part]
            if len(part):
                means = (true.mean(), told[part].mean(), off.mean(), np.abs(off).mean())
                span = f"{true.min():.4g} to {true.max():.4g}"
                rows.append((span, str(len(part)), *(f"{own:.4g}" for own in means)))
        return Breakdown(
            title="From low to high values",
            caption="Patients by quarters of the true value. A model that knows little tells everybody the mean: low "
            "values come out too high, and high ones too low.",
            head=("true value", "patients", "mean true", "mean predicted", "mean error, signed", "mean absolute error"),
            rows=rows,
        )

    def questions(self, told_PC: Floats, prevalence_PC: Floats) -> list[Question]:
        return []

    @classmethod
    def claim(cls, names: Sequence[str]) -> str:
        return "predicted the value"
