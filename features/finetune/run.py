"""`gigamil finetune`: in this process, in several that it starts, or under torchrun."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from features.agreement import agree, facts_of
from features.distributed import Group, Place, process_group, torchrun_place
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
from features.finetune.checkpoint import Standing, read_checkpoint
from features.finetune.cohort import Cohort, gather
from features.finetune.loop import Setting, Trainer
from features.finetune.model import build_model
from features.finetune.options import FinetuneOptions
from features.finetune.results import is_made, last_facts, write_results
from features.fork_server import start_for
from features.started import JOINED, Message, RankEnd, Sender, hear, run_ranks
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
    place = torchrun_place(options.nproc)
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
    start_for(options, __name__)
    device, encoder = _device(options, 0), _encoder(options)
    cohort = _gathered(options, encoder.spec, device, progress)
    with claim(options.out):
        if is_made(options, cohort):
            return _outcomes(options, cohort, Status.SKIPPED)
        if options.nproc == 1:
            _train(options, cohort, encoder, device, Group(), progress)
        else:
            del encoder
            own = replace(options, nproc=1)
            work = [partial(_rank, own, cohort)] * options.nproc
            _check_ends(run_ranks(work, partial(hear, progress), stall=options.stall))
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
        progress = cast("Progress", Sender(send)) if place.rank == 0 else Silent()
        _train(options, cohort, _encoder(options), device, group, progress)
        group.from_first(None)  # the others wait until rank 0 has written
    send((JOINED, ()))  # only now: a rank that dies before must stop the others, which would wait for its gradients


def _under_torchrun(options: FinetuneOptions, place: Place, progress: Progress) -> list[Outcome]:
    """Train as one of the ranks that torchrun started; rank 0 tells for all."""
    torch.set_num_threads(place.cpus())
    device = _device(options, place.local_rank)
    with ExitStack() as claims, process_group(place, device) as group:
        encoder = _encoder(options)
        agree(group, facts_of(device, resolve_precision(options.precision, device, encoder.spec)))
        if place.rank:
            found = group.from_first(None)
            if found is not None:
                _train(options, found, encoder, device, group, Silent())
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
            _train(options, cohort, encoder, device, group, progress)
            group.from_first(None)
        return _outcomes(options, cohort, Status.SKIPPED if made else Status.DONE)


def _train(
    options: FinetuneOptions,
    cohort: Cohort,
    encoder: TimmEncoder,
    device: torch.device,
    group: Group,
    progress: Progress,
) -> None:
    """Train to the end as one rank; the first writes the results."""
    place = group.place
    spec, precision = encoder.spec, str(cohort.recipe["precision"])
    if spec.weights_sha256 != cohort.weights_sha256:
        raise RequestError(f"rank {place.rank} has other weights of {spec.name} than rank 0: give all the same ones")
    check_precision(precision, device, place.rank)
    group.from_all(None)  # until every rank has loaded: from here on they wait for minutes only
    setting = Setting(place, device, precision, spec, save=place.rank == 0)
    with reproducible_arithmetic():
        trainer = Trainer(options, cohort, build_model(options, encoder, len(cohort.classes)), setting, progress)
        standing = _standing(options, cohort, group)
        if standing is not None:
            trainer.go_on_from(standing)
        left = (options.epochs - trainer.standing.epoch) * trainer.steps_per_epoch - trainer.standing.step
        tiles = round(left * trainer.tiles_per_epoch / trainer.steps_per_epoch)
        progress.begin(f"finetune {spec.name}", tiles, "tiles")
        model = trainer.run()
        if setting.save:
            write_results(options, cohort, model, trainer.standing)


def _standing(options: FinetuneOptions, cohort: Cohort, group: Group) -> Standing | None:
    """Return the checkpoint, which every rank reads; None where rank 0 has none."""
    path, rank = options.beside(".checkpoint"), group.place.rank
    there = path.exists()
    if there and options.overwrite and rank == 0:
        try:
            read_checkpoint(path, cohort.recipe)
        except RequestError:
            there = False
    if not group.from_first(there):
        return None
    if not path.exists():
        raise RequestError(f"rank {rank} does not see {path}: put --out into a folder that all nodes share")
    return read_checkpoint(path, cohort.recipe)
