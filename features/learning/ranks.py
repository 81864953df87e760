"""A training of an encoder as a job: in this process, in several that it starts, or under torchrun."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from features.agreement import agree, facts_of
from features.distributed import Group, Place, process_group, torchrun_place
from features.encoders.device import check_precision, device_of_rank, resolve_device, resolve_precision
from features.encoders.registry import build_encoder
from features.encoders.spec import EncoderSpec, WeightsChoice
from features.encoders.timm_encoder import TimmEncoder
from features.fork_server import start_for
from features.learning.checkpoint import Standing, read_checkpoint
from features.started import JOINED, Message, RankEnd, Sender, hear, run_ranks
from wsi.errors import GigamilError, ItemError, RequestError
from wsi.files.claim import claim
from wsi.progress.outcome import Outcome, Progress, Silent, Status
from wsi.recipe import Recipe

AGAIN = "run the same command again to go on from the checkpoint"


class JobOptions(Protocol):
    """What options of every such verb tell."""

    @property
    def encoder(self) -> str: ...
    @property
    def out(self) -> Path: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def nproc(self) -> int: ...
    @property
    def stall(self) -> float: ...
    @property
    def overwrite(self) -> bool: ...
    def beside(self, ending: str) -> Path: ...
    def start(self) -> WeightsChoice: ...


class Gathered(Protocol):
    """What is trained on; the same in every process."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def weights_sha256(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


Options = TypeVar("Options", bound=JobOptions)
Cohort = TypeVar("Cohort", bound=Gathered)


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how a rank works."""

    place: Place
    device: torch.device
    precision: str
    spec: EncoderSpec
    save: bool
    """True for the rank that writes."""


@dataclass(frozen=True, slots=True)
class Job(Generic[Options, Cohort]):
    """What a verb does; functions of modules, so that it goes to the ranks."""

    module: str
    """Loaded by the processes that are started."""
    gather: Callable[[Options, TimmEncoder, str], Cohort]
    """From options, encoder and precision, on the first rank alone."""
    is_made: Callable[[Options, Cohort], bool]
    train: Callable[[Options, Cohort, TimmEncoder, Setting, Group, Progress], None]
    """Train to the end as one rank; the first writes the results."""
    outcomes: Callable[[Options, Cohort, Status], list[Outcome]]


def run_job(job: Job[Options, Cohort], options: Options, progress: Progress) -> list[Outcome]:
    """Do the job, or find it done.

    Raises
    ------
    RequestError
        The inputs do not fit each other, or the weights there were made with other settings.
    ItemError
        A rank died.
    """
    place = torchrun_place(options.nproc)
    return _under_torchrun(job, options, place, progress) if place else _from_here(job, options, progress)


def _encoder(options: JobOptions) -> TimmEncoder:
    encoder = build_encoder(options.encoder, options.start())
    if not isinstance(encoder, TimmEncoder):
        raise RequestError(f"encoder {options.encoder}: expected a model of timm; only these can be trained")
    return encoder


def _device(options: JobOptions, local_rank: int) -> torch.device:
    return device_of_rank(resolve_device(options.device), local_rank)


def _gathered(
    job: Job[Options, Cohort], options: Options, encoder: TimmEncoder, device: torch.device, progress: Progress
) -> Cohort:
    cohort = job.gather(options, encoder, resolve_precision(options.precision, device, encoder.spec))
    for line in (*cohort.notes, *filter(None, [encoder.spec.weights_note])):
        progress.note(line)
    return cohort


def _from_here(job: Job[Options, Cohort], options: Options, progress: Progress) -> list[Outcome]:
    start_for(options, job.module)
    device, encoder = _device(options, 0), _encoder(options)
    cohort = _gathered(job, options, encoder, device, progress)
    with claim(options.out):
        if job.is_made(options, cohort):
            return job.outcomes(options, cohort, Status.SKIPPED)
        if options.nproc == 1:
            _train(job, options, cohort, encoder, device, Group(), progress)
        else:
            del encoder
            own = replace(options, nproc=1)  # type: ignore[type-var]
            work = [partial(_rank, job, own, cohort)] * options.nproc
            _check_ends(run_ranks(work, partial(hear, progress), stall=options.stall))
    return job.outcomes(options, cohort, Status.DONE)


def _check_ends(ends: list[RankEnd]) -> None:
    """Raise what stopped the ranks: an error on purpose first, then a death, then whatever the others met because."""
    errors = [end.error for end in ends if end.error is not None]
    told = [replace(end, joined=True) for end in ends if end.died]  # ranks say so at their end, not when they loaded
    for error in errors:
        if isinstance(error, GigamilError):
            raise error
    if told:
        raise ItemError(f"{', '.join(end.told() for end in told)}: {AGAIN}")
    if errors:
        raise errors[0]


def _rank(
    job: Job[Options, Cohort],
    options: Options,
    cohort: Cohort,
    place: Place,
    store: Store,
    send: Callable[[Message], None],
) -> None:
    """Train as one of the ranks that `_from_here` started."""
    torch.set_num_threads(place.cpus())
    device = _device(options, place.local_rank)
    with process_group(place, device, store) as group:
        progress = cast("Progress", Sender(send)) if place.rank == 0 else Silent()
        _train(job, options, cohort, _encoder(options), device, group, progress)
        group.from_first(None)  # the others wait until rank 0 has written
    send((JOINED, ()))  # only now: a rank that dies before must stop the others, which would wait for its gradients


def _under_torchrun(job: Job[Options, Cohort], options: Options, place: Place, progress: Progress) -> list[Outcome]:
    """Train as one of the ranks that torchrun started; rank 0 tells for all."""
    torch.set_num_threads(place.cpus())
    device = _device(options, place.local_rank)
    with ExitStack() as claims, process_group(place, device) as group:
        encoder = _encoder(options)
        agree(group, facts_of(device, resolve_precision(options.precision, device, encoder.spec)))
        if place.rank:
            found = group.from_first(None)
            if found is not None:
                _train(job, options, found, encoder, device, group, Silent())
                group.from_first(None)
            return []
        made = True
        try:
            cohort = _gathered(job, options, encoder, device, progress)
            claims.enter_context(claim(options.out))
            made = job.is_made(options, cohort)
        finally:
            group.from_first(None if made else cohort)
        if not made:
            _train(job, options, cohort, encoder, device, group, progress)
            group.from_first(None)
        return job.outcomes(options, cohort, Status.SKIPPED if made else Status.DONE)


def _train(
    job: Job[Options, Cohort],
    options: Options,
    cohort: Cohort,
    encoder: TimmEncoder,
    device: torch.device,
    group: Group,
    progress: Progress,
) -> None:
    place = group.place
    spec, precision = encoder.spec, str(cohort.recipe["precision"])
    if spec.weights_sha256 != cohort.weights_sha256:
        raise RequestError(f"rank {place.rank} has other weights of {spec.name} than rank 0: give all the same ones")
    check_precision(precision, device, place.rank)
    group.from_all(None)  # until every rank has loaded: from here on they wait for minutes only
    job.train(options, cohort, encoder, Setting(place, device, precision, spec, place.rank == 0), group, progress)


def standing_of(options: JobOptions, recipe: Recipe, group: Group) -> Standing | None:
    """Return the checkpoint, which every rank reads; None where rank 0 has none."""
    path, rank = options.beside(".checkpoint"), group.place.rank
    there = path.exists()
    if there and options.overwrite and rank == 0:
        try:
            read_checkpoint(path, recipe)
        except RequestError:
            there = False
    if not group.from_first(there):
        return None
    if not path.exists():
        raise RequestError(f"rank {rank} does not see {path}: put --out into a folder that all nodes share")
    return read_checkpoint(path, recipe)
