"""What a finished run knows about itself, read back from its folder: all that the report and the model card need."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mil.run.checks import checked_table, damaged
from mil.run.folder import RunFolder
from mil.run.protocol import about_encoder, about_few, about_probe
from wsi.arrays import Floats, Ints

TITLES = {
    "gated_abmil": "Gated attention pooling (ABMIL)",
    "mean_pool": "Mean pooling of the tile features",
    "mean_colour": "Mean colour of the tissue",
    "center_only": "Center only",
    "class_prior": "Class prior",
    "constant": "Constant, equal probabilities",
}
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
        lines += about_encoder(self.encoder)
        counts = dict(zip(self.classes, self.metrics["patients_per_class"], strict=True))
        lines += about_few(counts, "of each class")
        if self.own["auc"]["value"] == 1:
            lines.append("no patient is misranked: an interval from resampling cannot show how far that may be luck")
        lines += about_probe(self.metrics["center_probe"], self.config["recipe"])
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
    number = {name: c for c, name in enumerate(metrics["classes"])}
    probabilities = [f"p_{name}" for name in number]
    table = checked_table(
        run.path / "oof.csv", ("level", "patient_id", "image_id", "label"), ("fold", "n_tiles", *probabilities)
    )
    patients = [row for row in table if row["level"] == "patient"]
    probs: dict[str, list[list[float]]] = {}
    for row in checked_table(run.path / "baselines" / "oof.csv", ("model", "patient_id"), probabilities):
        probs.setdefault(row["model"], []).append([float(row[name]) for name in probabilities])
    _check_rows(run, table, probs, metrics)
    recipe = config["recipe"]
    models = [(fold, seed) for fold in range(recipe["folds"]) for seed in range(run.models_per_fold)]
    return Evidence(
        run=run,
        config=config,
        metrics=metrics,
        calibration=calibration,
        slides=[row for row in table if row["level"] == "slide"],
        patients=patients,
        labels_P=np.array([number[row["label"]] for row in patients], np.int64),
        probs={name: np.array(rows) for name, rows in probs.items()},
        histories=[read_history(run.model(run.head, *model) / "history.csv") for model in models],
        history_folds=[fold for fold, _ in models],
    )


def read_history(path: Path) -> list[dict[str, float]]:
    """Return the rows of a history.csv."""
    rows = checked_table(path, ("epoch", "train_loss", "val_loss"))
    try:
        return [{name: float(value) for name, value in row.items()} for row in rows]
    except ValueError as error:
        raise damaged(path, str(error)) from None


def _check_rows(
    run: RunFolder, table: list[dict[str, str]], probs: dict[str, list[list[float]]], metrics: dict[str, Any]
) -> None:
    """Raise `RequestError` unless the tables hold the run's patients, each of a known class, once for each model."""
    strange = [
        row for row in table if row["level"] not in ("slide", "patient") or row["label"] not in metrics["classes"]
    ]
    if strange:
        raise damaged(run.path / "oof.csv", f"level {strange[0]['level']!r} and label {strange[0]['label']!r}")
    patients = sum(row["level"] == "patient" for row in table)
    if patients != metrics["patients"]:
        raise damaged(run.path / "oof.csv", f"expected {metrics['patients']} patients, found {patients}")
    wrong = [name for name in metrics["models"] if len(probs.get(name, ())) != patients]
    if wrong:
        raise damaged(run.path / "baselines" / "oof.csv", f"expected {patients} rows of {wrong[0]}")
