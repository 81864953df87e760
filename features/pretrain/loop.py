"""The training loop of one rank.

As in `features.finetune.loop`, a step's batch is the same whatever the number of ranks; it is cut into ranks x
accumulation parts, whose summed losses' gradients are added up over parts and ranks.
"""

import math
from contextlib import ExitStack, closing

import numpy as np
import torch
from torch import nn

from features.adamw import AdamW
from features.encoders.device import autocast
from features.learning.batches import bounds, generator, requests, steps_of
from features.learning.checkpoint import Standing
from features.learning.loop import Loop
from features.learning.norms import Statistics, refuse_single_images
from features.learning.optimizer import learning_rate, undecayed
from features.learning.ranks import Setting
from features.learning.scalars import EventFile, event_file
from features.learning.steps import Stepper, in_parallel, not_finite, over_ranks, quiet_unless
from features.learning.weights_file import write_curves
from features.pretrain.cohort import Cohort
from features.pretrain.encoding import features_of, normalised
from features.pretrain.gauge import Gauge, gauge
from features.pretrain.objectives import Objective
from features.pretrain.options import PER_256, PretrainOptions
from features.pretrain.probe import OnlineProbe
from features.pretrain.sources import Part, Source
from features.pretrain.student import Student
from wsi.errors import ItemError, RequestError
from wsi.machine.interrupt import asked_to_leave
from wsi.progress.outcome import Progress
from wsi.progress.stalls import moved

NAN = float("nan")


class Trainer(Loop):
    """Trains from a standing to the end."""

    def __init__(
        self,
        options: PretrainOptions,
        cohort: Cohort,
        objective: Objective,
        source: Source,
        probe: OnlineProbe | None,
        setting: Setting,
        progress: Progress,
    ) -> None:
        super().__init__(options, cohort, setting, progress)
        self.options, self.cohort, self.objective = options, cohort, objective
        self._source, self._probe = source, probe
        self.model = objective.student
        self._stepper = Stepper(self.model, _optimizer(options, self.model), setting, options.clip)
        self._statistics = Statistics(self.model)
        self._n_parts = setting.place.world * options.accumulate
        self.steps_per_epoch = steps_of(cohort.images_per_epoch, options.batch_size)
        self._n_steps = options.epochs * self.steps_per_epoch
        self._lengths = [stop - start for start, stop in bounds(cohort.images_per_epoch, self.steps_per_epoch)]
        self._check_parts()
        self._parallel: nn.Module = self.model
        self._events: EventFile | None = None

    @property
    def trained(self) -> nn.Module:
        """The model that is trained."""
        return self.model

    @property
    def averaged(self) -> nn.Module | None:
        """Its moving average; None where there is none."""
        return self.objective.average

    @property
    def kept(self) -> nn.Module:
        """The backbone whose weights are kept."""
        return (self.objective.average or self.model).backbone

    def _check_parts(self) -> None:
        smallest = min(self._lengths) // self._n_parts
        told = refuse_single_images(self.model, smallest, self._n_parts)
        if smallest < 1 or told:
            wanted = told or (
                f"expected batches of {self._n_parts} {self._source.unit} or more for {self.setting.place.world} ranks "
                f"x {self.options.accumulate} accumulated parts, found one of {min(self._lengths)}"
            )
            raise RequestError(f"--batch-size {self.options.batch_size}: {wanted}")

    def go_on_from(self, standing: Standing) -> None:
        """Take over what a checkpoint holds."""
        super().go_on_from(standing)
        self._statistics.reload()
        self.objective.go_on_from(standing.objective)

    def run(self) -> nn.Module:
        """Train to the end; return the backbone to keep."""
        with ExitStack() as files:
            self._parallel = in_parallel(self.model, self.setting)
            if self.setting.save:
                folder = self.options.beside(".tensorboard")
                self._events = files.enter_context(event_file(folder, self.standing.history))
            if not self.standing.history:
                self._add({"epoch": 0, "lr": 0.0, "train_loss": NAN, "grad_norm": NAN})
            for epoch in range(self.standing.epoch, self.options.epochs):
                self._epoch(epoch)
        return self.kept

    def _epoch(self, epoch: int) -> None:
        options, place = self.options, self.setting.place
        parts = range(place.rank * options.accumulate, (place.rank + 1) * options.accumulate)
        wanted = requests(
            self.cohort.images_per_epoch, self.steps_per_epoch, self.standing.step, parts, self._n_parts, mixup=False
        )
        self.model.train()
        with closing(self._source.parts(epoch, wanted, self.steps_per_epoch, place.cpus())) as given:  # type: ignore[type-var]
            pending: list[float] = []
            for part in given:
                pending.append(self._part(epoch, part, first=not pending))
                if part.request.last:
                    self._step(epoch, part.request.step, sum(pending))
                    pending = []
        self._close_epoch(epoch)

    def _part(self, epoch: int, part: Part, *, first: bool) -> float:
        """Add one part's gradients; return its summed loss."""
        moved()
        request, setting = part.request, self.setting
        if first:
            self._stepper.clear()
        views = [normalised(view, setting) for view in part.views]
        torch.manual_seed(int(generator(self.options.seed, epoch, request.step, request.part).integers(2**63)))
        with quiet_unless(request.last, self._parallel):
            with autocast(setting.device, setting.precision):
                outputs = self._parallel(views)
            self._statistics.note()
            loss_sum = self.objective.loss_sum(outputs, views, part.targets)
            self._stepper.backward(loss_sum, self._lengths[request.step])
        return float(loss_sum.detach())

    def _step(self, epoch: int, step: int, loss_sum: float) -> None:
        """Take the optimizer's step and write down how it went."""
        number = epoch * self.steps_per_epoch + step
        self.objective.hold_back(epoch)
        norm = self._stepper.unscaled_norm()
        loss, leaving = over_ranks(np.array([loss_sum, float(asked_to_leave())]), self.setting)
        loss, self._leaving = loss / self._lengths[step], bool(leaving)
        self._check_finite(epoch, step, float(loss), norm)
        rate = learning_rate(self.options, number, self.steps_per_epoch) * self.options.batch_size / PER_256
        self._stepper.take(rate)
        self._statistics.settle(self._n_parts, self.setting, number)
        self.objective.settle(self.setting, number, self._n_steps)
        row = {"epoch": epoch + 1, "step": step + 1, self._source.unit: self._lengths[step], "lr": rate}
        self._end_step(epoch, step, {**row, "loss": float(loss), "grad_norm": norm}, self._lengths[step])

    def _check_finite(self, epoch: int, step: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and (math.isfinite(norm) or self._stepper.scaler.is_enabled()):
            return
        what, place = "gradient" if math.isfinite(loss) else "loss", (epoch, step, self.steps_per_epoch)
        raise not_finite(what, place, self.options.lr, self.setting.precision)

    def _close_epoch(self, epoch: int) -> None:
        own = [row for row in self.standing.steps if row["epoch"] == epoch + 1]
        unit = self._source.unit
        loss = sum(row["loss"] * row[unit] for row in own) / sum(row[unit] for row in own)
        norm = max(row["grad_norm"] for row in own)
        found = self._add({"epoch": epoch + 1, "lr": own[-1]["lr"], "train_loss": loss, "grad_norm": norm})
        self._refuse_collapse(found)
        self._end_epoch(epoch)

    def _add(self, row: dict[str, float]) -> Gauge:
        """Judge the features as they are, and add an epoch to the history; epoch 0 is before any training."""
        found = gauge(features_of(self.kept, self._source.sampled, self._source.n_sampled, self.setting))
        row = {**row, "rank": found.rank, "spread": found.spread}
        if self._probe is not None:
            row |= self._probe.measured(self.kept)
        self.standing.history.append(row)
        if self._events is not None:
            self._events.add(row)
        probe = f"; probe AUC {row['probe_auc']:.3f}" if "probe_auc" in row else ""
        loss = f"loss {row['train_loss']:.4f}; " if row["epoch"] else "before training: "
        features = f"{loss}feature rank {found.rank:.1f}, spread {found.spread:.3f}{probe}"
        self.progress.note(f"epoch {row['epoch']}/{self.options.epochs}: {features}")
        return found

    def _refuse_collapse(self, found: Gauge) -> None:
        """End the training where features that told images apart at its beginning do so no more."""
        first = self.standing.history[0]
        why = found.collapsed(Gauge(first["rank"], first["spread"], found.images))
        if not why:
            return
        if self.setting.save:
            write_curves(self.options, self.standing)
        raise ItemError(
            f"collapsed in epoch {len(self.standing.history) - 1}: {why}; before training: rank {first['rank']:.1f}, "
            f"spread {first['spread']:.3f}. No weights were written; the curves are in "
            f"{self.options.beside('.history.csv')}: give a lower --lr (now {self.options.lr:g}), a larger "
            "--batch-size or another --method, with --overwrite"
        )

    def save(self) -> None:
        """Write the checkpoint, on the rank that writes."""
        self.standing.objective = self.objective.state()
        super().save()


def _optimizer(options: PretrainOptions, model: Student) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101); biases, norms and what the architecture names are not decayed."""
    spared = {f"backbone.{name}" for name in undecayed(model.backbone)}
    named = list(model.named_parameters())
    without = [own for name, own in named if own.ndim <= 1 or name in spared]
    kept = [own for name, own in named if own.ndim > 1 and name not in spared]
    return AdamW(
        [
            {"params": kept, "weight_decay": options.weight_decay, "lr_scale": 1.0},
            {"params": without, "weight_decay": 0.0, "lr_scale": 1.0},
        ],
        lr=options.lr,
    )
