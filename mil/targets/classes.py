"""One class of several: column ``label`` of the manifest; calibrated probabilities; cross-entropy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from mil.targets.base import Measure, SlideRow, Target, Words
from mil.targets.calibration import Calibration
from mil.targets.judged import Breakdown, Judged, entropy, judgements, percent
from mil.targets.metrics import METRICS, auc, centred, confusion, one_hot, ones, softmax, weighted_log_loss
from mil.targets.plot import Plot, balanced, calibration_plot, reliability, roc_plot
from mil.targets.questions import Question, at_prevalence
from mil.targets.stacking import mean_probs
from wsi.arrays import Floats, Ints
from wsi.cohort.manifest import ManifestRow, check_one_label_per_patient
from wsi.errors import ManifestError

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = -1
"""Class number of a slide without a label."""


@dataclass(frozen=True, slots=True)
class ClassTarget(Target):
    """One class of several; cross-entropy. Probabilities (N, C) are told."""

    kind: ClassVar[str] = "classes"
    digested: ClassVar[tuple[str, ...]] = ()
    needed: ClassVar[tuple[str, ...]] = (
        "patients_per_class", "confusion", "folds", "centers", "center_probe", "bootstrap",
    )  # fmt: skip
    calibrated: ClassVar[bool] = True
    counts_unjudged: ClassVar[bool] = True
    shown: ClassVar[tuple[str, str]] = ("auc", "weighted_log_loss")
    chance: ClassVar[float] = 0.5
    words: ClassVar[Words] = Words(
        told="probabilities",
        nobody="equal probabilities",
        asked="the class",
        enough="of each class",
        counted="Patients per class",
        joint=" vs ",
        row="One row of class probabilities per patient, for equal class priors.",
        caveat="Probabilities stand for equal class priors; correct them for the prior where it is known.",
        achieved="an AUC",
        ranked="AUC",
        second="weighted log loss",
        score="equal probabilities for everybody score",
        constant="a coin toss",
        colour="logistic regression",
        loss="weighted log loss",
        error="the probability that was not given to the true class",
        examples="The surest right answers first, then the surest wrong ones.",
    )
    metrics: ClassVar[Mapping[str, tuple[str, str]]] = {
        "auc": (
            "AUC",
            "Chance that a patient of a class is ranked above one of the others, mean over classes. 0.5 is chance.",
        ),
        "auc_pooled": (
            "AUC, folds pooled",
            "As the AUC, but patients of different folds are compared, too, though different models scored them.",
        ),
        "weighted_log_loss": ("Weighted log loss", "The competition's score, classes count equally. Lower is better."),
        "balanced_accuracy": ("Balanced accuracy", "Mean share of patients found in each class."),
        "average_precision": (
            "Average precision",
            "Area under precision and recall: of the rarer of two classes, of more than two the mean.",
        ),
        "brier": ("Brier score", "Squared error of the probabilities, classes count equally. Lower is better."),
        "ece": (
            "Calibration error",
            "How far stated confidence is from the truth, on average. Lower is better. Resampling raises small ones.",
        ),
    }
    labels_N: Ints
    """Class numbers; -1 where unknown."""
    names: tuple[str, ...]
    extra: int = 0

    @classmethod
    def read(
        cls, rows: Sequence[ManifestRow], names: Sequence[str], n_folds: int, others: Sequence[ManifestRow] = ()
    ) -> tuple[Self, list[str]]:
        names = choose_classes(rows, names)
        extra = sorted({row.label or "" for row in others} - set(names))
        labels = [row.label or "" for row in (*rows, *others)]
        number = {name: position for position, name in enumerate((*names, *extra))}
        return cls(np.array([number[label] for label in labels], np.int64), names, len(extra)), labels

    @classmethod
    def check_patients(cls, rows: Sequence[ManifestRow], source: str) -> None:
        check_one_label_per_patient(rows, source)

    @classmethod
    def columns(cls, names: Sequence[str]) -> list[str]:
        return ["label"]

    @classmethod
    def of_cells(cls, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> Self:
        found = [row.get("label") for row in rows]
        numbers = [UNKNOWN if label is None else tuple(names).index(label) for label in found]
        return cls(np.array(numbers, np.int64), tuple(names))

    def cells(self, slide: int) -> list[str]:
        return [self.names[self.labels_N[slide]]]

    @property
    def groups(self) -> tuple[str, ...]:
        return self.names

    @property
    def groups_N(self) -> Ints:
        return self.labels_N

    def fitted(self, slides: Ints) -> Self:
        return self

    def carriers(self) -> dict[str, int]:
        counts = np.bincount(self.labels_N, minlength=len(self.names)).tolist()
        return dict(zip(self.names, counts, strict=True))

    def learnt(self, slides: Ints) -> tuple[NDArray[Any], ...]:
        return (self.labels_N[slides],)

    def validation(self, slides: Ints, outputs_PC: Floats) -> dict[str, float]:
        labels, probs, weights = self.labels_N[slides], softmax(outputs_PC), ones(len(slides))
        measured = {"loss": weighted_log_loss, "auc": auc}
        return {name: float(metric(labels, probs, weights)[0]) for name, metric in measured.items()}

    @classmethod
    def comparable(cls, logits_NC: Floats) -> Floats:
        return centred(logits_NC)

    @classmethod
    def told(cls, outputs_NC: Floats, calibration: Calibration) -> Floats:
        return calibration.probabilities(outputs_NC)

    @classmethod
    def in_graph(cls, logits_MC: "Tensor", calibration: Calibration) -> "tuple[Tensor, Tensor]":
        import torch

        logits_C = (logits_MC - logits_MC.mean(dim=1, keepdim=True)).mean(dim=0)
        n_classes = len(logits_C)
        share, shift_C = calibration.floor * n_classes, torch.tensor(calibration.shift or (0.0,) * n_classes)
        scaled_C = logits_C / calibration.temperature + shift_C
        return logits_C, share / n_classes + (1 - share) * scaled_C.softmax(0)

    @classmethod
    def formula(cls, calibration: Calibration, n_outputs: int) -> str:
        shift = f" + {[float(f'{value:.9g}') for value in calibration.shift]}" if calibration.shift else ""
        scaled = f"softmax(logits / {calibration.temperature:.9g}{shift})"
        share = calibration.floor * n_outputs
        return f"{share:.9g} / {n_outputs} + (1 - {share:.9g}) * {scaled}" if share else scaled

    @classmethod
    def mean(cls, tables: Sequence[Floats]) -> Floats:
        return mean_probs(tables)

    def measures(
        self, told_PC: Floats, folds_P: Ints | None = None, blind_PC: Floats | None = None
    ) -> dict[str, Measure]:
        found: dict[str, Measure] = {name: partial(own, self.labels_N, told_PC) for name, own in METRICS.items()}
        if folds_P is None:
            return found
        return {**found, "auc": partial(auc, self.labels_N, told_PC, folds_N=folds_P), "auc_pooled": found["auc"]}

    def prior(self) -> Floats:
        return np.asarray(one_hot(self.labels_N, len(self.names)).mean(axis=0))

    def near(self, prior_C: Floats, own: Self) -> Floats:
        """Return the class shares of the center, at equal class priors."""
        prior_C = np.maximum(prior_C, 1e-9)
        share_C = (one_hot(own.labels_N, len(self.names)).sum(axis=0) + len(self.names) * prior_C) / prior_C
        return np.asarray(share_C / share_C.sum())

    def linear(self, seen_ND: Floats, asked_MD: Floats) -> Floats | None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if len(np.unique(self.labels_N)) < len(self.names):
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        return np.asarray(model.fit(seen_ND, self.labels_N).predict_log_proba(asked_MD))

    def plots(self, told: Mapping[str, Floats], own: str, area: str, draws_BP: Floats, folds_P: Ints) -> list[Plot]:
        """Return the ROC curve of each model, of more than two classes one a class; and the calibration."""
        first, n_classes = told[own], len(self.names)
        if n_classes == 2:
            curves = {name: (self.labels_N == 1, probs[:, 1]) for name, probs in told.items()}
        else:
            curves = {name: (self.labels_N == c, first[:, c]) for c, name in enumerate(self.names)}
        weights, asked = balanced(self.labels_N, n_classes), range(int(n_classes == 2), n_classes)
        lines = (reliability(self.names[c], self.labels_N == c, first[:, c], weights, draws_BP) for c in asked)
        return [roc_plot(curves, area, folds_P, n_classes == 2), calibration_plot(tuple(lines), weighted=True)]

    @classmethod
    def said(cls, told_C: Floats, names: Sequence[str]) -> str:
        best = int(told_C.argmax())
        return f"{names[best]} {percent(told_C[best])}"

    def judged(self, told_PC: Floats, folds_P: Ints) -> list[Judged]:
        known_P, guess_P = self.labels_N != UNKNOWN, told_PC.argmax(axis=1)
        return judgements(
            [self.names[label] if label != UNKNOWN else "" for label in self.labels_N],
            [self.said(own_C, self.names) for own_C in told_PC],
            np.where(known_P, 1 - told_PC[np.arange(len(told_PC)), self.labels_N], np.nan),
            [bool(own) if known else None for own, known in zip(guess_P == self.labels_N, known_P, strict=True)],
            entropy(told_PC),
        )

    def breakdown(self, told_PC: Floats, folds_P: Ints) -> Breakdown:
        counts_CC = confusion(self.labels_N, told_PC)
        every = {(row, column) for row in range(len(self.names)) for column in range(1, len(self.names) + 1)}
        hits = frozenset((c, c + 1) for c in range(len(self.names)))
        return Breakdown(
            title="Which class is taken for which",
            caption="Patients by true class (rows) and most probable class (columns), and their share of the row.",
            head=("true class", *(f"predicted {name}" for name in self.names)),
            rows=[
                (f"is {name}", *(f"{count} ({percent(count / max(row.sum(), 1))})" for count in row))
                for name, row in zip(self.names, counts_CC, strict=True)
            ],
            hits=hits,
            misses=frozenset(every) - hits,
        )

    def questions(self, told_PC: Floats, prevalence_PC: Floats) -> list[Question]:
        """Return whether it is the second class, or of more than two classes for each whether it is that one."""
        real_PC, n_classes = at_prevalence(told_PC, prevalence_PC), len(self.names)
        known_P = self.labels_N != UNKNOWN
        return [
            Question(self.names[c], known_P, self.labels_N == c, told_PC[:, c], real_PC[:, c])
            for c in range(int(n_classes == 2), n_classes)
        ]

    @classmethod
    def claim(cls, names: Sequence[str]) -> str:
        return f"told {names[0]} from {names[1]}" if len(names) == 2 else f"told {listed(names)} apart"

    @classmethod
    def turns(cls, slides: Sequence[SlideRow], names: Sequence[str]) -> list[list[str]]:
        """Return, for each class, its slides right, wrong and unsure, the most telling first."""
        turns: list[list[str]] = []
        for wanted in ("right", "wrong", "unsure"):
            for name in names:
                told = []
                for row in slides:
                    sure, guess = _guess(row, names)
                    if row["label"] == name and (wanted == "unsure" or (guess == name) == (wanted == "right")):
                        told.append((sure if wanted == "unsure" else -sure, row["image_id"]))
                turns.append([image_id for _, image_id in sorted(told)])
        return turns

    @classmethod
    def telling(
        cls, slides: Sequence[SlideRow], names: Sequence[str], each: int, mistakes: int
    ) -> list[tuple[str, str]]:
        """Return the surest right slides, where every class comes once before one comes twice, and the surest wrong."""
        told = [(*_guess(row, names), row["label"], row["image_id"]) for row in slides]
        told.sort(key=lambda own: (-own[0], own[3]))
        right, wrong = ([own for own in told if (own[1] == own[2]) == fine] for fine in (True, False))
        firsts = [own for name in names if (own := next((e for e in right if e[2] == name), None)) is not None]
        ordered = firsts + [own for own in right if own not in firsts]
        return [(i, f"Right: {is_}, predicted {guess} with {sure:.0%}") for sure, guess, is_, i in ordered[:each]] + [
            (i, f"Wrong: {is_}, but predicted {guess} with {sure:.0%}") for sure, guess, is_, i in wrong[:mistakes]
        ]


def _guess(row: SlideRow, names: Sequence[str]) -> tuple[float, str]:
    return max((float(row[f"p_{name}"]), name) for name in names)


def listed(names: Sequence[str]) -> str:
    """Return the names as a sentence lists them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def refuse_alike(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names; raise `ManifestError` where two of a table differ in capitals and spaces alone."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault("".join(name.casefold().split()), name)
        if other != name:
            raise ManifestError(
                f"labels {other} and {name} differ in capitals or spaces alone: write one of them throughout, or tell "
                "them apart with --classes"
            )
    return tuple(names)


def choose_classes(rows: Sequence[ManifestRow], classes: Sequence[str]) -> tuple[str, ...]:
    """Return the given classes, else the labels of the manifest, sorted.

    Raises
    ------
    ManifestError
        A label that is not among the given classes, or fewer than two classes.
    """
    found = sorted({row.label for row in rows if row.label is not None})
    unknown = [label for label in found if classes and label not in classes]
    if unknown:
        raise ManifestError(f"labels {', '.join(unknown)} are not among the classes {', '.join(classes)}")
    chosen = tuple(classes) or refuse_alike(found)
    if len(chosen) < 2:
        raise ManifestError(
            f"expected labels of two or more classes in the manifest, found {', '.join(chosen) or 'none'}"
        )
    return chosen
