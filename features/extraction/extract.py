"""Extraction: the tiles of a cohort through a frozen encoder, one bag per slide."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from features.agreement import agree, facts_of
from features.distributed import Group, Place, rank_group, torchrun_place
from features.encoders.device import (
    caution_of,
    check_compilable,
    check_precision,
    device_of_rank,
    hold,
    reproducible_arithmetic,
    resolve_device,
    resolve_precision,
)
from features.encoders.registry import build_encoder
from features.encoders.spec import Encoder, EncoderSpec, TunedEncoder
from features.extraction.collect import Collector
from features.extraction.ledger import Ledger
from features.extraction.options import ExtractOptions
from features.extraction.parts import remove_unfinished
from features.extraction.plan import Item, Job
from features.extraction.prepare import Request, prepare, settle
from features.extraction.remote import extract_to_url
from features.extraction.stream import GPU_LANES, StreamOptions, Task, TileStream
from features.fork_server import start_for
from features.started import JOINED, RankEnd, RankWork, Sender, hear, run_ranks
from wsi.errors import RequestError
from wsi.files.atomic import check_folder
from wsi.machine.interrupt import leave_if_asked
from wsi.machine.memory import keep_freed_memory
from wsi.options import stage
from wsi.progress.events import emit
from wsi.progress.outcome import Progress, Silent, Summary
from wsi.urls import url_of

MIB = 1 << 20
RANK_STALLS = 2.0
"""A rank is given up later than a read in it, which it gives up itself."""
UNFINISHED = "not finished: run the same command again"


@stage
def extract(options: ExtractOptions, progress: Progress | None = None) -> Summary:
    """Extract the bags of all stores.

    A store that is damaged fails alone. Bags that are there already, with the same recipe and intact, are skipped; what
    a stopped run had finished of a bag is used. In fp32 on a CPU the features are the same to the last bit for any
    ``nproc``, and within 1e-5 for any ``batch_size``. Under torchrun, rank 0 returns the outcomes of all, the others
    none. With ``nproc`` above 1 a program that calls this needs the ``if __name__ == "__main__"`` guard.

    Raises
    ------
    RequestError
        The encoder cannot be had, no store is found, or a bag was made with other settings.
    """
    progress = progress or Silent()
    if url_of(options.out):
        return extract_to_url(options, progress, _extract)
    return _extract(options, progress)


def _extract(options: ExtractOptions, progress: Progress) -> Summary:
    """Extract into a folder of this machine."""
    began = time.perf_counter()
    place = torchrun_place(options.nproc)
    check_folder(options.out)
    ledger = _under_torchrun(options, place, progress) if place else _from_here(options, progress)
    return Summary("extract", ledger.known(), time.perf_counter() - began, asdict(ledger.times))


def _encoder(options: ExtractOptions) -> Encoder:
    encoder = build_encoder(options.joined, options.start(), crop=options.crop)
    if options.compiled:
        check_compilable(encoder)
    return encoder


def _prepared(
    options: ExtractOptions, spec: EncoderSpec, device: torch.device, progress: Progress, claims: ExitStack
) -> tuple[Job, Ledger]:
    precision = resolve_precision(options.precision, device, spec)
    cautions = (spec.caution and f"caution: {spec.caution}", spec.weights_note, caution_of(precision, device))
    for line in filter(None, cautions):
        progress.note(line)
    request = Request(options, spec, precision, device.type)
    job, ledger = prepare(request, progress, claims)
    progress.begin(f"extract with {spec.name}", sum(slide.missing() for slide in job.slides), "tiles")
    return job, ledger


def _from_here(options: ExtractOptions, progress: Progress) -> Ledger:
    """Extract in this process, or in several that it starts."""
    start_for(options, __name__)
    with ExitStack() as claims:
        device, encoder = device_of_rank(resolve_device(options.device), 0), _encoder(options)
        job, ledger = _prepared(options, encoder.spec, device, progress, claims)
        if options.nproc == 1:
            _encode_share(options, job, encoder, device, Group(), ledger)
        else:
            del encoder
            _rounds(options, job, ledger)
        return _closed(ledger, progress)


def _closed(ledger: Ledger, progress: Progress) -> Ledger:
    progress.end()
    if ledger.times.encoding:
        progress.note(ledger.times.told())
    ledger.close(UNFINISHED)
    return ledger


def _rounds(options: ExtractOptions, job: Job, ledger: Ledger) -> None:
    """Let ranks work until nothing is left; after a round in which one died, the rest is shared anew.

    Ranks that died while they loaded are not started again. Two rounds in a row that finish nothing end it (one may be
    the bad luck of a rank that had taken everything): the slides that are left over fail.
    """
    nproc, barren = options.nproc, 0
    while left := sum(slide.missing() for slide in job.slides):
        ranks = min(nproc, len(job.items(nproc)))
        work: list[RankWork] = [partial(_rank, replace(options, nproc=1), job)] * ranks
        ends = run_ranks(work, partial(hear, ledger), together=False, stall=RANK_STALLS * options.stall)
        died = [end for end in ends if end.died]
        if died:
            _remove_unfinished(job)
        for end in ends:
            if end.error is not None:
                raise end.error
        job = settle(job, ledger)
        remains = sum(slide.missing() for slide in job.slides)
        if not died or not remains:
            return
        told = ", ".join(end.told() for end in died)
        nproc = max(1, ranks - sum(not end.joined for end in died))
        barren = barren + 1 if remains >= left and nproc == ranks else 0
        if barren > 1:
            ledger.close(_why_left(told, died))
            return
        ledger.note(f"{told}: what it had not finished is shared anew among {nproc}")


def _why_left(told: str, died: list[RankEnd]) -> str:
    if any(not end.joined for end in died):
        return f"not begun, for {told}: give it more memory, fewer --nproc or a smaller encoder"
    return f"not finished, for {told}: run it again with fewer --nproc or a smaller --batch-size and --prefetch-mib"


def _rank(options: ExtractOptions, job: Job, place: Place, store: Store, send: Any) -> None:
    """Work as one of the ranks that `_rounds` started."""
    torch.set_num_threads(place.cpus())
    with rank_group(place, store) as group:
        device, encoder = device_of_rank(resolve_device(options.device), place.local_rank), _encoder(options)
        send((JOINED, ()))
        _encode_share(options, job, encoder, device, group, cast("Ledger", Sender(send)))


def _under_torchrun(options: ExtractOptions, place: Place, progress: Progress) -> Ledger:
    """Extract as one of the ranks that torchrun started, on one node or many; rank 0 knows and tells the outcomes."""
    torch.set_num_threads(place.cpus())
    with ExitStack() as claims, rank_group(place) as group:
        device, encoder = device_of_rank(resolve_device(options.device), place.local_rank), _encoder(options)
        agree(group, facts_of(device, resolve_precision(options.precision, device, encoder.spec)))
        if place.rank:
            job = group.from_first(None)
            if job is not None:
                own = Ledger(job.slides, Silent(), encoder.spec.trained)
                own.share_bar(partial(group.add, "tiles"))
                _encode_share(options, job, encoder, device, group, own)
                group.leave(own.packed())
            return Ledger((), Silent(), encoder.spec.trained)
        try:
            job, ledger = _prepared(options, encoder.spec, device, progress, claims)
        except BaseException:
            group.from_first(None)
            raise
        group.from_first(job)
        ledger.share_bar(partial(group.add, "tiles"))
        _encode_share(options, job, encoder, device, group, ledger)
        lost = False
        for rank, packed in group.ends():
            if packed is None:
                lost = True
                ledger.note(f"rank {rank} gives no sign of life any more: what it had not finished is done here")
            else:
                ledger.take_in(packed)
        if lost:
            _do_what_is_left(options, job, encoder, device, ledger)
        return _closed(ledger, progress)


def _remove_unfinished(job: Job) -> None:
    """Remove what a rank that died was writing."""
    for slide in job.slides:
        if slide.wanted:
            remove_unfinished(slide)


def _do_what_is_left(options: ExtractOptions, job: Job, encoder: Encoder, device: torch.device, ledger: Ledger) -> None:
    """Encode what a rank that died had in hand; the others have left."""
    _remove_unfinished(job)
    _encode_share(options, settle(job, ledger), encoder, device, Group(), ledger)


def _tasks(items: list[Item], group: Group) -> Iterator[Task]:
    while (number := group.next_item()) < len(items):
        for batch in items[number]:
            yield Task(number, batch)


def _encode_share(
    options: ExtractOptions, job: Job, encoder: Encoder, device: torch.device, group: Group, ledger: Ledger
) -> None:
    """Take items until none is left; write bags and parts. Stopped, leave what is finished as parts."""
    place = group.place
    _make_ready(job, encoder, device, place)
    items, on_gpu = job.items(place.world), device.type == "cuda"
    stream_options = StreamOptions(
        device=device,
        readers=max(2, place.cpus()) if on_gpu else max(1, place.cpus() // 2),
        lanes=GPU_LANES if on_gpu else place.cpus(),
        prefetch_bytes=options.prefetch_mib * MIB,
        stall=options.stall,
    )
    keep_freed_memory()
    collector = Collector(job, items, group, ledger)
    with reproducible_arithmetic():
        stream = TileStream(job, _tasks(items, group), encoder.to(device), stream_options)
        with closing(iter(stream)) as tasks:
            try:
                for task in tasks:
                    collector.take(task)
                    leave_if_asked()
            except BaseException:
                collector.keep()
                emit("steps", spent=asdict(stream.times))
                raise
    ledger.spent(stream.times)


def _make_ready(job: Job, encoder: Encoder, device: torch.device, place: Place) -> None:
    """Let the encoder run as the job wants it; refuse a rank that would make other features than the first."""
    spec = encoder.spec
    if spec.weights_sha256 != job.weights_sha256:
        raise RequestError(f"rank {place.rank} has other weights of {job.encoder} than rank 0: give all the same ones")
    if device.type != job.device_type:
        raise RequestError(
            f"rank {place.rank} would run on {device.type}, and rank 0 on {job.device_type}: give all the same --device"
        )
    check_precision(job.precision, device, place.rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    hold(encoder, job.precision)
    if isinstance(encoder, TunedEncoder):
        if not job.channels_last:
            encoder.keep_channels_first()
        if job.compiled:
            encoder.compile()
