"""What a finished run knows about itself, read back from its folder: all that the report and the model card need."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mil.run.checks import checked_table, damaged, run_json
from mil.run.confounding import told_by_center
from mil.run.folder import RunFolder
from mil.run.lone_values import DECIDED, about_lone
from mil.run.protocol import about_encoder, about_few, about_probe, of_unit
from mil.targets import Target
from mil.targets.calibration import LOCATED
from mil.targets.survival import SurvivalTarget
from wsi.arrays import Bools, Floats, Ints
from wsi.errors import RequestError
from wsi.recipe import Json

CHOSEN = "nested"
"""In place of a model: in each fold the head that inner folds chose."""
SPREAD = "spread.json"
"""Of a run folder: what its numbers would move with."""
ERROR = 0.025
"""How often noise may be told as better than chance: one side of a 95 % interval."""
TITLES = {
    CHOSEN: "Head chosen by inner folds",
    "gated_abmil": "Gated attention pooling (ABMIL)",
    "mean_pool": "Mean pooling of the tile features",
    "mean_colour": "Mean colour of the tissue",
    "center_only": "Center only",
    "class_prior": "Class prior",
}
EXPLAINED = {
    CHOSEN: "in each fold the head that was best on inner folds of its training patients: what choosing is worth",
    "mean_pool": "same features and splits, every tile counts alike",
    "center_only": "knows nothing but where the slide was made",
    "class_prior": "class frequencies of the training folds",
}


def title_of(model: str, nobody: str) -> str:
    """Return a model's or baseline's name for a reader; ``nobody``: what is told of who could not be judged."""
    return f"Constant, {nobody}" if model == "constant" else TITLES.get(model, model)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A finished run."""

    run: RunFolder
    config: Json
    metrics: Json
    calibration: Json
    slides: list[dict[str, str]]
    """Slide rows of oof.csv."""
    patients: list[dict[str, str]]
    """Patient rows of oof.csv."""
    truth: Target
    """What is true of the patients."""
    told: dict[str, Floats]
    """Model or baseline -> what it tells of them out of fold (P, C)."""
    histories: list[list[dict[str, float]]]
    history_folds: list[int]
    elsewhere: bool = False
    """Whether the patients are those of another cohort, judged by all models, and not the run's own, out of fold."""

    @property
    def head(self) -> str:
        """Return the run's own head."""
        return str(self.metrics["head"])

    @property
    def classes(self) -> list[str]:
        """Return the names of the outputs."""
        return list(self.metrics["classes"])

    @property
    def own(self) -> Json:
        """Return the metrics of the run's own head."""
        found: Json = self.metrics["models"][self.head]
        return found

    @property
    def encoders(self) -> list[Json]:
        """Return what the bags tell of their encoder, or of each; empty for bags of other tools."""
        found: Json | list[Json] = json.loads(self.config["about"]["encoder"])
        return found if isinstance(found, list) else [found]

    @property
    def groups(self) -> list[str]:
        """Return who hang together and are drawn together: the patients, of slides judged by themselves, too."""
        person = {row["image_id"]: row["patient_id"] for row in self.slides}
        by_slide = self.run.unit_column == "image_id"
        return [person[row["patient_id"]] if by_slide else row["patient_id"] for row in self.patients]

    @property
    def folds_P(self) -> Ints:
        """Return the fold of each patient."""
        return np.array([int(row["fold"]) for row in self.patients], np.int64)

    @property
    def usable_P(self) -> Bools:
        """Return which patients have tiles."""
        return np.array([int(row["n_tiles"]) > 0 for row in self.patients], bool)

    @property
    def scored_P(self) -> Bools:
        """Return which patients count in the metrics."""
        return self.usable_P | self.truth.counts_unjudged

    @property
    def scored(self) -> int:
        """Return how many patients count in the metrics."""
        return int(self.metrics["patients_scored" if "patients_scored" in self.metrics else "patients"])

    def carried(self) -> dict[str, int]:
        """Return by how many patients the result is carried."""
        return self.truth.carried(self.metrics, self.classes)

    def title(self, model: str) -> str:
        """Return a model's or baseline's name for a reader."""
        return title_of(model, self.truth.words.nobody)

    def explained(self, model: str) -> str:
        """Return what a baseline is, for a reader."""
        words = self.truth.words
        own = {"mean_colour": f"{words.colour} on three numbers per slide", "constant": words.constant}
        return own.get(model, EXPLAINED.get(model, ""))

    def first(self, model: str, part: str = "value") -> float | None:
        """Return the first metric of a model, or an end of its interval."""
        value: float | None = self.metrics["models"][model][self.truth.shown[0]][part]
        return value

    def above_chance(self, spread: Json) -> bool:
        """Tell whether the run's own head is shown to be better than chance, at 2.5 % of error.

        Its interval must lie above chance, and so must the p of ``spread`` (spread.json), where there is one, be small:
        the interval holds the models fixed, and is too narrow where those of two folds test each other's patients.
        """
        low, p = self.first(self.head, "low"), (spread.get("looks") or {}).get("p")
        return low is not None and low > self.truth.chance and (p is None or p < ERROR)

    def unused(self) -> list[str]:
        """Return which slides could not be used, and why, one line each."""
        return [f"slide {i} could not be used: {why}" for i, why in self.metrics["failures"].items()]

    def warnings(self) -> list[str]:
        """Return everything a reader must know before believing the numbers, one line each."""
        words = self.truth.words
        lines = [*self.unused(), *self.metrics["warnings"]]
        lines += [line for encoder in self.encoders for line in about_encoder(encoder)]
        lines += (of_unit(line, self.run.unit) for line in about_few(self.carried(), words.enough))
        if self.first(self.head) == 1:
            lines.append("no patient is misranked: an interval from resampling cannot show how far that may be luck")
        if not self.elsewhere:
            lines += about_probe(self.metrics["center_probe"], self.config["recipe"])
        lines += filter(None, [self.about_center()])
        lines = [*filter(None, [self.about_lone()]), *lines]
        return list(dict.fromkeys(lines))

    def verdict(self, spread: Json) -> str:
        """Return what is to be said before anything else: that it may be luck, or that it may be the center."""
        said = [] if self.above_chance(spread) else ["the model is not shown to be better than chance"]
        said += ["the center may be what is told"] if self.told_by_center(spread) else []
        said += [DECIDED] if self.about_lone() else []
        text = ", and ".join([*filter(None, [", ".join(said[:-1])]), *said[-1:]])
        return f"{text[:1].upper()}{text[1:]}." if text else ""

    def told_by_center(self, spread: Json) -> bool:
        """Tell whether the center may be what is told; ``spread``: spread.json."""
        center = self.first("center_only") if self.about_center() else None
        return told_by_center(self.first(self.head), center, self.truth.chance, spread)

    def about_center(self) -> str:
        """Return the warning that the center alone gives the answer away; empty where it does not beyond chance."""
        low = self.first("center_only", "low") if "center_only" in self.metrics["models"] else None
        if low is None or low <= self.truth.chance:
            return ""
        name = self.truth.metrics[self.truth.shown[0]][0]
        return (
            f"the center alone predicts {self.truth.words.asked} ({name} {self.first('center_only'):.2f}): "
            "part of the result may be the center"
        )

    def about_lone(self) -> str:
        """Return the warning that single values lie far from all others; empty where none does."""
        ids = [row["patient_id"] for row in self.patients]
        own, blind = self.told[self.head], self.told["constant"]
        return about_lone(self.truth, ids, own, blind, self.folds_P, self.scored_P)

    def best_simpler(self) -> tuple[str, float] | None:
        """Return the name and first metric of the best model or baseline beside the run's own."""
        found = {model: self.first(model) for model in self.metrics["models"] if model not in (self.head, CHOSEN)}
        others = {model: value for model, value in found.items() if value is not None}
        return max(others.items(), key=lambda item: item[1]) if others else None


def read_evidence(run: RunFolder) -> Evidence:
    """Read a finished run.

    Raises
    ------
    RequestError
        A file of the run is missing or damaged, or an earlier version wrote less of it.
    """
    config, metrics, calibration = run.config, run.read_json("metrics.json"), run.read_json("calibration.json")
    names = metrics["classes"]
    if "folds" not in metrics:
        raise RequestError(f"{run.path}: an earlier version evaluated it, and wrote less: train it again")
    outputs, truth = [f"p_{name}" for name in names], run.predicts.columns(names)
    table = checked_table(
        run.path / "oof.csv", ("level", "patient_id", "image_id", *truth), ("fold", "n_tiles", *outputs)
    )
    patients = [row for row in table if row["level"] == "patient"]
    told: dict[str, list[list[float]]] = {}
    for row in checked_table(run.path / "baselines" / "oof.csv", ("model", "patient_id"), outputs):
        told.setdefault(row["model"], []).append([float(row[name]) for name in outputs])
    _check_rows(run, table, {name: len(rows) for name, rows in told.items()}, metrics)
    recipe, truth_of = config["recipe"], run.predicts.of_cells(patients, names)
    if isinstance(truth_of, SurvivalTarget):
        truth_of = replace(truth_of, cut_before=calibration["method"] == LOCATED)
    models = [(fold, seed) for fold in range(recipe["folds"]) for seed in range(run.models_per_fold)]
    return Evidence(
        run=run,
        config=config,
        metrics=metrics,
        calibration=calibration,
        slides=[row for row in table if row["level"] == "slide"],
        patients=patients,
        truth=truth_of,
        told={name: np.array(rows) for name, rows in told.items()},
        histories=[read_history(run.model(run.head, *model) / "history.csv") for model in models],
        history_folds=[fold for fold, _ in models],
    )


def read_spread(run: RunFolder) -> Json:
    """Return what `SPREAD` of the run holds; nothing where no report was written yet."""
    return run_json(run.path / SPREAD) if (run.path / SPREAD).exists() else {}


def read_history(path: Path) -> list[dict[str, float]]:
    """Return the rows of a history.csv."""
    rows = checked_table(path, ("epoch", "train_loss"))
    try:
        return [{name: float(value) for name, value in row.items()} for row in rows]
    except ValueError as error:
        raise damaged(path, str(error)) from None


def _check_rows(run: RunFolder, table: list[dict[str, str]], told: dict[str, int], metrics: Json) -> None:
    """Raise `RequestError` unless the tables hold the run's patients, their truth, and each once for each model."""
    strange = next((row["level"] for row in table if row["level"] not in ("slide", "patient")), None)
    if strange is not None:
        raise damaged(run.path / "oof.csv", f"level {strange!r}")
    try:
        run.predicts.of_cells(table, metrics["classes"])
    except ValueError as error:
        raise damaged(run.path / "oof.csv", str(error)) from None
    patients = sum(row["level"] == "patient" for row in table)
    if patients != metrics["patients"]:
        raise damaged(run.path / "oof.csv", f"expected {metrics['patients']} patients, found {patients}")
    wrong = [name for name in metrics["models"] if told.get(name) != patients]
    if wrong:
        raise damaged(run.path / "baselines" / "oof.csv", f"expected {patients} rows of {wrong[0]}")
