"""Train one model: one head on one fold with one seed, from features to its scores on the slides held out.

The loss weighs patients so that classes count equally and each patient counts once, as the metric does. Training stops
early on the inner validation patients' weighted log loss. Every epoch ends in a checkpoint; random numbers depend on
(seed, fold, epoch) alone, so a killed run goes on to the same bits.
"""

import csv
import io
import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mil.checkpoint import Progression, read_checkpoint, remove_checkpoint, write_checkpoint
from mil.cohort import Cohort
from mil.heads import HeadSpec
from mil.metrics import METRICS, Floats, Ints, ones, softmax
from mil.model import BagModel, save_model
from mil.options import TrainOptions
from mil.packing import Rows, group_by_rows, pack
from mil.scores import Scores, centred, patient_logits, write_scores
from mil.splits import inner_split
from wsi.atomic import write_text
from wsi.errors import BagError

LEAST_GAIN = 1e-3
"""A validation loss counts as better when it is lower by more than this."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """One model to train."""

    head: str
    fold: int
    seed: int
    folder: Path
    options: TrainOptions
    """With device and precision resolved."""
    recipe_hash: str


@dataclass(frozen=True, slots=True)
class Parts:
    """Slide numbers of the three parts; ``train`` and ``val`` without slides that have no tiles."""

    train: Ints
    val: Ints
    test: Ints


def divide(cohort: Cohort, folds: Ints, job: FitJob) -> Parts:
    """Return the slides to train on, to validate on and to test."""
    rest = np.flatnonzero((folds != job.fold) & cohort.usable_N)
    labels = [cohort.classes[cohort.labels_N[i]] for i in rest]
    val = inner_split(labels, [cohort.patient_ids[i] for i in rest], job.options.inner_share, _seed(job, 0, "inner"))
    return Parts(rest[~val], rest[val], np.flatnonzero(folds == job.fold))


def slide_weights(labels: Ints, patients: Sequence[str], n_classes: int) -> Floats:
    """Return weights (n,) of mean 1: equal for classes, for the patients of a class, for the slides of a patient."""
    slides = Counter(patients)
    share = np.array([1 / slides[patient] for patient in patients])
    total = np.bincount(labels, weights=share, minlength=n_classes)
    weights = share / total[labels]
    return np.asarray(weights / weights.mean())


def fit(job: FitJob, cohort: Cohort, folds: Ints) -> dict[str, float]:
    """Train the model, or go on from its checkpoint, and write its folder; return its facts.

    Raises
    ------
    BagError
        The loss of a bag is not finite; the message names it.
    """
    options, parts = job.options, divide(cohort, folds, job)
    device = torch.device(options.device)
    torch.manual_seed(_seed(job, 0, "weights"))
    dim = cohort.bags[0].shape[1]
    spec = HeadSpec(
        name=job.head,
        dim=dim,
        n_classes=len(cohort.classes),
        hidden=options.hidden,
        attention=options.attention,
        dropout=options.dropout,
    )
    model = BagModel(spec)
    model.standardise([cohort.bags[i] for i in parts.train])
    model.to(device)
    state = _train(job, cohort, parts, model)
    model.load_state_dict(state.best)
    write_history(job.folder / "history.csv", state.history)
    facts = {"best_epoch": state.best_epoch, "epochs_run": len(state.history), "best_val_loss": state.best_loss}
    _finish(job, cohort, parts, model, facts)
    return facts


def _train(job: FitJob, cohort: Cohort, parts: Parts, model: BagModel) -> Progression:
    options, device = job.options, torch.device(job.options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
    state = read_checkpoint(job.folder, job.recipe_hash) or Progression()
    if state.history:
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
        scaler.load_state_dict(state.scaler)
    loop = _Loop(job, cohort, parts, model, optimizer, scaler)
    shown = time.monotonic()
    for epoch in range(len(state.history), options.epochs):
        if epoch - state.best_epoch > options.patience and state.best_epoch >= 0:
            break
        row = loop.epoch(epoch)
        if row["val_loss"] < state.best_loss - LEAST_GAIN:
            state.best_loss, state.best_epoch = row["val_loss"], epoch
            state.best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        state.history.append(row)
        state.model, state.optimizer, state.scaler = model.state_dict(), optimizer.state_dict(), scaler.state_dict()
        write_checkpoint(job.folder, state, job.recipe_hash)
        if time.monotonic() - shown > 1:
            write_history(job.folder / "history.csv", state.history)
            shown = time.monotonic()
    return state


class _Loop:
    """The epochs of one model."""

    def __init__(
        self,
        job: FitJob,
        cohort: Cohort,
        parts: Parts,
        model: BagModel,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self.job, self.options, self.cohort, self.parts = job, job.options, cohort, parts
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.device = torch.device(job.options.device)
        patients = [cohort.patient_ids[i] for i in parts.train]
        weights = slide_weights(cohort.labels_N[parts.train], patients, len(cohort.classes))
        self.weight_of = dict(zip(parts.train.tolist(), weights.tolist(), strict=True))
        self.batches = math.ceil(len(parts.train) / job.options.batch_bags)

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch, validate, and return the row of the history."""
        seed = _seed(self.job, epoch, "epoch")
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        self.model.train()
        total = 0.0
        norms = []
        for step, batch in enumerate(np.array_split(rng.permutation(self.parts.train), self.batches)):
            lr = learning_rate(self.options, epoch + step / self.batches)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss, norm = self._step(batch, rng)
            total += loss
            norms.append(norm)
        return {
            "epoch": epoch,
            "lr": lr,
            "train_loss": total / len(self.parts.train),
            "grad_norm": max(norms),
            **self._validate(),
        }

    def _step(self, batch: Ints, rng: np.random.Generator) -> tuple[float, float]:
        """Take one optimizer step; return the batch's summed loss and the gradient's norm before clipping."""
        bags = [self._instances(i, rng) for i in batch]
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for group in group_by_rows([len(bag) for bag in bags], self.options.max_rows):
            losses = self._losses(batch[group], [bags[position] for position in group])
            self.scaler.scale(losses.sum() / len(batch)).backward()  # type: ignore[no-untyped-call]
            total += float(losses.sum().detach())
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return total, float(norm)

    def _losses(self, slides: Ints, bags: list[Rows]) -> Tensor:
        packed = pack(bags, self.device)
        with autocast(self.options):
            logits_BC = self.model(packed.rows_ND, packed.offsets).logits_BC
        labels = torch.from_numpy(self.cohort.labels_N[slides]).to(self.device)
        weights = torch.tensor([self.weight_of[i] for i in slides.tolist()], device=self.device)
        losses = F.cross_entropy(logits_BC.float(), labels, reduction="none") * weights
        self._check_finite(slides, torch.isfinite(losses).tolist())
        return losses

    def _check_finite(self, slides: Ints, finite: list[bool]) -> None:
        named = [self.cohort.image_ids[i] for i, fine in zip(slides, finite, strict=True) if not fine]
        if named:
            raise BagError(
                f"the loss of bag {', '.join(named[:5])} is not finite ({self.job.head}, fold {self.job.fold}, "
                f"seed {self.job.seed}): expected a number; look at its features, or lower --lr (now {self.options.lr})"
            )

    def _instances(self, slide: int, rng: np.random.Generator) -> Rows:
        bag, most = self.cohort.bags[slide], self.options.max_tiles
        if most == 0 or len(bag) <= most:
            return bag
        return np.asarray(bag[np.sort(rng.choice(len(bag), most, replace=False))])

    def _validate(self) -> dict[str, float]:
        logits_SC = score(self.model, [self.cohort.bags[i] for i in self.parts.val], self.options)
        self._check_finite(self.parts.val, [bool(np.isfinite(row).all()) for row in logits_SC])
        patients = tuple(self.cohort.patient_ids[i] for i in self.parts.val)
        names, logits_PC = patient_logits(logits_SC, patients, np.ones(len(patients), bool))
        label_of = dict(zip(patients, self.cohort.labels_N[self.parts.val], strict=True))
        labels, probs = np.array([label_of[name] for name in names]), softmax(logits_PC)
        weights = ones(len(names))
        return {f"val_{name}": float(METRICS[key](labels, probs, weights)[0]) for name, key in _VALIDATED.items()}


_VALIDATED = {"loss": "weighted_log_loss", "auc": "auc"}


def learning_rate(options: TrainOptions, epoch: float) -> float:
    """Return the rate at a (fractional) epoch: linear warm-up, then half a cosine down to 0."""
    warmup = min(options.warmup_epochs, options.epochs - 1)
    if epoch < warmup:
        return options.lr * (epoch + 1) / (warmup + 1)
    return options.lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (options.epochs - warmup)))


def autocast(options: TrainOptions) -> AbstractContextManager[None]:
    """Return the context in which matrix products run in the precision asked for."""
    dtype = DTYPES.get(options.precision)
    kind = torch.device(options.device).type
    context: AbstractContextManager[None] = torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None)
    return context


@torch.inference_mode()
def score(model: BagModel, bags: Sequence[Rows], options: TrainOptions) -> Floats:
    """Return the logits (n, C) of bags, float64, each row centred; zeros for an empty bag. In evaluation mode."""
    model.eval()
    logits = np.zeros((len(bags), model.spec.n_classes))
    filled = [position for position, bag in enumerate(bags) if len(bag)]
    for group in group_by_rows([len(bags[position]) for position in filled], options.max_rows):
        chosen = [filled[position] for position in group]
        packed = pack([bags[position] for position in chosen], options.device)
        with autocast(options):
            output = model(packed.rows_ND, packed.offsets)
        logits[chosen] = centred(output.logits_BC.double().cpu().numpy())
    return logits


def _finish(job: FitJob, cohort: Cohort, parts: Parts, model: BagModel, facts: dict[str, float]) -> None:
    held_out = np.concatenate([parts.val, parts.test])
    logits = score(model, [cohort.bags[i] for i in held_out], job.options)
    is_test: NDArray[np.bool_] = np.arange(len(held_out)) >= len(parts.val)
    ids = tuple(cohort.image_ids[i] for i in held_out)
    write_scores(job.folder / "scores.csv", Scores(ids, is_test, logits))
    save_model(job.folder, model, {"recipe_hash": job.recipe_hash, "fold": job.fold, "seed": job.seed, **facts})
    remove_checkpoint(job.folder)


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write history.csv: one row per epoch."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def _seed(job: FitJob, epoch: int, purpose: str) -> int:
    """Return a 32-bit seed of its own for this model, epoch and purpose; the inner split is the same for every head."""
    head = "" if purpose == "inner" else job.head
    key = [job.options.seed, job.fold, job.seed, epoch, *f"{head}/{purpose}".encode()]
    return int(np.random.SeedSequence(key).generate_state(1)[0])
