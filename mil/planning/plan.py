"""`gigamil plan`: before anything runs, what a cohort will take: time, memory, disk, price; and whether it fits."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mil.accounting.kept import earlier, keep_estimate
from mil.accounting.ranges import NOTHING, Range, largest, total
from mil.auto.choose import planned as rules_planned
from mil.auto.fingerprint import labelled, of_bags
from mil.planning.advice import disk_advice, extraction_advice, tiling_advice, training_advice
from mil.planning.calibration import Calibration, EncoderCost, read_calibration, write_calibration
from mil.planning.estimate import Plan, StagePlan
from mil.planning.extraction import Bags, chosen, plan_extraction
from mil.planning.headers import Headers, read_headers
from mil.planning.history import epochs_before
from mil.planning.machine import free_disk, this_machine
from mil.planning.options import PlanOptions
from mil.planning.request import Extraction, Request, Training, request_of
from mil.planning.tiling import Tiles, plan_tiling
from mil.planning.training import Trained, plan_training
from mil.planning.trials.measuring import Measuring
from wsi.errors import GigamilError, RequestError
from wsi.machine.cpu import usable_cpus
from wsi.options import stage
from wsi.progress.outcome import Progress, Silent
from wsi.store.tile_store import TileStore

_BUSY = 1.3
"""From this factor on it is told that others use the machine."""


@dataclass(slots=True)
class _Planned:
    """A plan that is being made."""

    request: Request
    options: PlanOptions
    calibration: Calibration
    measuring: Measuring | None
    """None where what was measured elsewhere counts."""
    stages: list[StagePlan] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    begun: float = 0.0
    """Seconds of the start that the stages of one process share, as far as those planned until now take them."""


@stage
def plan(options: PlanOptions, progress: Progress | None = None) -> Plan:
    """Estimate what a cohort will take; nothing is made of it.

    Slides that cannot be read are named and left out of every sum. Parts of some slides are tiled in a temporary
    folder beside the outputs, an encoder runs on some tiles, heads train for an epoch or two: so the estimate follows
    the machine, the disk and the settings. With ``calibrated`` nothing is measured.

    Raises
    ------
    RequestError
        The cohort's file, the calibration or the options are wrong, or there are no slides that can be read.
    """
    progress, request = progress or Silent(), request_of(options)
    calibration = read_calibration(options.calibrated) if options.calibrated else Calibration(machine=this_machine())
    with _scratch(request.place) as scratch:
        measuring = None if options.calibrated else Measuring(scratch, options.seconds, progress)
        planned = _Planned(request, options, calibration, measuring)
        headers = read_headers(request.jobs, request.tile, scratch, progress)
        planned.failures.update(headers.failures)
        if headers.failures and not headers.slides and not request.stores:
            raise RequestError(
                f"no slide can be read, of {len(headers.failures)}: {next(iter(headers.failures.values()))}"
            )
        headers, tiles = _tiling(planned, headers)
        _extractions(planned, headers, tiles)
    if options.calibrate:
        write_calibration(options.calibrate, planned.calibration)
    return _finished(planned, headers)


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    """Give a temporary folder on the disk that will be written to, where that is allowed; gone at the end."""
    parent = place.absolute()
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    try:
        folder = tempfile.TemporaryDirectory(prefix=".gigamil-plan-", dir=parent)
    except OSError:
        folder = tempfile.TemporaryDirectory(prefix="gigamil-plan-")
    with folder as name:
        yield Path(name)


def _tiling(planned: _Planned, headers: Headers) -> tuple[Headers, Tiles]:
    request, measuring = planned.request, planned.measuring
    if measuring is not None and headers.slides:
        found, failures = measuring.tiling(headers.slides, request.tile)
        planned.calibration = planned.calibration.joined(found)
        planned.failures.update(failures)
        left = tuple(own for own in headers.slides if own.job.image_id not in failures)
        headers = replace(headers, slides=left)
    workers = usable_cpus() if request.tile.workers is None else request.tile.workers
    if planned.options.calibrated and request.tile.workers is None:
        workers = planned.calibration.machine.cpus
    done, sampled = len(request.stores), measuring is not None
    found_stage, tiles = plan_tiling(headers, planned.calibration, workers, done, sampled=sampled)
    if request.jobs or request.stores:
        planned.stages.append(found_stage)
    costs = {
        own.kind: planned.calibration.tiling[own.kind]
        for own in headers.slides
        if own.kind in planned.calibration.tiling
    }
    planned.advice += tiling_advice(found_stage, costs, max(1, workers), planned.calibration.machine)
    return headers, tiles


def _extractions(planned: _Planned, headers: Headers, tiles: Tiles) -> None:
    """Plan extraction, encoder by encoder, and the trainings on their bags."""
    there = {name: Range.exactly(TileStore(path).n_tiles) for name, path in planned.request.stores.items()}
    every = {**there, **{name: own for name, own in tiles.listed.items() if name not in planned.failures}}
    widths: dict[str, int] = {}
    request = planned.request
    for extraction in request.extractions:
        cost = _encoder_cost(planned, extraction)
        if cost is None:
            continue
        widths[extraction.options.joined] = cost.dim
        wanted = extraction.waiting
        own = {name: amount for name, amount in every.items() if wanted is None or name in wanted}
        new = total(amount for name, amount in own.items() if name in tiles.listed).expected
        every_tile = total(own.values()).expected
        scale = 1 + new * (tiles.scale - 1) / every_tile if every_tile else 1.0
        bags = Bags(tiles=own, scale=scale, unread=tiles.unread, done=extraction.done)
        found = plan_extraction(extraction.options, cost, bags, planned.calibration)
        planned.stages.append(found)
        if request.folder is not None and found.todo:
            planned.begun = max(planned.begun, cost.start_seconds)
        planned.advice += extraction_advice(found, extraction.options, cost, planned.calibration.machine)
    _trainings(planned, every, tiles, widths)


def _encoder_cost(planned: _Planned, extraction: Extraction) -> EncoderCost | None:
    """Return what the encoder costs: measured now, or in the calibration, or by its operations; None, and a note."""
    options, tile_px = extraction.options, planned.request.tile.tile_px
    side = tile_px if isinstance(tile_px, int) else 256
    try:
        if planned.measuring is not None:
            found = planned.measuring.encoder(options, tuple(planned.request.stores.values()), side)
            planned.calibration = planned.calibration.joined(found)
        from mil.planning.trials.measuring import known_encoder

        return known_encoder(planned.calibration, options, side)
    except GigamilError as error:
        planned.notes.append(f"extract {options.joined} is not in the plan: {error}")
        return None


def _trainings(planned: _Planned, every: Mapping[str, Range], tiles: Tiles, widths: Mapping[str, int]) -> None:
    request = planned.request
    by_width: dict[int, list[Training]] = {}
    for training in request.trainings:
        names = training.encoder.split(",")
        known = [widths[name] for name in names if name in widths]
        if len(known) < len(names):
            planned.notes.append(
                f"train {training.name} is not in the plan: the width of {training.encoder} is not known"
            )
            continue
        width = sum(known) if training.options.fusion == "concat" else known[0]
        by_width.setdefault(width, []).append(training)
    for width, trainings in by_width.items():
        bags = _trained(request, trainings[0], every, tiles, width)
        trainings = [_by_rules(planned, own, bags) for own in trainings]
        if planned.measuring is not None:
            stores = tuple(request.stores.values())
            found = planned.measuring.heads([own.options for own in trainings], bags.sizes, width, stores)
            planned.calibration = planned.calibration.joined(found)
        fixed = planned.calibration.fixed
        planned.begun = min(planned.begun, fixed.get("start_seconds", 0.0))  # what both of them import
        for training in trainings:
            earlier_epochs = epochs_before(request.folder)
            found_stage = plan_training(training, bags, planned.calibration, earlier_epochs, planned.begun)
            planned.stages.append(found_stage)
            if request.folder is not None and found_stage.todo:
                planned.begun = fixed.get("start_seconds", 0.0) + fixed.get("first_seconds", 0.0)
            planned.advice += training_advice(found_stage, training.options, planned.calibration.machine)


def _by_rules(planned: _Planned, training: Training, bags: Trained) -> Training:
    """Return a training with the options that --auto will choose for bags of these sizes, and note them."""
    if not training.options.auto or not bags.sizes:
        return training
    rows = labelled(training.options)
    sizes = {row.image_id: bags.sizes[i % len(bags.sizes)] for i, row in enumerate(rows)}
    found = rules_planned(training.options, of_bags(training.options, rows, sizes, bags.dim))
    planned.notes.append(f"train {training.name} {found.note}")
    return replace(training, options=found.options)


def _trained(request: Request, training: Training, every: Mapping[str, Range], tiles: Tiles, width: int) -> Trained:
    """Return the sizes of the bags that are trained on."""
    options = next((own.options for own in request.extractions if own.options.joined == training.encoder), None)
    wanted = [own for name, own in every.items() if request.labelled is None or name in request.labelled]
    ranges = [chosen(options, own) if options else own for own in wanted]
    sizes = [max(1, round(own.expected)) for own in ranges]
    copies = round(len(sizes) * (tiles.scale - 1)) if tiles.unread and sizes else 0
    sizes += [sizes[i * len(sizes) // copies] for i in range(copies)] if copies else []
    return Trained(sizes=tuple(sizes), error=total(ranges).error, dim=width)


def _finished(planned: _Planned, headers: Headers) -> Plan:
    request, options = planned.request, planned.options
    free = free_disk(request.place)
    planned.advice += disk_advice(planned.stages, free)
    loads = planned.measuring.loads if planned.measuring else {}
    slower = max(loads.values(), default=1.0)
    if slower > _BUSY:
        planned.notes.append(
            f"others use the processors now: beside them all takes up to {slower:.1f} times as long as here, where the "
            "machine is taken to be idle"
        )
    if request.folder is not None and not options.calibrated:
        try:
            _keep(request.folder, planned.stages, loads)
        except (RequestError, OSError) as error:  # a plan is told where nothing may be written, too
            planned.notes.append(f"not kept for a comparison with the truth: {error}")
    machine = planned.calibration.machine
    return Plan(
        stages=tuple(planned.stages),
        machine=machine,
        memory_bytes=machine.memory_bytes,
        free_bytes=free,
        slides=len(request.jobs) + len(request.stores),
        slide_bytes=sum(own.bytes for own in headers.slides) * headers.scale,
        headers=len(headers.slides),
        failures=planned.failures,
        price=options.price,
        advice=tuple(planned.advice),
        notes=tuple(planned.notes),
        earlier=tuple(earlier(request.folder)) if request.folder else (),
    )


def _keep(folder: Path, stages: Sequence[StagePlan], loads: Mapping[str, float]) -> None:
    """Keep the estimates, those of one stage together, where the folder is there or can be made."""
    from wsi.files.atomic import make_folder

    told = {}
    for name in dict.fromkeys(own.stage for own in stages):
        own = [found for found in stages if found.stage == name and found.todo]
        if own:
            sums = {key: total(getattr(one, key) for one in own) for key in ("seconds", "cpu_seconds", "disk_bytes")}
            peaks = {key: largest(getattr(one, key) for one in own) for key in ("peak_bytes", "gpu_bytes")}
            ranges = {key: value.as_dict() for key, value in (sums | peaks).items() if value != NOTHING}
            told[name] = {"todo": sum(one.todo for one in own), "load": round(loads.get(name, 1.0), 3), **ranges}
    if told:
        make_folder(folder, "folder")
        keep_estimate(folder, told)
