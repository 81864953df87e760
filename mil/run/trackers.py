"""How training went, for those who watch: history.csv and a TensorBoard file always, W&B and MLflow where asked for.

The TensorBoard file grows by one record an epoch and is written anew from the history when a stopped run goes on; its
times are epochs, so that the same run gives the same bytes, and its name tells no host. W&B and MLflow get a model's
whole history when the model is finished, offline unless their own environment variables say otherwise: W&B under
``wandb/`` in the run folder, MLflow in ``mlflow.db`` there.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from wsi.errors import RequestError
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text

EVENTS = "events.out.tfevents.0.gigamil"
"""TensorBoard finds a file by ``tfevents`` in its name."""
Row = Mapping[str, float]


def write_history(path: Path, history: Sequence[Row]) -> None:
    """Write history.csv: one row per epoch."""
    names = list(history[0])
    write_text(path, csv_text([names, *([row[name] for name in names] for row in history)]))


class EventFile:
    """A TensorBoard file of scalars."""

    def __init__(self, file: IO[bytes]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        self._file, self._writer = file, RecordWriter(file)
        self._write(Event(wall_time=0.0, file_version="brain.Event:2"))

    def add(self, row: Row) -> None:
        """Add one epoch, and see that it can be read."""
        values = [self._summary.Value(tag=_tag(name), simple_value=value) for name, value in row.items()]
        epoch = int(row["epoch"])
        self._write(self._event(wall_time=float(epoch), step=epoch, summary=self._summary(value=values)))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._file.flush()


def _tag(name: str) -> str:
    """Return the name with its part of training as the group: val_loss is val/loss."""
    part, _, rest = name.partition("_")
    return f"{part}/{rest}" if part in {"train", "val"} else name


@contextmanager
def event_file(folder: Path, history: Sequence[Row]) -> Iterator[EventFile]:
    """Give the event file of a model, holding the history so far."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / EVENTS).open("wb") as file:
        events = EventFile(file)
        for row in history:
            events.add(row)
        yield events


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
        started.log({_tag(name): value for name, value in row.items()}, step=int(row["epoch"]))
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
            mlflow.log_metrics({_tag(name): value for name, value in row.items()}, step=int(row["epoch"]))
