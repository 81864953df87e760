"""Tiling measured: slides of each kind tiled in part by the tiler's own workers, and what a unit of each kind costs."""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, as_completed
from scipy.optimize import nnls

from mil.accounting.ranges import Range
from mil.accounting.spent import own_peak_bytes
from mil.planning.calibration import TilingCost
from mil.planning.headers import SlideFacts
from mil.planning.trials.slide import Sample, sample_slide
from wsi.files.atomic import make_folder
from wsi.machine.cpu import usable_cpus
from wsi.tiling.cluster import dask_client
from wsi.tiling.engine import reason
from wsi.tiling.options import TileOptions

MOST_WORKERS = 8
"""Workers that measure."""
_PATIENCE = 3.0
"""By how much longer it may take where others use the processors, too."""
NOISE = 0.15
"""By which the speed of a machine differs from minute to minute."""


@dataclass(slots=True)
class TileTrial:
    """What was measured."""

    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Image id -> why it could not be tiled in part, either."""
    fixed: dict[str, float] = field(default_factory=dict)
    load: float = 1.0
    """By which everything was slower than on an idle machine, for others had the processors."""


def try_tiling(slides: Sequence[SlideFacts], options: TileOptions, out: Path, seconds: float) -> TileTrial:
    """Tile parts of slides, of each kind in turn, until the time is over; each kind at least once.

    Runs in a process of its own: start and memory are those of a command. ``out`` gets a store for each slide.
    """
    make_folder(out)
    trial, workers = TileTrial(), min(MOST_WORKERS, workers_of(options))
    options = replace(options.absolute(), out=out, workers=workers, scheduler=None)
    with dask_client(workers, None) as (client, threads):
        started = client.gather([client.submit(_ready, pure=False) for _ in range(max(1, threads))])
        start_seconds, start_bytes = (max(own) for own in zip(*started, strict=True))
        trial.fixed["tile_seconds"] = time.process_time() + (start_seconds if workers else 0.0)
        trial.fixed |= {"worker_start_seconds": start_seconds, "worker_bytes": start_bytes}
        _run(client, max(1, threads), slides, options, seconds, trial)
        closing = time.process_time()
    trial.fixed["tile_seconds"] += time.process_time() - closing
    trial.fixed["tile_bytes"] = own_peak_bytes()
    trial.load = max(1.0, sum(s.wall for s in trial.samples) / max(1e-9, sum(s.seconds for s in trial.samples)))
    return trial


def workers_of(options: TileOptions) -> int:
    """Return the workers that tile; 0: this process alone."""
    return usable_cpus() if options.workers is None else options.workers


def _ready() -> tuple[float, float]:
    """Return the processor time that this worker took to start, and the memory that it has."""
    import wsi.tiling.tasks.region  # noqa: F401  # what a worker's first task waits for

    time.sleep(0.1)  # so that each of the workers gets one
    return time.process_time(), float(own_peak_bytes())


def _run(
    client: Client, threads: int, slides: Sequence[SlideFacts], options: TileOptions, seconds: float, trial: TileTrial
) -> None:
    began, waiting = time.monotonic(), iter(in_turns(slides))
    kinds = len({own.kind for own in slides})
    running = as_completed(with_results=False, raise_errors=False)
    asked: dict[str, SlideFacts] = {}

    def ask() -> None:
        spent = max(sum(own.seconds for own in trial.samples) / threads, (time.monotonic() - began) / _PATIENCE)
        late = spent > seconds and len(trial.samples) + len(asked) >= kinds
        facts = None if late else next(waiting, None)
        if facts is not None:
            future = client.submit(sample_slide, facts.job, options, pure=False)
            asked[future.key] = facts
            running.add(future)

    for _ in range(threads):
        ask()
    while asked:
        future = next(running)
        facts = asked.pop(future.key)
        try:
            trial.samples.append(future.result())
        except Exception as error:  # whatever a worker raises belongs to this slide alone
            trial.failures[facts.job.image_id] = reason(error)
        ask()


def in_turns(slides: Sequence[SlideFacts]) -> Iterable[SlideFacts]:
    """Give slides of each kind in turn; within a kind, large and small ones evenly."""
    kinds: dict[str, list[SlideFacts]] = {}
    for own in sorted(slides, key=lambda own: own.mpx):
        kinds.setdefault(own.kind, []).append(own)
    spread = [[own[i] for i in _halving(len(own))] for own in kinds.values()]
    for row in zip_longest(*spread):
        yield from (own for own in row if own is not None)


def _halving(count: int) -> list[int]:
    """Return the numbers below a count so that however many are taken, they are evenly spread (van der Corput)."""
    bits = max(1, (count - 1).bit_length())
    order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits)]
    middle = count // 2
    return [(i + middle) % count for i in order if i < count]


def costs_of(samples: Sequence[Sample]) -> dict[str, TilingCost]:
    """Return what a unit costs, by kind."""
    kinds: dict[str, list[Sample]] = {}
    for sample in samples:
        kinds.setdefault(sample.facts.kind, []).append(sample)
    return {kind: _cost(kind, own) for kind, own in kinds.items()}


def _cost(kind: str, own: Sequence[Sample]) -> TilingCost:
    area, tile = _fitted([piece for sample in own for piece in sample.regions])
    bands = [piece for sample in own for piece in sample.bands]
    area += sum(p.seconds for p in bands) / max(1e-9, sum(p.mpx for p in bands))
    grid = [sample.facts.grid_tiles for sample in own]
    written = sum(piece.tiles for sample in own for piece in sample.regions)
    overviews = [sample.facts.overview_px for sample in own if sample.store]
    return TilingCost(
        kind=kind,
        slides=len(own),
        slide_seconds=Range.about(float(np.mean([sample.serial_seconds for sample in own])), NOISE),
        area_seconds=Range.about(area, NOISE),
        tile_seconds=Range.about(tile, NOISE),
        stored_share=_ratio([sample.stored for sample in own], grid),
        listed_share=_ratio([sample.listed for sample in own], grid),
        tile_bytes=Range.about(sum(sample.tile_bytes for sample in own) / max(1, written), 0.1),
        overview_bytes=_ratio([sample.side_bytes for sample in own if sample.store], overviews),
        worker_bytes=float(max(sample.worker_bytes for sample in own)),
    )


def _fitted(pieces: Sequence[Any]) -> tuple[float, float]:
    """Return the seconds for each Mpx and for each tile that explain the pieces best; neither below zero."""
    if not pieces:
        return 0.0, 0.0
    wanted = np.array([[piece.mpx, piece.tiles] for piece in pieces], float)
    with suppress(RuntimeError):  # it does not settle
        (area, tile), _ = nnls(wanted, np.array([piece.seconds for piece in pieces]))
        return float(area), float(tile)
    return 0.0, sum(p.seconds for p in pieces) / max(1, sum(p.tiles for p in pieces))


def _ratio(parts: Sequence[float], wholes: Sequence[float]) -> Range:
    """Return the sum of parts by the sum of wholes, with the error of a ratio of so few."""
    if not wholes or not sum(wholes):
        return Range(0.0, 0.0, 0.0)
    x, y = np.asarray(wholes, float), np.asarray(parts, float)
    ratio = float(y.sum() / x.sum())
    if len(x) < 2:
        return Range(0.6 * ratio, ratio, 1.5 * ratio)
    error = float(np.std(y - ratio * x, ddof=1) * len(x) ** 0.5 / x.sum())
    return Range(max(0.0, ratio - 1.65 * error), ratio, ratio + 1.65 * error)
