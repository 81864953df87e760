"""Train one model: one head on one fold with one seed, from features to its scores on the slides held out.

The loss weighs patients so that classes count equally and each patient counts once, as the metric does. Training stops
early on the inner validation patients' weighted log loss; where nobody validates, all epochs are trained. An epoch ends
in a checkpoint where the last one is seconds old; random numbers depend on (seed, fold, epoch) alone, so a killed run
goes on to the same bits.
"""

import math
import time
from contextlib import ExitStack

import numpy as np
import torch

from features.learning.scalars import event_file
from mil.data.cohort import Cohort
from mil.heads import HeadSpec
from mil.heads.parts.output import dynamic_margins
from mil.models.model import BagModel, save_model
from mil.ragged.randomness import set_seed
from mil.run.scores import Scores, write_scores
from mil.run.trackers import write_history
from mil.training.checkpoint import Progression, read_checkpoint, remove_checkpoint, write_checkpoint
from mil.training.jobs import FitJob, Parts, divide, seed_of
from mil.training.loop import Loop
from mil.training.methods.distil import teach
from mil.training.ranks import Ranks
from mil.training.together import Steps, to_the_end
from wsi.arrays import Bools, Ints
from wsi.machine.interrupt import Leaving, asked_to_leave
from wsi.progress.events import emit
from wsi.progress.outcome import Outcome, Status
from wsi.progress.stage_events import item_ended, item_started

FEATURE_LIMIT = 10.0
"""Standard deviations: a feature that hardly varies among the slides trained on would else outshout all others."""
SHOWN_SECONDS = 1.0
"""Between two epochs that are told while a model is trained."""
CHECKPOINT_SECONDS = 2.0
"""Between checkpoints: epochs of a small cohort take less time than a file takes to be on the disk."""
LEAST_GAIN = 1e-3
"""A validation loss counts as better when it is lower by more than this."""


def fit(job: FitJob, cohort: Cohort, folds: Ints, ranks: Ranks | None = None) -> dict[str, float]:
    """Train the model, or go on from its checkpoint, and write its folder; return its facts.

    Several ranks train it together; rank 0 writes.

    Raises
    ------
    BagError
        The loss of a bag is not finite; the message names it.
    """
    return to_the_end(fitting(job, cohort, folds, ranks))


def fitting(job: FitJob, cohort: Cohort, folds: Ints, ranks: Ranks | None = None) -> Steps[dict[str, float]]:
    """Do as `fit`; yield how many epochs are done between steps and after an epoch: others can have a turn."""
    ranks = ranks or Ranks()
    began = time.monotonic()
    if ranks.rank == 0:
        item_started(job.name, **_which(job))
    parts = divide(cohort, folds, job)
    model = new_model(job, cohort, parts, ranks)
    loop = Loop(job, cohort, parts, model, ranks, teach(job.options, job.fold, cohort, folds))
    state = yield from _train(loop)
    model.load_state_dict(state.best)
    facts: dict[str, float] = {"best_epoch": state.best_epoch, "epochs_run": len(state.history)}
    if len(parts.val):
        facts["best_val_loss"] = state.best_loss
    _finish(loop, state, facts)
    if ranks.rank == 0:
        item_ended(Outcome(job.name, Status.DONE, facts=dict(facts)), time.monotonic() - began, **_which(job))
    return facts


def _which(job: FitJob) -> dict[str, str | int]:
    return {"head": job.head, "fold": job.fold, "seed": job.seed}


def new_model(job: FitJob, cohort: Cohort, parts: Parts, ranks: Ranks) -> BagModel:
    """Return the untrained model of a job, on its device: the same weights on every rank."""
    options = job.options
    set_seed(seed_of(job, 0, "weights"), torch.device(options.device))
    fitted = cohort.target.fitted(parts.train)
    spec = HeadSpec(
        name=job.head,
        dim=cohort.bags[0].shape[1],
        n_classes=cohort.target.n_outputs,
        extra_classes=cohort.target.extra,
        hidden=options.hidden,
        attention=options.attention,
        dropout=options.dropout,
        output=options.output,
        target=options.target,
        scale=fitted.spread,
        shift=fitted.center,
        limit=FEATURE_LIMIT,
        margins=_margins(cohort, parts) if options.output == "arcface" else (),
    )
    model = BagModel(spec)
    if ranks.rank == 0:
        model.standardise([cohort.bags[i] for i in parts.train])
    model.load_state_dict(ranks.from_first(model.state_dict()))
    return model.to(torch.device(options.device))


def _margins(cohort: Cohort, parts: Parts) -> tuple[float, ...]:
    """Return ArcFace's margin of each class: wide for the rare ones among the slides trained on."""
    target = cohort.target
    return dynamic_margins(np.bincount(target.groups_N[parts.train], minlength=target.n_outputs).tolist())


def _train(loop: Loop) -> Steps[Progression]:
    options, folder, ranks = loop.options, loop.job.folder, loop.ranks
    writes = ranks.rank == 0
    found: Progression | None = ranks.from_first(read_checkpoint(folder, loop.job.recipe_hash) if writes else None)
    state = found or Progression()
    if state.history:
        _take_up(loop, state)
    shown, kept = time.monotonic(), float("-inf")
    with ExitStack() as files:
        events = files.enter_context(event_file(folder, state.history)) if writes else None
        for epoch in range(len(state.history), options.epochs):
            if epoch - state.best_epoch > options.patience and state.best_epoch >= 0:
                break
            yield from _one_epoch(loop, state, epoch)
            yield epoch + 1.0
            leaving = ranks.any(asked_to_leave())
            if events is not None:
                if leaving or time.monotonic() - kept > CHECKPOINT_SECONDS:
                    write_checkpoint(folder, state, loop.job.recipe_hash)
                    kept = time.monotonic()
                events.add(state.history[-1])
            if leaving:
                raise Leaving
            if events is not None and time.monotonic() - shown > SHOWN_SECONDS:
                write_history(folder / "history.csv", state.history)
                emit("epoch", id=loop.job.name, of=options.epochs, **_which(loop.job), **state.history[-1])
                shown = time.monotonic()
    return state


def _take_up(loop: Loop, state: Progression) -> None:
    """Put the loop where the checkpoint says."""
    loop.model.load_state_dict(state.model)
    loop.optimizer.load_state_dict(state.optimizer)
    loop.scaler.load_state_dict(state.scaler)
    loop.mean.restore(state.mean, state.mean_steps)


def _one_epoch(loop: Loop, state: Progression, epoch: int) -> Steps[None]:
    row = yield from loop.steps(epoch)
    with loop.mean.applied():
        if len(loop.parts.val):
            row |= loop.validate()
        if row.get("val_loss", -math.inf) < state.best_loss - LEAST_GAIN:  # of nobody who validates the last is best
            state.best_loss, state.best_epoch = row.get("val_loss", math.inf), epoch
            state.best = {name: value.detach().cpu().clone() for name, value in loop.model.state_dict().items()}
    state.history.append(row)
    state.model, state.optimizer = loop.model.state_dict(), loop.optimizer.state_dict()
    state.scaler, state.mean, state.mean_steps = loop.scaler.state_dict(), loop.mean.values, loop.mean.steps


def _finish(loop: Loop, state: Progression, facts: dict[str, float]) -> None:
    """Score validation and test slides with the best weights, and write the model's folder."""
    job, parts = loop.job, loop.parts
    held_out = np.concatenate([parts.val, parts.test])
    logits = loop.scores(held_out)
    if loop.ranks.rank > 0:
        return
    write_history(job.folder / "history.csv", state.history)
    is_test: Bools = np.arange(len(held_out)) >= len(parts.val)
    ids = tuple(loop.cohort.image_ids[i] for i in held_out)
    write_scores(job.folder / "scores.csv", Scores(ids, is_test, logits))
    save_model(job.folder, loop.model, {"recipe_hash": job.recipe_hash, "fold": job.fold, "seed": job.seed, **facts})
    remove_checkpoint(job.folder)
