"""What a finished run knows about itself, read back from its folder: all that the report and the model card need."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mil.metrics import Floats, Ints
from mil.run import RunFolder
from mil.run_checks import damaged, run_records
from wsi.errors import RequestError

TITLES = {
    "gated_abmil": "Gated attention pooling (ABMIL)",
    "mean_pool": "Mean pooling of the tile features",
    "mean_colour": "Mean colour of the tissue",
    "center_only": "Center only",
    "class_prior": "Class prior",
    "constant": "Constant, equal probabilities",
}
FEW_PATIENTS = 10
"""Of a class, below which a reader is warned."""
EXPLAINED = {
    "mean_pool": "same features and splits, every tile counts alike",
    "mean_colour": "logistic regression on three numbers per slide",
    "center_only": "knows nothing but where the slide was made",
    "class_prior": "class frequencies of the training folds",
    "constant": "a coin toss",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """A finished run."""

    run: RunFolder
    config: dict[str, Any]
    metrics: dict[str, Any]
    calibration: dict[str, Any]
    slides: list[dict[str, str]]
    """Slide rows of oof.csv."""
    patients: list[dict[str, str]]
    """Patient rows of oof.csv."""
    labels_P: Ints
    probs: dict[str, Floats]
    """Model or baseline -> out-of-fold probabilities (P, C)."""
    histories: list[list[dict[str, float]]]
    history_folds: list[int]

    @property
    def head(self) -> str:
        """Return the run's own head."""
        return str(self.metrics["head"])

    @property
    def classes(self) -> list[str]:
        """Return the classes."""
        return list(self.metrics["classes"])

    @property
    def own(self) -> dict[str, Any]:
        """Return the metrics of the run's own head."""
        found: dict[str, Any] = self.metrics["models"][self.head]
        return found

    @property
    def encoder(self) -> dict[str, Any]:
        """Return what the bags tell of their encoder; empty for bags of other tools."""
        found: dict[str, Any] = json.loads(self.config["about"]["encoder"])
        return found

    def warnings(self) -> list[str]:
        """Return everything a reader must know before believing the numbers, one line each."""
        lines = [f"slide {i} could not be used: {why}" for i, why in self.metrics["failures"].items()]
        lines += self.metrics["warnings"]
        if self.encoder.get("caution"):
            lines.append(str(self.encoder["caution"]))
        elif self.encoder.get("trained") is False:
            lines.append(f"the encoder is not trained: {self.encoder.get('description', 'its weights are random')}")
        few = [
            f"{name} {count}"
            for name, count in zip(self.classes, self.metrics["patients_per_class"], strict=True)
            if count < FEW_PATIENTS
        ]
        if few:
            lines.append(
                f"so few patients ({', '.join(few)}) carry the result that intervals from resampling are too narrow: "
                f"expected {FEW_PATIENTS} or more of each class"
            )
        if self.own["auc"]["value"] == 1:
            lines.append("no patient is misranked: an interval from resampling cannot show how far that may be luck")
        probe = self.metrics["center_probe"]
        if (
            probe
            and probe["balanced_accuracy"]["low"] is not None
            and probe["balanced_accuracy"]["low"] > probe["chance"]
        ):
            lines.append(
                f"the features tell the center (balanced accuracy {probe['balanced_accuracy']['value']:.2f}, chance "
                f"{probe['chance']:.2f}): "
                + (
                    "whole centers were held out, so the result does not rest on those it was tested on"
                    if self.config["recipe"].get("split") == "centers"
                    else "hold out whole centers (--split centers) to see what remains"
                )
            )
        center = self.metrics["models"].get("center_only")
        if center and center["auc"]["low"] is not None and center["auc"]["low"] > 0.5:
            lines.append(
                f"the center alone predicts the class (AUC {center['auc']['value']:.2f}): "
                "part of the result may be the center"
            )
        return lines

    def best_simpler(self) -> tuple[str, float] | None:
        """Return the name and AUC of the best model or baseline beside the run's own."""
        others = {
            name: found["auc"]["value"]
            for name, found in self.metrics["models"].items()
            if name != self.head and found["auc"]["value"] is not None
        }
        return max(others.items(), key=lambda item: item[1]) if others else None


def read_evidence(run: RunFolder) -> Evidence:
    """Read a finished run.

    Raises
    ------
    RequestError
        A file of the run is missing or damaged.
    """
    run.check_classes("a report or comparison")
    config, metrics, calibration = run.config, run.read_json("metrics.json"), run.read_json("calibration.json")
    oof, all_models = run.path / "oof.csv", run.path / "baselines" / "oof.csv"
    table = _table(oof, ("level", "patient_id", "image_id", "center_id", "label"))
    number = {name: c for c, name in enumerate(metrics["classes"])}
    for row in table:
        _numbers(oof, row, ["n_tiles", "fold", *(f"p_{name}" for name in number)])
    patients = [row for row in table if row["level"] == "patient"]
    probs: dict[str, list[list[float]]] = {}
    for row in _table(all_models, ("model",)):
        probs.setdefault(row["model"], []).append(_numbers(all_models, row, [f"p_{name}" for name in number]))
    if probs.keys() != metrics["models"].keys() or any(len(own) != len(patients) for own in probs.values()):
        raise damaged(all_models, f"expected every patient of {oof.name} for each model of metrics.json")
    recipe = config["recipe"]
    models = [(fold, seed) for fold in range(recipe["folds"]) for seed in range(run.models_per_fold)]
    return Evidence(
        run=run,
        config=config,
        metrics=metrics,
        calibration=calibration,
        slides=[row for row in table if row["level"] == "slide"],
        patients=patients,
        labels_P=_labels(oof, patients, number),
        probs={name: np.array(rows) for name, rows in probs.items()},
        histories=[read_history(run.model(run.head, *model) / "history.csv") for model in models],
        history_folds=[fold for fold, _ in models],
    )


def read_history(path: Path) -> list[dict[str, float]]:
    """Return the rows of a history.csv."""
    records = _table(path, ("epoch", "train_loss", "val_loss"))
    return [dict(zip(row, _numbers(path, row, row, finite=False), strict=True)) for row in records]


def _labels(path: Path, patients: Sequence[Mapping[str, str]], number: Mapping[str, int]) -> Ints:
    other = next((row["label"] for row in patients if row["label"] not in number), None)
    if other is not None:
        raise damaged(path, f"label {other!r} is no class of the run")
    return np.array([number[row["label"]] for row in patients], np.int64)


def _numbers(path: Path, record: Mapping[str, str], names: Iterable[str], *, finite: bool = True) -> list[float]:
    """Return some cells of a run's table as numbers."""
    try:
        values = [float(record[name]) for name in names]
    except (KeyError, ValueError) as error:
        raise damaged(path, f"expected numbers, {error!r}") from None
    if finite and not np.isfinite(values).all():
        raise damaged(path, "a number is not finite")
    return values


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.exists():
        raise RequestError(f"{path.parent}: the run is not finished (no {path.name}): train it to its end")
    return run_records(path, columns)
