"""One search: settings proposed, tried on a few folds, kept in a file; the same settings again after a stop.

Every proposal has a seed of its own, made of the search's seed and the number of finished trials, and a trial that was
under way when the process died leaves no trace. So the file alone decides how a search goes on.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from wsi.errors import DivergedError, RequestError, one_line
from wsi.files.atomic import write_text
from wsi.files.documents import parse_json, read_document
from wsi.recipe import Json

Loss = Callable[[Json, int], float]
"""From settings and the number of an inner fold to a loss."""
COMPLETE, PRUNED = "complete", "pruned"
FIRST_AT_RANDOM = 8
"""Trials before the estimator has enough to go by."""
DIVERGED = 1e3
"""The loss of settings under which training gives no number."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished trial."""

    params: Json
    """Fields of the training options."""
    losses: tuple[float, ...]
    """Of the inner folds that were tried."""
    state: str
    rungs: Json
    """What successive halving remembers of it."""

    @property
    def value(self) -> float:
        """Return the mean loss."""
        return float(np.mean(self.losses))


class Search:
    """Trials in a file."""

    def __init__(self, path: Path, heads: Sequence[str], seed: Sequence[int]) -> None:
        self._path, self._heads, self._seed = path, tuple(heads), list(seed)
        self.trials: list[Trial] = _read(path)

    def __len__(self) -> int:
        return len(self.trials)

    @property
    def best(self) -> Trial:
        """Return the trial of the lowest mean loss over all inner folds."""
        return min((trial for trial in self.trials if trial.state == COMPLETE), key=lambda trial: trial.value)

    def one_more(self, loss: Loss, folds: int) -> None:
        """Try one more setting, on the inner folds one after the other, and keep the result."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = _space(self._heads)
        study = optuna.create_study(sampler=self._sampler(), pruner=optuna.pruners.SuccessiveHalvingPruner())
        for known in self.trials:
            study.add_trial(_frozen(known, space))
        trial = study.ask(space)
        losses: list[float] = []
        state = COMPLETE
        for fold in range(folds):
            losses.append(_finite_loss(loss, dict(trial.params), fold))
            trial.report(float(np.mean(losses)), fold + 1)
            if fold + 1 < folds and trial.should_prune():
                state = PRUNED
                break
        rungs = dict(study.get_trials(deepcopy=False)[trial.number].system_attrs)
        self.trials.append(Trial(dict(trial.params), tuple(losses), state, rungs))
        write_text(self._path, json.dumps([asdict(own) for own in self.trials], indent=1) + "\n")

    def _sampler(self) -> Any:
        import optuna

        seed = int(np.random.SeedSequence([*self._seed, len(self.trials)]).generate_state(1)[0])
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST_AT_RANDOM)


def _finite_loss(loss: Loss, params: Json, fold: int) -> float:
    """Return the loss; `DIVERGED` where training gave no number."""
    try:
        value = loss(params, fold)
    except DivergedError:
        return DIVERGED
    return value if isfinite(value) else DIVERGED


def _space(heads: Sequence[str]) -> dict[str, Any]:
    """Return the range of each setting."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space = {
        "lr": FloatDistribution(1e-4, 1e-2, log=True),
        "weight_decay": FloatDistribution(1e-4, 1e-1, log=True),
        "dropout": FloatDistribution(0.0, 0.5, step=0.05),
        "hidden": CategoricalDistribution([64, 128, 256]),
        "attention": CategoricalDistribution([32, 64, 128]),
    }
    return space | ({"head": CategoricalDistribution(list(heads))} if len(heads) > 1 else {})


def _frozen(trial: Trial, space: dict[str, Any]) -> Any:
    """Return a kept trial as Optuna knows it."""
    from optuna.trial import TrialState, create_trial

    means = {step: float(np.mean(trial.losses[:step])) for step in range(1, len(trial.losses) + 1)}
    return create_trial(
        state=TrialState.COMPLETE if trial.state == COMPLETE else TrialState.PRUNED,
        value=trial.value,
        params=trial.params,
        distributions=space,
        intermediate_values=means,
        system_attrs=trial.rungs,
    )


def read_settings(path: Path) -> Json:
    """Return the settings of a tune.json: fields of the training options, each of the kind that is searched.

    Raises
    ------
    RequestError
        The file is not there, or is no finished search's.
    """
    try:
        told = json.loads(path.read_text("utf-8"))
        found, heads = dict(told["settings"]), list(told["recipe"]["tune"]["heads"])
        settings = {"head": heads[0], **found} if len(heads) == 1 else found
        wrong = [name for name, value in settings.items() if not _KINDS[name](value)]
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"--settings {path}: expected a tune.json of gigamil tune, found {error!r}") from None
    if wrong:
        raise RequestError(f"--settings {path}: {wrong[0]}: expected a setting, found {settings[wrong[0]]!r}")
    return settings


_KINDS: dict[str, Callable[[Any], bool]] = {
    "head": lambda value: isinstance(value, str),
    **dict.fromkeys(("lr", "weight_decay", "dropout"), lambda value: type(value) is float and isfinite(value)),
    **dict.fromkeys(("hidden", "attention"), lambda value: type(value) is int),
}
"""The settings that `_space` searches: whether a value is of the kind."""


def _read(path: Path) -> list[Trial]:
    if not path.exists():
        return []
    try:
        found = parse_json(read_document(path, RequestError))
        return [Trial(**{**own, "losses": tuple(own["losses"])}) for own in found]
    except RequestError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        told = one_line(repr(error), 200)
        raise RequestError(f"{path}: the search is damaged ({told}): delete it to search anew") from None
