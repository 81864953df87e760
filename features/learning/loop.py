"""Where a training of an encoder stands, kept step by step and epoch by epoch, so that it goes on after any stop."""

from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from torch import nn

from features.learning.checkpoint import Standing, write_checkpoint
from features.learning.ranks import Gathered, Setting
from features.learning.steps import Stepper
from wsi.machine.interrupt import Leaving
from wsi.progress.outcome import Progress


class LoopOptions(Protocol):
    """Options that tell how long is trained, and when it is kept."""

    @property
    def epochs(self) -> int: ...
    @property
    def checkpoint_steps(self) -> int: ...
    def beside(self, ending: str) -> Path: ...


class Loop(ABC):
    """What every training loop does between its steps and epochs; the ranks leave together, at a step's end."""

    _stepper: Stepper
    steps_per_epoch: int

    def __init__(self, options: LoopOptions, cohort: Gathered, setting: Setting, progress: Progress) -> None:
        self._kept, self._recipe = options, cohort.recipe
        self.setting, self.progress = setting, progress
        self.standing = Standing()
        self._leaving = False

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The model that is trained."""

    @property
    @abstractmethod
    def averaged(self) -> nn.Module | None:
        """Its moving average; None where there is none."""

    @property
    def steps_left(self) -> int:
        """Steps to the end."""
        return (self._kept.epochs - self.standing.epoch) * self.steps_per_epoch - self.standing.step

    def go_on_from(self, standing: Standing) -> None:
        """Take over what a checkpoint holds."""
        self.standing = standing
        self.trained.load_state_dict(standing.model)
        if self.averaged is not None:
            self.averaged.load_state_dict(standing.average)
        self._stepper.load_from(standing)

    def _end_step(self, epoch: int, step: int, row: dict[str, float], images: int) -> None:
        """Write a step (counted from 0) down; save, and leave, where it is time to."""
        standing, every = self.standing, self._kept.checkpoint_steps
        standing.steps.append(row)
        standing.epoch, standing.step = epoch, step + 1
        if standing.step < self.steps_per_epoch and (self._leaving or (every and standing.step % every == 0)):
            self.save()
            if self._leaving:
                raise Leaving
        with suppress(Leaving):  # the ranks leave together, at the next step
            self.progress.advance(images)

    def _end_epoch(self, epoch: int) -> None:
        """Save, and leave, where it is time to."""
        self.standing.epoch, self.standing.step = epoch + 1, 0
        self.save()
        if self._leaving:
            raise Leaving

    def save(self) -> None:
        """Write the checkpoint, on the rank that writes."""
        if not self.setting.save:
            return
        self._stepper.save_into(self.standing)
        self.standing.model = self.trained.state_dict()
        self.standing.average = self.averaged.state_dict() if self.averaged is not None else {}
        write_checkpoint(self._kept.beside(".checkpoint"), self.standing, self._recipe)
