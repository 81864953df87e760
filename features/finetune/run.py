"""`gigamil finetune`: in this process, in several that it starts, or under torchrun."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from features.device import device_of_rank, reproducible_arithmetic, resolve_device, resolve_precision
from features.distributed import JOINED, Group, Message, Place, RankEnd, process_group, run_ranks, torchrun_place
from features.encoder import build_encoder
from features.finetune.checkpoint import Standing, read_standing
from features.finetune.cohort import Cohort, gather
from features.finetune.loop import Report, Setting, Trainer
from features.finetune.model import build_model
from features.finetune.options import FinetuneOptions
from features.finetune.results import is_made, last_facts, write_results
from features.timm_encoder import TimmEncoder
from wsi.claim import claim
from wsi.errors import GigamilError, ItemError, RequestError
from wsi.outcome import Outcome, Progress, Silent, Status, Summary

AGAIN = "run the same command again to go on from the checkpoint"


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


@dataclass(frozen=True, slots=True)
class _Ready:
    """The encoder to begin from, and where and how it is trained."""

    encoder: TimmEncoder
    device: torch.device
    precision: str


def _ready(options: FinetuneOptions, local_rank: int) -> _Ready:
    asked = resolve_device(options.device)
    encoder = build_encoder(options.encoder, options.start())
    if not isinstance(encoder, TimmEncoder):
        raise RequestError(f"--encoder {options.encoder}: expected a model of timm; only these can be fine-tuned")
    return _Ready(encoder, device_of_rank(asked, local_rank), resolve_precision(options.precision, asked, encoder.spec))


def _gathered(options: FinetuneOptions, ready: _Ready, progress: Progress) -> Cohort:
    cohort = gather(options, ready.encoder.spec, ready.precision)
    for line in cohort.notes:
        progress.note(line)
    return cohort


def _outcomes(options: FinetuneOptions, cohort: Cohort, status: Status) -> list[Outcome]:
    failed = [Outcome(image_id, Status.FAILED, reason) for image_id, reason in cohort.failures.items()]
    facts: dict[str, Any] = {"weights": str(options.out), **last_facts(options)}
    facts |= {"train_slides": len(cohort.train), "val_slides": len(cohort.val)}
    return [Outcome(options.out.stem, status, facts=facts), *failed]


def _from_here(options: FinetuneOptions, progress: Progress) -> list[Outcome]:
    ready = _ready(options, 0)
    cohort = _gathered(options, ready, progress)
    with claim(options.out):
        if is_made(options, cohort):
            return _outcomes(options, cohort, Status.SKIPPED)
        if options.nproc == 1:
            _train(options, cohort, ready, Place(), None, _Bar(progress))
        else:
            del ready
            own = replace(options, nproc=1)
            _check_ends(run_ranks([partial(_rank, own, cohort)] * options.nproc, partial(_hear, _Bar(progress))))
    return _outcomes(options, cohort, Status.DONE)


def _check_ends(ends: list[RankEnd]) -> None:
    """Raise what stopped the ranks: an error on purpose first, then a death, then whatever the others met because."""
    errors = [end.error for end in ends if end.error is not None]
    told = [end for end in ends if end.died and end.exit_code not in (-15, 143)]  # 15: the others, which were stopped
    for error in errors:
        if isinstance(error, GigamilError):
            raise error
    if told:
        raise ItemError(f"{', '.join(end.told() for end in told)}: {AGAIN}")
    if errors:
        raise errors[0]
    if any(end.exit_code for end in ends):
        raise ItemError(f"{', '.join(end.told() for end in ends if end.exit_code)}: {AGAIN}")


def _rank(
    options: FinetuneOptions, cohort: Cohort, place: Place, store: Store, send: Callable[[Message], None]
) -> None:
    """Train as one of the ranks that `_from_here` started."""
    torch.set_num_threads(place.cpus())
    ready = _ready(options, place.local_rank)
    with process_group(place, ready.device, store) as group:
        _train(options, cohort, ready, place, group, _Messages(send) if place.rank == 0 else _Mute())
        group.from_first(None)  # the others wait until rank 0 has written
    send((JOINED, ()))  # only now: a rank that dies before must stop the others, which would wait for its gradients


def _under_torchrun(options: FinetuneOptions, place: Place, progress: Progress) -> list[Outcome]:
    torch.set_num_threads(place.cpus())
    ready = _ready(options, place.local_rank)
    with process_group(place, ready.device) as group:
        if place.rank:
            found = group.from_first(None)
            return _follow(options, found, ready, place, group)
        with ExitStack() as claims:
            try:
                cohort = _gathered(options, ready, progress)
                claims.enter_context(claim(options.out))
                made = is_made(options, cohort)
            except GigamilError as error:
                group.from_first(error)
                raise
            group.from_first(None if made else cohort)
            if not made:
                _train(options, cohort, ready, place, group, _Bar(progress))
                group.from_first(None)
            return _outcomes(options, cohort, Status.SKIPPED if made else Status.DONE)


def _follow(
    options: FinetuneOptions, found: Cohort | GigamilError | None, ready: _Ready, place: Place, group: Group
) -> list[Outcome]:
    if isinstance(found, GigamilError):
        raise found
    if found is not None:
        _train(options, found, ready, place, group, _Mute())
        group.from_first(None)
    return []


def _train(
    options: FinetuneOptions, cohort: Cohort, ready: _Ready, place: Place, group: Group | None, report: Report
) -> None:
    """Train to the end as one rank; the first writes the results."""
    spec = ready.encoder.spec
    if spec.weights_sha256 != cohort.weights_sha256:
        raise RequestError(f"rank {place.rank} has other weights of {spec.name} than rank 0: give all the same ones")
    setting = Setting(place, ready.device, ready.precision, spec, save=place.rank == 0)
    with reproducible_arithmetic():
        trainer = Trainer(options, cohort, build_model(options, ready.encoder, len(cohort.classes)), setting, report)
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
