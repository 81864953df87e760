"""A linear classifier of tiles on their features: a logistic regression, kept as plain JSON and applied in NumPy."""

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.bags.bag import BagHeader
from mil.data.cohort import Making
from wsi.arrays import Features, Floats, Ints
from wsi.errors import RequestError, one_line
from wsi.files.documents import parse_json, read_document
from wsi.recipe import Json

FORMAT = "gigamil-tile-classifier-1"
_AT_ONCE = 4096
"""Tiles that are scored at once."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One model: features are standardised, weighed and put through a softmax."""

    mean_D: Floats
    scale_D: Floats
    weights_CD: Floats
    shift_C: Floats

    def probabilities(self, rows_ND: Features) -> Floats:
        """Return (N, C); each row sums to 1."""
        parts = [self._of(rows_ND[start : start + _AT_ONCE]) for start in range(0, len(rows_ND), _AT_ONCE)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.shift_C)))

    def _of(self, rows_ND: Features) -> Floats:
        logits_NC = (rows_ND - self.mean_D) / self.scale_D @ self.weights_CD.T + self.shift_C
        powers_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        return np.asarray(powers_NC / powers_NC.sum(axis=1, keepdims=True))

    def as_json(self) -> Json:
        """Return the numbers as lists."""
        return {"mean": self.mean_D.tolist(), "scale": self.scale_D.tolist(), "weights": self.weights_CD.tolist(),
                "shift": self.shift_C.tolist()}  # fmt: skip


def fit(rows_ND: Features, labels_N: Ints, c: float, seed: int) -> tuple[Linear, bool]:
    """Fit a model to labels 0, 1, ...; every class counts alike. Return it, and whether the fit came to its end."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean_D, scale_D = rows_ND.mean(axis=0, dtype=np.float64), rows_ND.std(axis=0, dtype=np.float64)
    scale_D[scale_D == 0] = 1
    model = LogisticRegression(C=c, class_weight="balanced", max_iter=2000, random_state=seed)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(((rows_ND - mean_D.astype(np.float32)) / scale_D.astype(np.float32)), labels_N)
    weights, shift = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(weights) == 1:  # of two classes one row is told: the second's, counted from the first
        weights, shift = np.concatenate([np.zeros_like(weights), weights]), np.concatenate([[0.0], shift])
    return Linear(mean_D, scale_D, weights, shift), not told


@dataclass(frozen=True, slots=True, kw_only=True)
class TileClassifier:
    """What was learnt, and from whom."""

    classes: tuple[str, ...]
    making: Making
    """How the bags were made that it reads."""
    whole: Linear
    """Fitted on all patients: for new ones."""
    of_fold: tuple[Linear, ...]
    """Fitted without the patients of a fold: for them."""
    folds: dict[str, int]
    """By patient."""
    patients: dict[str, str]
    """By image id, of the slides that were learnt from."""

    def model_of(self, image_id: str, patient: str | None = None) -> Linear:
        """Return the model that has not seen a slide's patient."""
        fold = self.folds.get(self.patients.get(image_id, patient or image_id))
        return self.whole if fold is None else self.of_fold[fold]

    def check(self, header: BagHeader, source: str) -> None:
        """Raise `RequestError` where a bag was made otherwise than those that were learnt from."""
        self.making.check(header, source)

    def as_json(self) -> Json:
        """Return what `read_classifier` reads."""
        return {
            "format": FORMAT,
            "classes": list(self.classes),
            "bags": asdict(self.making),
            "folds": self.folds,
            "patients": self.patients,
            "model": self.whole.as_json(),
            "models_of_folds": [model.as_json() for model in self.of_fold],
        }


def read_classifier(path: Path) -> TileClassifier:
    """Read a classifier.json.

    Raises
    ------
    RequestError
        It is none: what was expected, in one line.
    """
    try:
        told = parse_json(read_document(path, RequestError), finite=True)
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise ValueError(f"expected the format {FORMAT}")
        classes, making = tuple(map(str, told["classes"])), Making(**told["bags"])
        models = [_linear(own, len(classes), making.dim) for own in (told["model"], *told["models_of_folds"])]
        folds = {str(patient): int(fold) for patient, fold in told["folds"].items()}
        if any(not 0 <= fold < len(models) - 1 for fold in folds.values()):
            raise ValueError("a fold without a model")
        patients = {str(image_id): str(patient) for image_id, patient in told["patients"].items()}
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise RequestError(f"{path}: cannot be read as a classifier of tiles ({one_line(error, 200)})") from None
    return TileClassifier(
        classes=classes, making=making, whole=models[0], of_fold=tuple(models[1:]), folds=folds, patients=patients
    )


def _linear(told: Any, n_classes: int, dim: int) -> Linear:
    shapes = {"mean": (dim,), "scale": (dim,), "weights": (n_classes, dim), "shift": (n_classes,)}
    parts = {name: np.asarray(told[name], np.float64) for name in shapes}
    for name, shape in shapes.items():
        if parts[name].shape != shape or not np.isfinite(parts[name]).all():
            raise ValueError(f"{name}: expected {shape} numbers, found {parts[name].shape}")
    if (parts["scale"] <= 0).any():
        raise ValueError("scale: expected numbers above 0")
    return Linear(*parts.values())


def classifier_text(classifier: TileClassifier) -> str:
    """Return classifier.json; numbers come back bit by bit."""
    return json.dumps(classifier.as_json(), allow_nan=False) + "\n"
