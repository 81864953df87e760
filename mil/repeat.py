"""Cross-validation repeated on other divisions of the patients: how much of a result is the luck of one division.

<out>/repeat0/ repeat1/ ...   whole runs, which differ in the seed of splits and models
<out>/repeats.csv, .json      each repeat's metrics, their mean and standard deviation
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mil.run.folder import RunFolder
from mil.training.options import TrainOptions
from wsi.errors import RequestError
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text
from wsi.progress.outcome import Outcome, Progress, Status, Summary


def train_repeatedly(
    options: TrainOptions, train: Callable[[TrainOptions, Progress], Summary], progress: Progress
) -> Summary:
    """Train ``repeats`` runs with seeds ``seed``, ``seed + 1``, ... and write what they have in common.

    A repeat that is finished is skipped, as is any finished run.

    Raises
    ------
    RequestError
        The folder holds a run or more repeats, or torchrun has started the processes.
    """
    if "RANK" in os.environ:
        raise RequestError("torchrun excludes --repeats: start each repeat by itself, with its --seed")
    start, repeats = time.monotonic(), options.repeats
    outcomes: list[Outcome] = []
    _check_folder(options.out, repeats)
    folders = [options.out / f"repeat{number}" for number in range(repeats)]
    for number, folder in enumerate(folders):
        progress.note(f"repeat {number + 1} of {repeats}")
        summary = train(replace(options, out=folder, seed=options.seed + number, repeats=1), progress)
        outcomes += [replace(own, item_id=f"repeat{number}/{own.item_id}") for own in summary.outcomes]
    found = [RunFolder(folder).read_json("metrics.json") for folder in folders]
    table = [found_metrics["models"][found_metrics["head"]] for found_metrics in found]
    facts = _spread(table)
    write_text(options.out / "repeats.json", json.dumps(facts, indent=1, allow_nan=False) + "\n")
    write_text(options.out / "repeats.csv", _csv(table, facts))
    outcomes.append(Outcome(str(options.out / "repeats.csv"), Status.DONE, facts=facts))
    return Summary("train", outcomes, time.monotonic() - start)


def _check_folder(out: Path, repeats: int) -> None:
    """Refuse a folder that would not hold these repeats alone."""
    if (out / "config.toml").exists():
        raise RequestError(f"--out {out}: expected a folder for repeats, found a run: choose another")
    more = sorted(
        path.parent.name
        for path in out.glob("repeat*/config.toml")
        if (number := path.parent.name.removeprefix("repeat")).isdigit() and int(number) >= repeats
    )
    if more:
        raise RequestError(
            f"--repeats {repeats}: {out} holds more, as {more[-1]}: give as many as are there, or choose another --out"
        )


def _spread(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean and standard deviation (n - 1) of each metric over the repeats."""
    facts = {}
    for name in table[0]:
        values = [row[name]["value"] for row in table]
        known = np.array([value for value in values if value is not None], np.float64)
        if len(known) > 1:
            facts[name] = {"mean": float(known.mean()), "sd": float(known.std(ddof=1)), "repeats": values}
    return facts


def _csv(table: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    repeats = [[number, *(row[name]["value"] for name in facts)] for number, row in enumerate(table)]
    means = [[part, *(facts[name][part] for name in facts)] for part in ("mean", "sd")]
    return csv_text([["repeat", *facts], *repeats, *means])
