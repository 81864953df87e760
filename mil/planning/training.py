"""Training: what bags and the costs of heads come to, for each experiment."""

from dataclasses import dataclass

import numpy as np

from mil.accounting.ranges import Range, total
from mil.planning.calibration import Calibration, HeadCost, head_key
from mil.planning.estimate import StagePlan
from mil.planning.request import Training
from mil.training.options import TrainOptions

USUAL = 2.2
"""Epochs that models train for, by the patience: the mean of runs of this house."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What is trained on."""

    sizes: tuple[int, ...]
    """Rows of each bag."""
    error: float
    """Relative error of their sum."""
    dim: int


def epochs_of(options: TrainOptions, earlier: float = 0.0) -> Range:
    """Return how many epochs a model trains for: the fewest that patience allows, the usual, all of them.

    ``earlier`` is the mean of models that were trained before in the same place; 0: there are none.
    """
    if options.inner_share == 0:
        return Range(options.epochs, options.epochs, options.epochs)
    least = min(options.epochs, options.patience + 2)
    usual = earlier or USUAL * options.patience
    return Range(least, float(np.clip(usual, least, options.epochs)), options.epochs)


def plan_training(
    training: Training, bags: Trained, calibration: Calibration, earlier: float = 0.0, begun: float = 0.0
) -> StagePlan:
    """Return what an experiment takes on the machine of the calibration.

    ``begun`` are seconds of its start that what came before it in the same process has taken already: imports.
    """
    options, fixed, machine = training.options, calibration.fixed, calibration.machine
    epochs, models = epochs_of(options, earlier), options.folds * options.models_per_fold * options.repeats
    costs = {head: calibration.heads.get(head_key(options, head, bags.dim)) for head in options.heads}
    known = {head: cost for head, cost in costs.items() if cost is not None}
    epoch = {
        head: _epoch(cost, options, bags) + Range.about(fixed.get("epoch_seconds", 0.01), 0.3)
        for head, cost in known.items()
    }
    at_once = min(options.workers, machine.cpus, models * len(options.heads))
    fits = total(Range.about(own.expected * models, own.error, bags.error) for own in epoch.values())
    fits = Range(fits.low * epochs.low, fits.expected * epochs.expected, fits.high * epochs.high).times(1 / at_once)
    start = max(0.0, fixed.get("start_seconds", 5.0) + fixed.get("first_seconds", 0.0) - begun)
    each = fixed.get("train_seconds", 5.0) + fixed.get("slide_seconds", 0.0) * len(bags.sizes)
    start += each * options.repeats
    unknown = [head for head in costs if head not in known]
    gpu = bool(machine.gpus) and options.device != "cpu"
    step = max((cost.row_bytes for cost in known.values()), default=0.0) * _rows_of_step(options, bags.sizes)
    mapped = 2.0 * bags.dim * sum(bags.sizes)
    memory = fixed.get("train_bytes", 9e8) + mapped + (0.0 if gpu else step)
    return StagePlan(
        stage="train",
        name=training.name,
        todo=models * len(options.heads) if training.models_count else 1,
        tiles=Range.about(float(sum(bags.sizes)), bags.error),
        seconds=Range.about(start, 0.3) + fits,
        cpu_seconds=Range.about(start, 0.3) + fits.times(at_once) if not gpu else Range.about(start, 0.3),
        peak_bytes=Range.about(memory * (1 + (at_once if at_once > 1 else 0)), 0.2),
        gpu_bytes=Range.about(step + mapped / max(1, len(bags.sizes)), 0.3) if gpu else Range(0, 0, 0),
        disk_bytes=Range.about(_disk(options, fixed, models), 0.3),
        parts={"start, evaluation, report": start}
        | {head: own.expected * models * epochs.expected / at_once for head, own in epoch.items()},
        bottleneck=_bottleneck(start, fits, options, at_once),
        notes=[
            f"{epochs.low:.0f} to {epochs.high:.0f} epochs a model, {epochs.expected:.0f} expected"
            + (": the mean of those trained here" if earlier else ""),
            *(f"{head}: not measured, not in the sum" for head in unknown),
        ],
    )


def _epoch(cost: HeadCost, options: TrainOptions, bags: Trained) -> Range:
    """Return what an epoch takes: training on its part of the bags, scoring those that validate."""
    if not bags.sizes:
        return Range(0, 0, 0)
    outside = len(bags.sizes) * (1 - 1 / options.folds)
    trained, scored = outside * (1 - options.inner_share), outside * options.inner_share
    rows = float(np.mean(bags.sizes))
    capped = float(np.mean(np.minimum(bags.sizes, options.max_tiles or max(bags.sizes))))
    passes = 2 if options.optimizer == "sam" and "sam" not in cost.key else 1
    bag = cost.bag_seconds + cost.row_seconds.times(capped)
    whole = cost.bag_seconds + cost.row_seconds.times(rows)
    return bag.times(trained * passes) + whole.times(scored * cost.scored_share)


def _rows_of_step(options: TrainOptions, sizes: tuple[int, ...]) -> int:
    """Return the most rows that are on the device at once: a batch, or what is accumulated of it, or one bag."""
    capped = sorted((min(size, options.max_tiles or size) for size in sizes), reverse=True)
    batch = sum(capped[: options.batch_bags])
    return max(min(batch, options.max_rows), capped[0] if capped else 0)


def _disk(options: TrainOptions, fixed: dict[str, float], models: int) -> float:
    """Return the bytes of a run, in whole blocks."""
    files = models * len(options.heads) * fixed.get("model_bytes", 60_000.0)
    return files + fixed.get("run_bytes", 1e6) * options.repeats


def _bottleneck(start: float, fits: Range, options: TrainOptions, at_once: int) -> str:
    if start > fits.expected:
        return "imports, evaluation and report: the models are quick"
    more = "" if at_once > 1 else ": --workers trains several side by side"
    return f"the epochs of {options.folds * options.models_per_fold * len(options.heads)} models{more}"
