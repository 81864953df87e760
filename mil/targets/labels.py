"""Several labels at once: column ``label``, ``a;b`` for several, ``none`` for none, ``?c`` for one not known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from mil.targets.base import Measure, Words
from mil.targets.classes import listed, refuse_alike
from mil.targets.judged import Breakdown, Judged, entropy, judgements, percent
from mil.targets.metrics import macro_auc, macro_brier
from mil.targets.plot import Plot, calibration_plot, reliability, roc_plot
from mil.targets.questions import Question
from mil.targets.unclassed import Unclassed, alike_strata
from wsi.arrays import Bools, Floats, Ints
from wsi.cohort.manifest import ManifestRow
from wsi.errors import ManifestError

BETWEEN = ";"
"""Between the labels of one slide in the manifest."""
HALF = 0.5
"""Probability from which on a label counts as told."""
NOT_KNOWN = "?"
"""Before a label of which it is not known whether it is there."""


@dataclass(frozen=True, slots=True)
class LabelsTarget(Unclassed):
    """Any number of labels at once; the mean binary cross-entropy over a slide's known labels.

    Probabilities (N, C), each on its own, are told.
    """

    kind: ClassVar[str] = "labels"
    shown: ClassVar[tuple[str, str]] = ("macro_auc", "macro_brier")
    chance: ClassVar[float] = 0.5
    logistic: ClassVar[bool] = True
    words: ClassVar[Words] = Words(
        told="probabilities",
        nobody="the labels' shares in the training",
        asked="the labels",
        enough="with and without each label",
        counted="Patients per label",
        row="One row of probabilities per patient, each label's on its own.",
        caveat="Probabilities are not calibrated.",
        achieved="a mean AUC",
        ranked="AUC",
        second="mean Brier score",
        score="the labels' shares in the training score",
        colour="a logistic regression of each label",
        loss="binary cross-entropy",
        error="the mean distance of the known labels' probabilities from what is true",
    )
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {
        "macro_auc": (
            "AUC, mean over labels",
            "Chance that a patient with a label is ranked above one without. 0.5 is chance, 1 is perfect.",
        ),
        "macro_auc_pooled": (
            "AUC, mean over labels, folds pooled",
            "As the AUC, but patients of different folds are compared, too, though different models scored them.",
        ),
        "macro_brier": ("Brier score, mean over labels", "Squared error of the probabilities. Lower is better."),
    }
    present_NC: Floats
    """1 present, 0 absent, NaN unknown."""
    names: tuple[str, ...]

    @classmethod
    def read(
        cls, rows: Sequence[ManifestRow], names: Sequence[str], n_folds: int, others: Sequence[ManifestRow] = ()
    ) -> tuple[Self, list[str]]:
        cells = [row.label for row in rows]
        parts = {part.removeprefix(NOT_KNOWN).strip() for cell in cells for part in labels_of(cell or "")}
        found = tuple(names) or refuse_alike(sorted(parts))
        if not found:
            raise ManifestError("--target labels: expected labels in the manifest, found none")
        present_NC = parse_labels(cells, found)
        rare = np.argsort(np.nansum(present_NC, axis=0), kind="stable")
        strata = [next((found[c] for c in rare if row[c] == 1), "none") for row in present_NC]
        return cls(present_NC, found), alike_strata(strata, rows, n_folds)

    @classmethod
    def cell(cls, row: ManifestRow) -> object:
        return labels_of(row.label or "")

    @classmethod
    def columns(cls, names: Sequence[str]) -> list[str]:
        return [f"true_{name}" for name in names]

    @classmethod
    def of_cells(cls, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> Self:
        found = [[float(row.get(f"true_{name}") or "nan") for name in names] for row in rows]
        return cls(np.array(found, np.float64).reshape(len(rows), len(names)), tuple(names))

    def cells(self, slide: int) -> list[str]:
        return ["" if np.isnan(own) else str(int(own)) for own in self.present_NC[slide]]

    def carriers(self) -> dict[str, int]:
        sides = {"with": (self.present_NC == 1).sum(0), "without": (self.present_NC == 0).sum(0)}
        return {
            f"{side} {name}": int(count)
            for side, counts in sides.items()
            for name, count in zip(self.names, counts, strict=True)
        }

    def fitted(self, slides: Ints) -> Self:
        return self

    def learnt(self, slides: Ints) -> tuple[NDArray[Any], ...]:
        return (self.present_NC[slides].astype(np.float32),)

    def measures(
        self, told_PC: Floats, folds_P: Ints | None = None, blind_PC: Floats | None = None
    ) -> dict[str, Measure]:
        found: dict[str, Measure] = {"macro_auc": partial(macro_auc, self.present_NC, told_PC, folds_N=folds_P)}
        if folds_P is not None:
            found["macro_auc_pooled"] = partial(macro_auc, self.present_NC, told_PC)
        return {**found, "macro_brier": partial(macro_brier, self.present_NC, told_PC)}

    def prior(self) -> Floats:
        return np.asarray(np.nanmean(self.present_NC, axis=0))

    def near(self, prior_C: Floats, own: Self) -> Floats:
        known_C = (~np.isnan(own.present_NC)).sum(axis=0)
        return np.asarray((np.nansum(own.present_NC, axis=0) + prior_C) / (known_C + 1))

    def plots(self, told: Mapping[str, Floats], own: str, area: str, draws_BP: Floats, folds_P: Ints) -> list[Plot]:
        """Return the ROC curve and the calibration of each label."""
        curves, lines = {}, []
        for c, name in enumerate(self.names):
            known_P = ~np.isnan(self.present_NC[:, c])
            true_P, told_P = self.present_NC[known_P, c] == 1, told[own][known_P, c]
            curves[name] = true_P, told_P
            lines.append(reliability(name, true_P, told_P, np.ones(len(true_P)), draws_BP[:, known_P]))
        return [roc_plot(curves, area, folds_P, False), calibration_plot(tuple(lines), weighted=False)]

    @classmethod
    def said(cls, told_C: Floats, names: Sequence[str]) -> str:
        return ", ".join(f"{name} {percent(share)}" for name, share in zip(names, told_C, strict=True))

    def judged(self, told_PC: Floats, folds_P: Ints) -> list[Judged]:
        known_PC = ~np.isnan(self.present_NC)
        off_PC = np.where(known_PC, np.abs(told_PC - self.present_NC), 0.0)
        counts_P = known_PC.sum(axis=1)
        fine_P: Bools = np.all((off_PC < HALF) | ~known_PC, axis=1)
        return judgements(
            [self._listed(own_C) for own_C in self.present_NC],
            [self.said(own_C, self.names) for own_C in told_PC],
            off_PC.sum(axis=1) / np.where(counts_P > 0, counts_P, np.nan),
            [bool(fine) if count else None for fine, count in zip(fine_P.tolist(), counts_P.tolist(), strict=True)],
            np.mean([entropy(np.stack([own_P, 1 - own_P], axis=1)) for own_P in told_PC.T], axis=0),
        )

    def _listed(self, present_C: Floats) -> str:
        """Return the labels that are there, and with a question mark those of which it is not known."""
        if np.isnan(present_C).all():
            return ""
        marks = zip(self.names, present_C, strict=True)
        return ", ".join(f"{name}{'?' * bool(np.isnan(own))}" for name, own in marks if own != 0) or "none"

    def breakdown(self, told_PC: Floats, folds_P: Ints) -> Breakdown:
        told = told_PC >= HALF
        cells = [
            ((self.present_NC == there) & (told == said)).sum(axis=0) for there in (1, 0) for said in (True, False)
        ]
        every = range(len(self.names))
        return Breakdown(
            title="Label by label",
            caption="Patients of whom it is known. A label counts as told from a probability of 50 % on.",
            head=("label", "has it, told", "has it, missed", "has it not, but told", "has it not, not told"),
            rows=[(name, *(str(own_C[c]) for own_C in cells)) for c, name in enumerate(self.names)],
            hits=frozenset((row, column) for row in every for column in (1, 4)),
            misses=frozenset((row, column) for row in every for column in (2, 3)),
        )

    def questions(self, told_PC: Floats, prevalence_PC: Floats) -> list[Question]:
        """Return for each label whether it is there; probabilities of labels stand for the cohort as it is."""
        truths = zip(self.names, self.present_NC.T, told_PC.T, strict=True)
        return [Question(name, ~np.isnan(own_P), own_P == 1, told_P, told_P) for name, own_P, told_P in truths]

    @classmethod
    def claim(cls, names: Sequence[str]) -> str:
        return f"told {listed(names)}"


def labels_of(cell: str) -> frozenset[str]:
    """Return the parts of a cell such as ``a;?b``, in no order."""
    return frozenset(part.strip() for part in cell.split(BETWEEN)) - {"", "none"}


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
