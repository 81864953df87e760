"""How training went, for those who watch: history.csv always, W&B and MLflow where asked for.

The TensorBoard file beside is `features.learning.scalars`. W&B and MLflow get a model's whole history when it is done,
offline unless their own environment variables say otherwise: W&B under ``wandb/`` in the run folder, MLflow in
``mlflow.db`` there.
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.learning.scalars import Row, tag_of
from wsi.errors import RequestError
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text


def write_history(path: Path, history: Sequence[Row]) -> None:
    """Write history.csv: one row per epoch."""
    names = list(history[0])
    write_text(path, csv_text([names, *([row[name] for name in names] for row in history)]))


def check_trackers(names: Sequence[str]) -> None:
    """Raise `RequestError` naming a tracker that is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RequestError(f"--track {name}: the package {name} is not installed: install it, or leave this out")


def publish(names: Sequence[str], run: Path, model: str, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
    """Send the history of a finished model to the trackers asked for.

    ``facts`` are the settings, JSON values; ``model`` names the model within the run.
    """
    if "wandb" in names:
        _to_wandb(run, model, facts, history)
    if "mlflow" in names:
        _to_mlflow(run, model, facts, history)


def _to_wandb(run: Path, model: str, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
    import wandb

    mode = os.environ.get("WANDB_MODE", "offline")
    settings = wandb.Settings(console="off", silent=True)
    started = wandb.init(
        project="gigamil", group=run.name, name=model, dir=run, mode=mode, config=dict(facts), settings=settings
    )
    for row in history:
        started.log({tag_of(name): value for name, value in row.items()}, step=int(row["epoch"]))
    started.finish()


def _to_mlflow(run: Path, model: str, facts: Mapping[str, Any], history: Sequence[Row]) -> None:
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{run.resolve() / 'mlflow.db'}"))
    if mlflow.get_experiment_by_name(run.name) is None:
        mlflow.create_experiment(run.name, artifact_location=(run.resolve() / "mlruns").as_uri())
    mlflow.set_experiment(run.name)
    with mlflow.start_run(run_name=model):
        mlflow.log_params(dict(facts))
        for row in history:
            mlflow.log_metrics({tag_of(name): value for name, value in row.items()}, step=int(row["epoch"]))
