"""The run folder: which file lies where, the recipe it was made by, and what may be deleted from it.

config.toml  splits.csv  oof.csv  metrics.json  calibration.json  report.html  model_card.md
fold<f>/seed<s>/                     weights.safetensors  model.json  scores.csv  history.csv
                                     events.out.tfevents.0.gigamil (for TensorBoard)
                                     (checkpoint.safetensors while it trains)
baselines/<head>/fold<f>/seed<s>/    the same for the heads trained for comparison
baselines/oof.csv                    out-of-fold predictions of every model and baseline
heatmaps/<image_id>.png, .csv        the examples in the report
record.json                          who took part, what was computed on, and for how long
known.safetensors                    what is kept of the slides trained on, to tell what is unlike them
decisions.json                       what can be decided by the answers: the report's numbers
nested.json                          the head of each fold, chosen on inner folds (--nested); nested/ while it is
spread.json                          what the numbers would move with: patients, folds, repeats, centers, other looks
by_target.json                       what survival, values and labels have beside: the report's numbers
others.csv                           slides that were trained on only, where there are such
"""

import json
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w

from features.learning.scalars import EVENTS
from features.slide_encoders.spec import KEY
from mil.run.checks import CONTENTS, FORMAT, checked_config, damaged, run_json
from mil.targets import ClassTarget, Target, target_of
from wsi.errors import RecipeMismatchError, RequestError
from wsi.files.atomic import write_bytes, write_text
from wsi.files.documents import read_document
from wsi.files.replace import remove
from wsi.pages import plural
from wsi.recipe import Recipe, recipe_hash, refuse_other_recipe

NESTED = "nested.json"
_TABLES = ("splits.csv", "others.csv", "oof.csv")
_TOP = (
    "config.toml",
    *_TABLES,
    "metrics.json",
    "calibration.json",
    "decisions.json",
    "spread.json",
    NESTED,
    "by_target.json",
    "known.safetensors",
    "record.json",
    "report.html",
    "report.pdf",
    "model_card.md",
    "checklists.html",
    "checklists.csv",
)
MEASURED = ("record.json", "model_card.md", "checklists.html", "checklists.csv")
"""Files that hold seconds, and so differ from run to run."""
_MODEL = ("weights.safetensors", "model.json", "scores.csv", "history.csv", "checkpoint.safetensors", EVENTS)
_PARTIAL = re.compile(r"\..+\.\d+\.partial")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder by its path."""

    path: Path

    def model(self, head: str, fold: int, seed: int) -> Path:
        """Return the folder of one model of the run."""
        root = self.path if head == self.head else self.path / "baselines" / head
        return root / f"fold{fold}" / f"seed{seed}"

    @property
    def unit(self) -> str:
        """Return what is judged by itself: a patient, or a slide."""
        return "slide" if self.unit_column == "image_id" else "patient"

    @property
    def unit_column(self) -> str:
        """Return whose row stands in tables of predictions: ``patient_id``, or ``image_id`` of a run by slide."""
        return "image_id" if self.recipe.get("unit") == "slide" else "patient_id"

    @property
    def config(self) -> dict[str, Any]:
        """Return config.toml.

        Raises
        ------
        RequestError
            The folder holds no run of ours.
        """
        path = self.path / "config.toml"
        if not path.exists():
            raise RequestError(f"{self.path}: expected a run folder with config.toml{_inside(self.path)}")
        try:
            text = read_document(path, RequestError).decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(path, str(error)) from None
        return checked_config(path, text)

    @property
    def recipe(self) -> Recipe:
        """Return the recipe the run was made by."""
        recipe: Recipe = self.config["recipe"]
        return recipe

    @property
    def head(self) -> str:
        """Return the name of the run's own head."""
        return str(self.recipe["head"])

    @property
    def models_per_fold(self) -> int:
        """Return how many models of a head are averaged in each fold."""
        recipe = self.recipe
        return int(recipe["models_per_fold"] if "models_per_fold" in recipe else recipe["seeds"])

    @property
    def fusion(self) -> str:
        """Return how bags of several encoders are fused; ``none`` for bags of one."""
        return str(self.recipe.get("fusion", "none"))

    @property
    def slide_encoder(self) -> str:
        """Return the name of what made one vector a slide of the tiles before training; empty where it saw tiles."""
        told = json.loads(self.config["about"]["bag_recipe"]).get(KEY, {})
        return str(told.get("name", "")) if isinstance(told, dict) else ""

    def check_tiles(self, what: str) -> None:
        """Raise `RequestError` unless the run has seen tiles, which ``what`` shows."""
        if self.slide_encoder:
            raise RequestError(
                f"{self.path} was trained on one vector a slide ({self.slide_encoder}), and has seen no tiles: "
                f"expected a run on bags of tiles for {what}"
            )

    @property
    def predicts(self) -> type[Target]:
        """Return what the run predicts: classes, labels, a value or survival."""
        return target_of(self.recipe)

    def check_classes(self, what: str) -> None:
        """Raise `RequestError` unless the run predicts classes, which ``what`` is for."""
        if self.predicts is not ClassTarget:
            kind = self.predicts.kind
            raise RequestError(f"{self.path}: {what} is for runs that predict classes, found --target {kind}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the outputs that are told: the classes in the order of the logits."""
        return tuple(self.recipe["classes"])

    def read_json(self, name: str) -> dict[str, Any]:
        """Return metrics.json or calibration.json, checked.

        Raises
        ------
        RequestError
            The run is not finished, or the file is damaged.
        """
        path = self.path / name
        if not path.exists():
            raise RequestError(f"{self.path}: the run is not finished (no {name}): train it to its end")
        content = run_json(path, finite=True)
        if problem := CONTENTS[name](content, self.recipe):
            raise damaged(path, problem)
        return content

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of the run."""
        write_text(self.path / name, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _inside(path: Path) -> str:
    """Return what to give in place of a folder that holds runs, or nothing."""
    runs = sorted(own.parent.name for own in path.glob("*/config.toml"))
    if not runs:
        return ""
    shown = f"{', '.join(runs[:3])}{', ...' if len(runs) > 3 else ''}"
    return f"; it holds {plural(len(runs), 'run')} ({shown}): give one of them"


def prepare_run(path: Path, recipe: Recipe, about: dict[str, Any], *, overwrite: bool) -> RunFolder:
    """Make the run folder or take up the one of the same recipe.

    Raises
    ------
    RequestError
        The folder holds something that is not a run.
    RecipeMismatchError
        It holds a run of another recipe that is begun, and ``overwrite`` is not given.
    """
    run = RunFolder(path)
    if path.exists() and not path.is_dir():
        raise RequestError(f"{path}: expected a folder for the run, found a file")
    if (path / "config.toml").exists():
        try:
            refuse_other_recipe(path, run.recipe, recipe)
            return run
        except RecipeMismatchError:
            if not overwrite and is_begun(path):
                raise
        delete_run_files(path)
    elif path.exists() and any(not _PARTIAL.fullmatch(entry.name) for entry in path.iterdir()):
        raise RequestError(f"{path}: the folder is not empty and holds no run: choose another --out")
    path.mkdir(parents=True, exist_ok=True)
    config = {"format": FORMAT, "recipe_hash": recipe_hash(recipe), "recipe": recipe, "about": about}
    write_bytes(path / "config.toml", tomli_w.dumps(config).encode())
    return run


def is_begun(path: Path) -> bool:
    """Tell whether a run folder holds more than what was asked: one that was refused for its patients does not."""
    return path.is_dir() and any(
        entry.name not in ("config.toml", "splits.csv", "others.csv") and not _PARTIAL.fullmatch(entry.name)
        for entry in path.iterdir()
    )


def delete_run_files(path: Path) -> None:
    """Delete the files that a run writes, and folders left empty; whatever else lies there stays."""
    models = [*path.glob("fold[0-9]*/seed[0-9]*/"), *path.glob("baselines/*/fold[0-9]*/seed[0-9]*/")]
    files = [path / name for name in _TOP] + [path / "baselines" / "oof.csv"]
    files += [folder / name for folder in models for name in _MODEL]
    files += [*path.glob("heatmaps/*.png"), *path.glob("heatmaps/*.csv")]
    for folder in (path, path / "baselines", path / "heatmaps", *models):
        files += [entry for entry in folder.glob(".*.partial") if _PARTIAL.fullmatch(entry.name)]
    for file in (*files, path / "nested"):
        remove(file)
    parents = {parent for model in models for parent in (model, model.parent, model.parent.parent)}
    parents |= {path / "baselines", path / "heatmaps"}
    for folder in sorted(parents - {path}, key=lambda folder: -len(folder.parts)):
        with suppress(OSError):
            folder.rmdir()


def versions() -> dict[str, str]:
    """Return the versions of what computed the run."""
    found = {"python": platform.python_version()}
    for name in ("gigamil", "torch", "numpy", "scikit-learn"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
