"""The epochs of one model: draw, loss, gradient, step, validate."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from features.adamw import AdamW
from mil.data.cohort import Cohort
from mil.heads.head import HeadOutput
from mil.models.model import BagModel
from mil.models.scoring import Compute, autocast, score
from mil.ragged.instances import wide
from mil.ragged.packing import group_by_rows, pack
from mil.ragged.randomness import Randomness, set_seed
from mil.run.scores import patient_logits
from mil.targets.losses import Truths
from mil.targets.survival import SurvivalTarget
from mil.training.jobs import FitJob, Parts, seed_of
from mil.training.later import Later
from mil.training.methods.ema import WeightMean
from mil.training.methods.schedule import learning_rate
from mil.training.methods.sharpness import ascended
from mil.training.methods.soft_targets import Distilled, Mixed, Smoothed
from mil.training.ranks import Ranks
from mil.training.sampling import (
    Drawn,
    batches_ahead,
    draw_batch,
    epoch_order,
    risk_set_batches,
    shared_order,
    slide_weights,
)
from mil.training.together import Steps, to_the_end
from wsi.arrays import Floats, Ints
from wsi.errors import DivergedError
from wsi.progress.stalls import moved

Told = list[tuple[Ints, Later]]
"""Slides and their losses (B,), part by part of a batch, as the device comes to them."""


class Loop:
    """One model's training, an epoch at a time; the same on every rank."""

    def __init__(
        self,
        job: FitJob,
        cohort: Cohort,
        parts: Parts,
        model: BagModel,
        ranks: Ranks,
        taught_SC: Floats | None = None,
    ) -> None:
        self.job, self.options, self.cohort, self.parts = job, job.options, cohort, parts
        self.model, self.ranks, self.taught_SC = model, ranks, taught_SC
        self.device = torch.device(job.options.device)
        self.compute = Compute(job.options.device, job.options.precision, job.options.max_rows)
        self.optimizer = AdamW(
            model.parameters(), lr=self.options.lr, weight_decay=self.options.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.options.precision == "fp16")
        self.mean = WeightMean(model, self.options.ema)
        patients = [cohort.patient_ids[i] for i in parts.train]
        self.target = cohort.target.fitted(parts.train)
        self.patients_N = np.unique(np.array(cohort.patient_ids, dtype=object).astype(str), return_inverse=True)[1]
        self.weights = slide_weights(self.target.groups_N[parts.train], patients, self.target.n_outputs)
        loss_weights = np.ones_like(self.weights) if self.options.balance == "sampling" else self.weights
        self.weight_of = dict(zip(parts.train.tolist(), loss_weights.tolist(), strict=True))

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; return its part of the history's row."""
        return to_the_end(self.steps(epoch))

    def steps(self, epoch: int) -> Steps[dict[str, float]]:
        """Train one epoch; yield before every step but the first how far it is, and return its part of the history."""
        seed = seed_of(self.job, epoch, "epoch")
        set_seed(seed + self.ranks.rank, self.device)
        rng = np.random.default_rng(seed)
        self.model.train()
        total, norms = 0.0, []
        before: Told = []
        order = epoch_order(self.parts.train, self.weights, self.options.balance, rng)
        if self.options.order == "shared":
            order = shared_order(self.parts.train, len(self.cohort), self.options.seed, epoch)
        batches = self._batches(order)
        drawn = (draw_batch(self.cohort, own, self.options, rng) for own in batches)
        for step, batch in enumerate(batches_ahead(self.cohort, drawn, self.ranks.share, self.options)):
            if step:
                yield epoch + step / len(batches)
            lr = learning_rate(self.options, epoch + step / len(batches))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            told, norm = self._step(batch)
            norms.append(norm)
            total += self._loss(before)  # the device has its next step when these are waited for
            before = told
        total += self._loss(before)
        total = float(self.ranks.total(np.array([total]))[0])
        largest = max(float(own.read()) for own in norms)
        return {"epoch": epoch, "lr": lr, "train_loss": total / len(order), "grad_norm": largest}

    def _batches(self, order: Ints) -> list[Ints]:
        """Return the slides of each batch of an epoch."""
        if isinstance(self.target, SurvivalTarget):
            return risk_set_batches(order, self.target.events_N, self.options.batch_bags, self.patients_N)
        return np.array_split(order, math.ceil(len(self.parts.train) / self.options.batch_bags))

    def _step(self, batch: Sequence[Drawn]) -> tuple[Told, Later]:
        """Take one optimizer step; return this rank's losses and the gradient's norm before clipping."""
        parameters = list(self.model.parameters())
        if self.options.optimizer == "sam":
            randomness = Randomness(self.device)
            told = self.gradients(batch)
            with ascended(parameters, self.options.sam_rho):
                randomness.replay()
                self._loss(self.gradients(batch))
        else:
            told = self.gradients(batch)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.options.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.mean.update()
        return told, Later(norm)

    def gradients(self, batch: Sequence[Drawn]) -> Told:
        """Set the gradients of the batch's mean loss, this rank's bags and all others'; return this rank's losses."""
        self.optimizer.zero_grad()
        own = self.ranks.share([len(bag) for bag in batch])
        groups = group_by_rows([len(batch[position]) for position in own], self.options.max_rows)
        parts = [[own[place] for place in group] for group in groups]
        told: Told = []
        if not own:
            self.scaler.scale(torch.zeros((), device=self.device))
        joint = self.target.joint and (len(parts) > 1 or self.ranks.world > 1)
        for slides, losses in self._joint_losses(batch, parts) if joint else self._losses(batch, parts):
            moved()
            self.scaler.scale(losses.sum() * self.ranks.world / len(batch)).backward()
            told.append((slides, Later(losses.detach())))
        self.ranks.average_gradients(self.model.parameters())
        return told

    def _loss(self, told: Told) -> float:
        """Return the sum of losses; wait for the device to have come to them."""
        total = 0.0
        for slides, losses in told:
            losses_B = losses.read()
            self._check_finite(slides, torch.isfinite(losses_B).tolist())
            total += float(losses_B.sum())
        return total

    def _losses(self, batch: Sequence[Drawn], parts: Sequence[Sequence[int]]) -> Iterator[tuple[Ints, Tensor]]:
        """Give slides and weighted losses of one part of the batch after the other."""
        for part in parts:
            bags = [batch[position] for position in part]
            slides, truth, weights_B = self._asked(bags)
            output = self._output(bags, slides, truth)
            losses = truth.loss(output.logits_BC)
            yield slides, (losses if output.aux_loss_B is None else losses + output.aux_loss_B) * weights_B

    def _joint_losses(self, batch: Sequence[Drawn], parts: Sequence[Sequence[int]]) -> Iterator[tuple[Ints, Tensor]]:
        """Give, part by part, terms whose gradients and values are those of one loss over the outputs of all parts.

        The outputs are computed twice: all of them first, so that the loss and its gradient by each are known; then
        part by part with that gradient, as in Gao et al. 2021 (arXiv 2101.06983). Dropout is the same in both.
        """
        randomness = Randomness(self.device)
        outputs_BC = np.zeros((len(batch), self.target.n_outputs))
        with torch.no_grad():
            for part in parts:
                bags = [batch[position] for position in part]
                slides, truth, _ = self._asked(bags)
                outputs_BC[list(part)] = self._output(bags, slides, truth).logits_BC.double().cpu().numpy()
        leaf_BC = torch.from_numpy(self.ranks.total(outputs_BC)).to(self.device).requires_grad_()
        slides, truth, weights_B = self._asked(batch)
        losses_B = truth.loss(leaf_BC) * weights_B
        self._check_finite(slides, torch.isfinite(losses_B).tolist())
        (push_BC,) = torch.autograd.grad(losses_B.sum(), leaf_BC)
        randomness.replay()
        for part in parts:
            bags, chosen = [batch[position] for position in part], list(part)
            own, own_truth, own_weights_B = self._asked(bags)
            output = self._output(bags, own, own_truth)
            pushed_B = (wide(output.logits_BC) * push_BC[chosen]).sum(1)
            terms_B = losses_B.detach()[chosen] + pushed_B - pushed_B.detach()
            yield own, terms_B if output.aux_loss_B is None else terms_B + output.aux_loss_B * own_weights_B

    def _asked(self, bags: Sequence[Drawn]) -> tuple[Ints, Truths, Tensor]:
        """Return slides (B,), truth and weights (B,) of bags."""
        slides = np.array([bag.slide for bag in bags], np.int64)
        return slides, *self._truth(bags, slides)

    def _output(self, bags: Sequence[Drawn], slides: Ints, truth: Truths) -> HeadOutput:
        packed = pack([bag.read(self.cohort) for bag in bags], self.device, [self.cohort.image_ids[i] for i in slides])
        with autocast(self.compute):
            output: HeadOutput = self.model(packed.rows_ND, packed.offsets, truth)
        return output

    def _truth(self, bags: Sequence[Drawn], slides: Ints) -> tuple[Truths, Tensor]:
        """Return the target of a batch, and the weight of each bag (B,)."""
        truth, weights_B = self._soft(slides), self._weights(slides)
        if all(bag.partner is None for bag in bags):
            return truth, weights_B
        partners = np.array([bag.partner.slide if bag.partner else bag.slide for bag in bags], np.int64)
        share_B = torch.tensor([bag.share for bag in bags]).to(self.device, non_blocking=True)
        own_B, other_B = share_B * weights_B, (1 - share_B) * self._weights(partners)
        both_B = own_B + other_B
        return Mixed(truth, self._soft(partners), own_B / both_B, other_B / both_B), both_B

    def _soft(self, slides: Ints) -> Truths:
        truth: Truths = self.target.batch(slides, self.device, self.patients_N[slides])
        if self.options.label_smoothing:
            truth = Smoothed(truth, self.options.label_smoothing)
        if self.taught_SC is not None:
            taught_BC = torch.from_numpy(self.taught_SC[slides]).float().to(self.device, non_blocking=True)
            truth = Distilled(truth, taught_BC, self.options.distil_weight, self.options.distil_temperature)
        return truth

    def _weights(self, slides: Ints) -> Tensor:
        return torch.tensor([self.weight_of[i] for i in slides.tolist()]).to(self.device, non_blocking=True)

    def _check_finite(self, slides: Ints, finite: list[bool]) -> None:
        named = [self.cohort.image_ids[i] for i, fine in zip(slides, finite, strict=True) if not fine]
        if named:
            raise DivergedError(
                f"the loss of bag {', '.join(named[:5])} is not finite ({self.job.head}, fold {self.job.fold}, "
                f"seed {self.job.seed}): expected a number; look at its features, or lower --lr (now {self.options.lr})"
            )

    def scores(self, slides: Ints) -> Floats:
        """Return the logits (n, C) of slides, each rank scoring its share."""
        own = self.ranks.share([len(self.cohort.bags[i]) for i in slides])
        logits_SC = np.zeros((len(slides), len(self.target.names)))
        logits_SC[own] = score(self.model, [self.cohort.bags[slides[position]] for position in own], self.compute)
        return self.ranks.total(logits_SC)

    def validate(self) -> dict[str, float]:
        """Return loss, and what else the target tells, of the inner validation patients, for the history's row."""
        logits_SC = self.scores(self.parts.val)
        self._check_finite(self.parts.val, [bool(np.isfinite(row).all()) for row in logits_SC])
        patients = tuple(self.cohort.patient_ids[i] for i in self.parts.val)
        names, logits_PC = patient_logits(logits_SC, patients, np.ones(len(patients), bool), self.options.aggregate)
        first = dict(zip(reversed(patients), reversed(self.parts.val.tolist()), strict=True))
        told = self.target.validation(np.array([first[name] for name in names]), logits_PC)
        return {f"val_{name}": value for name, value in told.items()}
