"""The training loop of one rank.

A step's batch is the same whatever the number of ranks; it is cut into ranks x accumulation parts, each part's summed
loss is divided by the number of tiles of the whole batch, and gradients are summed over parts and ranks. So two ranks
do what one rank with two accumulated parts does, but for rounding.
"""

import copy
import math
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from features.encoders.device import autocast
from features.encoders.tile_input import TileInput
from features.finetune.batches import VALIDATION, draw_tiles
from features.finetune.cohort import Cohort
from features.finetune.inputs import TrainInput
from features.finetune.model import TileClassifier
from features.finetune.optimizer import build_optimizer, size_of
from features.finetune.options import FinetuneOptions
from features.finetune.pieces import Piece, PieceReader
from features.learning.average import average_into
from features.learning.batches import Draw, PieceRequest, bounds, generator, requests, steps_of
from features.learning.loop import Loop
from features.learning.measure import measures
from features.learning.optimizer import learning_rate
from features.learning.ranks import Setting
from features.learning.steps import Stepper, in_parallel, not_finite, over_ranks, quiet_unless
from wsi.errors import ItemError, RequestError
from wsi.machine.interrupt import asked_to_leave
from wsi.progress.outcome import Progress
from wsi.progress.stalls import moved

VALIDATION_BATCH = 64
"""Tiles validated together, whatever the batch size: the same cuts for any number of ranks."""
_NAMED = 5


class Trainer(Loop):
    """Trains from a standing to the end."""

    def __init__(
        self, options: FinetuneOptions, cohort: Cohort, model: TileClassifier, setting: Setting, progress: Progress
    ) -> None:
        super().__init__(options, cohort, setting, progress)
        self.options, self.cohort = options, cohort
        self.model = model.to(setting.device)
        if setting.device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model) if options.ema else None
        self._stepper = Stepper(self.model, build_optimizer(options, self.model), setting, options.clip)
        self._n_parts = setting.place.world * options.accumulate
        self._counts = self._draw(0)
        self.steps_per_epoch = steps_of(len(self._counts), options.batch_size)
        self._reader = PieceReader(
            options, cohort.train, len(cohort.classes), cohort.tile_px, pinned=setting.device.type == "cuda"
        )
        self._parallel: nn.Module = self.model
        smallest = min(stop - start for start, stop in bounds(len(self._counts), self.steps_per_epoch))
        if smallest < self._n_parts:
            raise RequestError(
                f"--batch-size {options.batch_size}: expected batches of {self._n_parts} tiles or more for "
                f"{setting.place.world} ranks x {options.accumulate} accumulated parts, found one of {smallest}"
            )

    @property
    def tiles_per_epoch(self) -> int:
        """Tiles that an epoch trains on."""
        return len(self._counts)

    @property
    def trained(self) -> nn.Module:
        """The model that is trained."""
        return self.model

    @property
    def averaged(self) -> nn.Module | None:
        """Its moving average; None where there is none."""
        return self.average

    def run(self) -> TileClassifier:
        """Train to the end; return the model with the weights to keep."""
        self._parallel = in_parallel(self.model, self.setting)
        for epoch in range(self.standing.epoch, self.options.epochs):
            self._epoch(epoch)
        if self.options.keep == "best":
            self.model.load_state_dict(self.standing.best)
            return self.model
        return self.average or self.model

    def _draw(self, epoch: int) -> Draw:
        options = self.options
        return draw_tiles(self.cohort.train, options.tiles_per_slide, len(self.cohort.classes), options.seed, epoch)

    def _epoch(self, epoch: int) -> None:
        options, place, standing = self.options, self.setting.place, self.standing
        draw = self._draw(epoch)
        size = size_of(options.sizes or (self.setting.spec.input_px or 0,), epoch, options.epochs)
        parts = range(place.rank * options.accumulate, (place.rank + 1) * options.accumulate)
        wanted = requests(len(draw), self.steps_per_epoch, standing.step, parts, self._n_parts, mixup=options.mixup > 0)
        largest = math.ceil(len(draw) / self.steps_per_epoch / self._n_parts) + 1
        prepare = TrainInput(self.setting.spec, self.setting.device, size, mixed=options.mixup > 0)
        self.model.train()
        with closing(self._reader.pieces(draw, epoch, wanted, largest, place.cpus())) as pieces:  # type: ignore[type-var]
            pending: list[float] = []
            for piece in pieces:
                pending.append(self._part(epoch, draw, piece, prepare, first=not pending))
                if piece.request.last:
                    self._step(epoch, draw, piece.request, sum(pending), size)
                    pending = []
        self._close_epoch(epoch, size)

    def _part(self, epoch: int, draw: Draw, piece: Piece, prepare: TrainInput, *, first: bool) -> float:
        """Add one part's gradients; return its summed loss."""
        moved()
        request, setting = piece.request, self.setting
        tiles, targets = prepare(piece)
        if first:
            self._stepper.clear()
        torch.manual_seed(int(generator(self.options.seed, epoch, request.step, request.part).integers(2**63)))
        with quiet_unless(request.last, self._parallel):
            with autocast(setting.device, setting.precision):
                logits = self._parallel(tiles)
            losses = -(targets * torch.log_softmax(logits.float(), 1)).sum(1)
            self._check_finite(epoch, draw, request, losses)
            total = losses.sum()
            self._stepper.backward(total, self._batch_length(draw, request.step))
        return float(total.detach())

    def _batch_length(self, draw: Draw, step: int) -> int:
        start, stop = bounds(len(draw), self.steps_per_epoch)[step]
        return stop - start

    def _check_finite(self, epoch: int, draw: Draw, request: PieceRequest, losses: Tensor) -> None:
        finite = torch.isfinite(losses.detach()).cpu().numpy()
        if finite.all():
            return
        rows = request.rows[: len(finite)][~finite]
        named = [
            f"tile {draw.tiles[row]} of {self.cohort.train[draw.slides[row]].image_id}"
            for row in rows[:_NAMED].tolist()
        ]
        raise self._not_finite("loss", epoch, request, f"{', '.join(named)}{', ...' if len(rows) > _NAMED else ''}")

    def _not_finite(self, what: str, epoch: int, request: PieceRequest, whose: str) -> ItemError:
        place = (epoch, request.step, self.steps_per_epoch)
        return not_finite(what, place, self.options.lr, self.setting.precision, whose)

    def _step(self, epoch: int, draw: Draw, request: PieceRequest, loss_sum: float, size: int) -> None:
        """Take the optimizer's step and write down how it went."""
        number = epoch * self.steps_per_epoch + request.step
        rate = learning_rate(self.options, number, self.steps_per_epoch)
        norm = self._stepper.unscaled_norm()
        if not math.isfinite(norm) and not self._stepper.scaler.is_enabled():
            slides = {self.cohort.train[number].image_id for number in draw.slides[request.rows].tolist()}
            raise self._not_finite("gradient", epoch, request, f"slides {', '.join(sorted(slides)[:_NAMED])}")
        self._stepper.take(rate)
        if self.average is not None:
            average_into(self.average, self.model, self.options.ema, number)
        tiles = self._batch_length(draw, request.step)
        loss_sum, leaving = over_ranks(np.array([loss_sum, float(asked_to_leave())]), self.setting)
        loss, self._leaving = loss_sum / tiles, bool(leaving)
        row = {"epoch": epoch + 1, "step": request.step + 1, "tiles": tiles, "size_px": size, "lr": rate}
        self._end_step(epoch, request.step, {**row, "loss": float(loss), "grad_norm": norm}, tiles)

    def _close_epoch(self, epoch: int, size: int) -> None:
        standing = self.standing
        own = [row for row in standing.steps if row["epoch"] == epoch + 1]
        loss = sum(row["loss"] * row["tiles"] for row in own) / sum(row["tiles"] for row in own)
        facts = {"epoch": epoch + 1, "size_px": size, "lr": own[-1]["lr"], "train_loss": loss}
        row = {**facts, "grad_norm": max(row["grad_norm"] for row in own), **self.validate()}
        standing.history.append(row)
        if self.options.keep == "best" and row["val_patient_loss"] < standing.best_loss:
            standing.best_loss, standing.best_epoch = row["val_patient_loss"], epoch + 1
            kept = (self.average or self.model).state_dict()
            standing.best = {name: value.detach().cpu().clone() for name, value in kept.items()}
        self._end_epoch(epoch)
        self.progress.note(
            f"epoch {epoch + 1}/{self.options.epochs}: loss {loss:.4f}; other patients: loss "
            f"{row['val_patient_loss']:.4f}, AUC {row['val_patient_auc']:.3f}"
        )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return loss and AUC on the validation slides, at the encoder's own size, without augmentation."""
        slides, options, place = self.cohort.val, self.options, self.setting.place
        draw = draw_tiles(slides, options.tiles_per_slide, len(self.cohort.classes), options.seed, VALIDATION)
        model = (self.average or self.model).eval()
        prepare = TileInput(self.setting.spec, self.setting.device)
        plain = replace(options, flips=False, jitter=0.0, mixup=0.0)
        reader = PieceReader(plain, slides, len(self.cohort.classes), self.cohort.tile_px, pinned=False)
        n_batches = math.ceil(len(draw) / VALIDATION_BATCH)
        wanted = (
            PieceRequest(number, 0, np.arange(len(draw))[number * VALIDATION_BATCH :][:VALIDATION_BATCH], last=True)
            for number in range(place.rank, n_batches, place.world)
        )
        probs = np.zeros((len(draw), len(self.cohort.classes)))
        with closing(reader.pieces(draw, VALIDATION, wanted, VALIDATION_BATCH, place.cpus())) as pieces:  # type: ignore[type-var]
            for piece in pieces:
                moved()
                tiles = prepare(piece.pixels)
                with autocast(self.setting.device, self.setting.precision):
                    logits = model(tiles)
                probs[piece.request.rows] = logits.double().softmax(1).cpu().numpy()
        probs = over_ranks(probs, self.setting)
        if not np.isfinite(probs).all():
            raise ItemError(f"the validation is not finite after epoch {self.standing.epoch + 1}: lower --lr")
        patients = np.unique([slide.patient_id for slide in slides], return_inverse=True)[1]
        labels = np.array([slide.label for slide in slides])
        return measures(probs, labels[draw.slides], patients[draw.slides])
