"""`gigamil finetune`: in this process, in several that it starts, or under torchrun."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from features.distributed import JOINED, Group, Message, Place, RankEnd, process_group, run_ranks, torchrun_place
from features.encoders.device import (
    check_precision,
    device_of_rank,
    reproducible_arithmetic,
    resolve_device,
    resolve_precision,
)
from features.encoders.registry import build_encoder
from features.encoders.spec import EncoderSpec
from features.encoders.timm_encoder import TimmEncoder
from features.finetune.checkpoint import Standing, read_standing
from features.finetune.cohort import Cohort, gather
from features.finetune.loop import Report, Setting, Trainer
from features.finetune.model import build_model
from features.finetune.options import FinetuneOptions
from features.finetune.results import is_made, last_facts, write_results
from wsi.errors import GigamilError, ItemError, RequestError
from wsi.files.claim import claim
from wsi.options import stage
from wsi.outcome import Outcome, Progress, Silent, Status, Summary

AGAIN = "run the same command again to go on from the checkpoint"


@stage
def finetune(options: FinetuneOptions, progress: Progress | None = None) -> Summary:
    """Train the encoder on labelled tiles, held out one fold of patients; write its weights.

    Stopped in whatever way, the same command goes on from the last checkpoint; on a CPU with one rank it ends with the
    same bits. Under torchrun, rank 0 tells for all.

    Raises
    ------
    RequestError
        The inputs do not fit each other, or the weights there were made with other settings.
    ItemError
        A loss is not finite (the step and the slides are named), or a rank died.
    """
    progress = progress or Silent()
    began = time.perf_counter()
    place = torchrun_place()
    if place is not None and options.nproc > 1:
        raise RequestError("--nproc and torchrun exclude each other: torchrun has started the ranks already")
    outcomes = _under_torchrun(options, place, progress) if place else _from_here(options, progress)
    return Summary("finetune", outcomes, time.perf_counter() - began)


def _encoder(options: FinetuneOptions) -> TimmEncoder:
    encoder = build_encoder(options.encoder, options.start())
    if not isinstance(encoder, TimmEncoder):
        raise RequestError(f"--encoder {options.encoder}: expected a model of timm; only these can be fine-tuned")
    return encoder


def _device(options: FinetuneOptions, local_rank: int) -> torch.device:
    return device_of_rank(resolve_device(options.device), local_rank)


def _gathered(options: FinetuneOptions, spec: EncoderSpec, device: torch.device, progress: Progress) -> Cohort:
    cohort = gather(options, spec, resolve_precision(options.precision, device, spec))
    for line in (*cohort.notes, *filter(None, [spec.weights_note])):
        progress.note(line)
    return cohort


def _outcomes(options: FinetuneOptions, cohort: Cohort, status: Status) -> list[Outcome]:
    failed = [Outcome(image_id, Status.FAILED, reason) for image_id, reason in cohort.failures.items()]
    facts: dict[str, Any] = {"weights": str(options.out), **last_facts(options)}
    facts |= {"train_slides": len(cohort.train), "val_slides": len(cohort.val)}
    return [Outcome(options.out.stem, status, facts=facts), *failed]


def _from_here(options: FinetuneOptions, progress: Progress) -> list[Outcome]:
    device, encoder = _device(options, 0), _encoder(options)
    cohort = _gathered(options, encoder.spec, device, progress)
    with claim(options.out):
        if is_made(options, cohort):
            return _outcomes(options, cohort, Status.SKIPPED)
        if options.nproc == 1:
            _train(options, cohort, encoder, device, Place(), None, _Bar(progress))
        else:
            del encoder
            own = replace(options, nproc=1)
            _check_ends(run_ranks([partial(_rank, own, cohort)] * options.nproc, partial(_hear, _Bar(progress))))
    return _outcomes(options, cohort, Status.DONE)


def _check_ends(ends: list[RankEnd]) -> None:
    """Raise what stopped the ranks: an error on purpose first, then a death, then whatever the others met because."""
    errors = [end.error for end in ends if end.error is not None]
    told = [end for end in ends if end.died]
    for error in errors:
        if isinstance(error, GigamilError):
            raise error
    if told:
        raise ItemError(f"{', '.join(end.told() for end in told)}: {AGAIN}")
    if errors:
        raise errors[0]


def _rank(
    options: FinetuneOptions, cohort: Cohort, place: Place, store: Store, send: Callable[[Message], None]
) -> None:
    """Train as one of the ranks that `_from_here` started."""
    torch.set_num_threads(place.cpus())
    device = _device(options, place.local_rank)
    with process_group(place, device, store) as group:
        report: Report = _Messages(send) if place.rank == 0 else _Mute()
        _train(options, cohort, _encoder(options), device, place, group, report)
        group.from_first(None)  # the others wait until rank 0 has written
    send((JOINED, ()))  # only now: a rank that dies before must stop the others, which would wait for its gradients


def _under_torchrun(options: FinetuneOptions, place: Place, progress: Progress) -> list[Outcome]:
    """Train as one of the ranks that torchrun started; rank 0 tells for all."""
    torch.set_num_threads(place.cpus())
    device = _device(options, place.local_rank)
    with ExitStack() as claims, process_group(place, device) as group:
        encoder = _encoder(options)
        if place.rank:
            found = group.from_first(None)
            if found is not None:
                _train(options, found, encoder, device, place, group, _Mute())
                group.from_first(None)
            return []
        made = True
        try:
            cohort = _gathered(options, encoder.spec, device, progress)
            claims.enter_context(claim(options.out))
            made = is_made(options, cohort)
        finally:
            group.from_first(None if made else cohort)
        if not made:
            _train(options, cohort, encoder, device, place, group, _Bar(progress))
            group.from_first(None)
        return _outcomes(options, cohort, Status.SKIPPED if made else Status.DONE)


def _train(
    options: FinetuneOptions,
    cohort: Cohort,
    encoder: TimmEncoder,
    device: torch.device,
    place: Place,
    group: Group | None,
    report: Report,
) -> None:
    """Train to the end as one rank; the first writes the results."""
    spec, precision = encoder.spec, str(cohort.recipe["precision"])
    if spec.weights_sha256 != cohort.weights_sha256:
        raise RequestError(f"rank {place.rank} has other weights of {spec.name} than rank 0: give all the same ones")
    check_precision(precision, device, place.rank)
    if group is not None:
        group.from_all(None)  # until every rank has loaded: from here on they wait for minutes only
    setting = Setting(place, device, precision, spec, save=place.rank == 0)
    with reproducible_arithmetic():
        trainer = Trainer(options, cohort, build_model(options, encoder, len(cohort.classes)), setting, report)
        standing = _standing(options, cohort, place, group)
        if standing is not None:
            trainer.go_on_from(standing)
        left = (options.epochs - trainer.standing.epoch) * trainer.steps_per_epoch - trainer.standing.step
        report.begin(f"finetune {spec.name}", left * trainer.tiles_per_epoch / trainer.steps_per_epoch)
        model = trainer.run()
        if setting.save:
            write_results(options, cohort, model, trainer.standing)


def _standing(options: FinetuneOptions, cohort: Cohort, place: Place, group: Group | None) -> Standing | None:
    """Return the checkpoint, which every rank reads; None where rank 0 has none."""
    path = options.beside(".checkpoint")
    there = path.exists()
    if there and options.overwrite and place.rank == 0:
        try:
            read_standing(path, cohort.recipe)
        except RequestError:
            there = False
    if group is not None:
        there = bool(group.from_first(there))
    if not there:
        return None
    if not path.exists():
        raise RequestError(f"rank {place.rank} does not see {path}: put --out into a folder that all nodes share")
    return read_standing(path, cohort.recipe)


class _Bar:
    """A `Report` to a person."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def begin(self, title: str, tiles: float) -> None:
        """Start the bar."""
        self._progress.begin(title, round(tiles), "tiles")

    def advance(self, tiles: int) -> None:
        """Add tiles to the bar."""
        self._progress.advance(tiles)

    def note(self, line: str) -> None:
        """Show a line."""
        self._progress.note(line)


class _Messages:
    """A `Report` to the process that started this one."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send

    def begin(self, title: str, tiles: float) -> None:
        """Start the bar."""
        self._send(("begin", (title, tiles)))

    def advance(self, tiles: int) -> None:
        """Add tiles to the bar."""
        self._send(("advance", (tiles,)))

    def note(self, line: str) -> None:
        """Show a line."""
        self._send(("note", (line,)))


class _Mute:
    """A `Report` to nobody: another rank tells for all."""

    def begin(self, title: str, tiles: float) -> None:
        """Start the bar."""

    def advance(self, tiles: int) -> None:
        """Add tiles to the bar."""

    def note(self, line: str) -> None:
        """Show a line."""


def _hear(bar: _Bar, message: Message) -> None:
    name, arguments = message
    getattr(bar, name)(*arguments)
