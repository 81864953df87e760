"""Several runs as one: which folders are meant, how their answers are put together, and how good that is.

``mean``   the mean of the runs' calibrated log probabilities; of other targets the mean of what they tell
``stack``  a logistic regression on the runs' logits, fitted on their out-of-fold answers

The score is the one that `gigamil compare` shows of the same combination: on the patients that all runs share.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mil.evaluation.bootstrap import draw_patients, estimates
from mil.evaluation.compare import MEAN, STACK, Shared, ensembles, read_shared
from mil.run.checks import run_json
from mil.run.folder import RunFolder
from mil.targets import Target
from mil.targets.stacking import fit_stack, stack_inputs
from wsi.arrays import Bools, Floats
from wsi.errors import RequestError

COMBINATIONS = ("mean", "stack")
COMPARED = "compare.json"
"""In a folder of `gigamil compare`: names its runs."""


def is_run(path: Path) -> bool:
    """Tell whether a folder is a run, or a comparison of runs."""
    return (path / "config.toml").is_file() or (path / COMPARED).is_file()


def runs_of(paths: Sequence[Path]) -> tuple[RunFolder, ...]:
    """Return the runs that are meant: run folders, and those that a folder of `gigamil compare` names.

    Raises
    ------
    RequestError
        A folder is neither, a run was trained anew since it was compared, one is named twice, or they predict
        different things.
    """
    runs = tuple(run for path in paths for run in _named(path))
    places = [run.path.resolve() for run in runs]
    twice = next((run.path for run, place in zip(runs, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise RequestError(f"{twice} is named twice: expected different runs")
    first = runs[0]
    for run in runs[1:]:
        if (run.predicts, run.classes) != (first.predicts, first.classes):
            raise RequestError(
                f"{run.path} predicts {run.predicts.kind} {', '.join(run.classes)}: expected {first.predicts.kind} "
                f"{', '.join(first.classes)}, in that order, as {first.path} does"
            )
    return runs


def _named(path: Path) -> list[RunFolder]:
    table = path / COMPARED
    if (path / "config.toml").is_file() or not table.is_file():
        return [RunFolder(path)]
    try:
        told = [(path / str(own["folder"]), str(own["recipe_hash"])) for own in run_json(table)["folders"]]
    except (KeyError, TypeError):
        raise RequestError(f"{table}: it does not name its runs: compare them again, or give each by --run") from None
    runs = [RunFolder(Path(os.path.normpath(folder))) for folder, _ in told]
    for run, (_, known) in zip(runs, told, strict=True):
        if run.config["recipe_hash"] != known:
            raise RequestError(f"{run.path} was trained anew since {table} was written: compare the runs again")
    return runs


@dataclass(frozen=True, slots=True)
class Combiner:
    """How the answers of runs become one."""

    how: str
    target: type[Target]
    shared: Shared | None
    """What the runs said of the patients that they share; None of other targets than classes, and of one run."""
    stack: Any = None

    def __call__(self, tables: Sequence[Floats], known_RP: Bools) -> Floats:
        """Return one table (P, C) of several; who is known to some runs only is told by the mean of those."""
        result = np.array(tables[0])
        for p, known_R in enumerate(known_RP.T):
            own = [table[p : p + 1] for table, known in zip(tables, known_R, strict=True) if known]
            if self.stack is not None and known_R.all():
                result[p] = self.stack.predict_proba(stack_inputs(own))[0]
            elif len(own) > 1:
                result[p] = self.target.mean(own)[0]
            elif own:
                result[p] = own[0][0]
        return result

    def score(self) -> Mapping[str, Any] | None:
        """Return the metrics with intervals of this combination, as `gigamil compare` tells them."""
        if self.shared is None:
            return None
        told = ensembles(self.shared, 0)[MEAN if self.stack is None else STACK]
        return estimates(self.shared.truth.measures(told), draw_patients(len(self.shared.ids), 0))


def combiner(runs: Sequence[RunFolder], how: str) -> Combiner:
    """Return how the runs are combined, the stack fitted.

    Raises
    ------
    RequestError
        A stack of runs that do not predict classes, or runs that share no patients.
    """
    target = runs[0].predicts
    if len(runs) > 1 and how == "stack" and not target.calibrated:
        raise RequestError(f"--combine stack is for runs that predict classes, found {target.kind}: use mean")
    if len(runs) == 1 or not target.calibrated:
        return Combiner(how, target, None)
    shared = read_shared([run.path for run in runs])
    if how == "mean":
        return Combiner(how, target, shared)
    labels_P = shared.truth.groups_N
    if np.bincount(labels_P).min() < 2:
        raise RequestError("--combine stack: expected two or more shared patients of every class: use --combine mean")
    return Combiner(how, target, shared, fit_stack(stack_inputs(list(shared.told.values())), labels_P))
