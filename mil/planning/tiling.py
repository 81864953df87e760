"""Tiling: what the slides' headers and the costs of their kinds come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mil.accounting.ranges import NOTHING, Range, total
from mil.planning.calibration import Calibration, TilingCost
from mil.planning.estimate import StagePlan
from mil.planning.headers import Headers, SlideFacts

_HELPER_BYTES = 12e6
"""Of the process that Python starts beside workers."""
_BUSY = 0.1
"""Part of a processor that the process which leads the workers takes while they work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How many tiles the slides that are still to be tiled will have."""

    listed: Mapping[str, Range]
    """By image id."""
    stored: Range
    scale: float
    """All slides by those whose header was read."""
    unread: int


def plan_tiling(
    headers: Headers, calibration: Calibration, workers: int, done: int, *, sampled: bool = False
) -> tuple[StagePlan, Tiles]:
    """Return what tiling takes, and the tiles that come of it.

    Parameters
    ----------
    headers
        The slides that are still to be tiled.
    calibration
        What a unit costs.
    workers
        Processes; 0: this one alone.
    done
        Stores that are there.
    sampled
        Whether the costs were measured on some of these very slides, and not on others.
    """
    costs, notes = _costs(headers.slides, calibration)
    if sampled:
        costs = {kind: _of_population(own, _count(headers, kind)) for kind, own in costs.items()}
    pairs = [(facts, costs[facts.kind]) for facts in headers.slides]
    scale = headers.scale
    stored = total(cost.stored_share.times(facts.grid_tiles) for facts, cost in pairs).times(scale)
    listed = {facts.job.image_id: cost.listed_share.times(facts.grid_tiles) for facts, cost in pairs}
    tiles = Tiles(listed=listed, stored=stored, scale=scale, unread=headers.unread)
    if not headers.slides:
        return StagePlan(stage="tile", todo=headers.todo, done=done, seconds=NOTHING, peak_bytes=NOTHING), tiles
    serial = total(cost.slide_seconds for _, cost in pairs).times(scale)
    area = total(cost.area_seconds.times(facts.mpx) for facts, cost in pairs).times(scale)
    own = total(_product(cost.tile_seconds, cost.stored_share.times(facts.grid_tiles)) for facts, cost in pairs)
    own, fixed, at_once = own.times(scale), calibration.fixed, max(1, min(workers, calibration.machine.cpus))
    work = serial + area + own
    start = fixed.get("tile_seconds", 4.0) + fixed.get("worker_start_seconds", 2.0) * (max(1, workers) / at_once - 1)
    last = serial.times((1 - 1 / at_once) / headers.todo)
    spread = (1 + _BUSY) / at_once if workers else 1.0
    memory = _memory(pairs, fixed, workers, headers.todo)
    plan = StagePlan(
        stage="tile",
        todo=headers.todo,
        done=done,
        tiles=stored,
        seconds=Range.about(start, 0.3) + work.times(spread) + last,
        cpu_seconds=Range.about(_start_cpu(fixed, max(1, workers)), 0.3) + work.times(1 + _BUSY),
        peak_bytes=Range.about(memory + _HELPER_BYTES, 0.15),
        disk_bytes=_disk(pairs).times(scale),
        parts={
            "start": start,
            "tissue, metadata": (serial.times(spread) + last).expected,
            "reading whole slides": area.expected * spread,
            "tiles": own.expected * spread,
        },
        bottleneck=_bottleneck(serial, area, own, workers, calibration.machine.cpus),
        notes=[*notes, *_sampled(headers, costs)],
    )
    return plan, tiles


def _start_cpu(fixed: Mapping[str, float], workers: int) -> float:
    """Return the processor seconds of the start: one process that leads, and each worker."""
    return fixed.get("tile_seconds", 4.0) + (workers - 1) * fixed.get("worker_start_seconds", 2.0)


def _memory(
    pairs: Sequence[tuple[SlideFacts, TilingCost]], fixed: Mapping[str, float], workers: int, slides: int
) -> float:
    """Return the memory of all processes: of few slides, not each worker finds tissue and finishes a store."""
    most, own = max(cost.worker_bytes for _, cost in pairs), fixed.get("tile_bytes", 2e8)
    if workers == 0:
        return max(most, own)
    idle, busy = min(most, fixed.get("worker_bytes", most)), min(workers, slides)
    return own + busy * most + (workers - busy) * (idle + most) / 2


def _count(headers: Headers, kind: str) -> float:
    return sum(facts.kind == kind for facts in headers.slides) * headers.scale


def _of_population(cost: TilingCost, count: float) -> TilingCost:
    """Return a cost whose shares are as certain as so large a part of all slides makes them, and no more than 10 %."""
    left = max(0.0, 1 - cost.slides / max(1.0, count)) ** 0.5

    def certain(share: Range) -> Range:
        return Range.about(share.expected, share.error * left, 0.1)

    return replace(cost, stored_share=certain(cost.stored_share), listed_share=certain(cost.listed_share))


def _product(cost: Range, amount: Range) -> Range:
    """Return cost times amount; that both are at their worst together is not expected."""
    return Range.about(cost.expected * amount.expected, cost.error, amount.error)


def _disk(pairs: Sequence[tuple[SlideFacts, TilingCost]]) -> Range:
    stores = (_product(cost.tile_bytes, cost.stored_share.times(facts.grid_tiles)) for facts, cost in pairs)
    return total(stores) + total(cost.overview_bytes.times(facts.overview_px) for facts, cost in pairs)


def _costs(slides: Sequence[SlideFacts], calibration: Calibration) -> tuple[dict[str, TilingCost], list[str]]:
    """Return a cost for each kind; of one that was not measured that of the kind most like it, and a note."""
    costs, notes = dict[str, TilingCost](), []
    for kind in dict.fromkeys(facts.kind for facts in slides):
        known = calibration.tiling.get(kind)
        if known is None:
            known = max(calibration.tiling.values(), key=lambda own: _alike(own.kind, kind), default=GUESSED)
            told = "a guess" if known is GUESSED else f"taken for {known.kind}"
            notes.append(f"{kind}: not measured, {told}")
        costs[kind] = known
    return costs, notes


def _alike(one: str, other: str) -> int:
    """Return how many words two kinds share, the first ones first."""
    return sum(3 - min(2, i) for i, word in enumerate(one.split()) if word in other.split())


GUESSED = TilingCost(
    kind="",
    slides=0,
    slide_seconds=Range(0.2, 0.4, 1.0),
    area_seconds=Range(0.001, 0.005, 0.02),
    tile_seconds=Range(0.001, 0.004, 0.02),
    stored_share=Range(0.05, 0.3, 0.8),
    listed_share=Range(0.05, 0.25, 0.8),
    tile_bytes=Range(15e3, 90e3, 200e3),
    overview_bytes=Range(1.0, 3.0, 5.0),
    worker_bytes=300e6,
)
"""Of a kind that nobody measured anything like."""


def _bottleneck(serial: Range, area: Range, own: Range, workers: int, cpus: int) -> str:
    parts = {
        "finding tissue and writing metadata, slide by slide: nothing but more workers helps": serial.expected,
        "decoding whole slides, background too: a pyramid in the slides, or --downscale dct of JPEG, would save it": (
            area.expected
        ),
        "decoding and encoding tiles: --codec jpeg, where pixels may lose a little, is smaller and not slower": (
            own.expected
        ),
    }
    slowest = max(parts, key=lambda name: parts[name])
    return slowest + (f"; {cpus} CPUs for {workers} workers" if workers > cpus else "")


def _sampled(headers: Headers, costs: Mapping[str, TilingCost]) -> list[str]:
    counts = {kind: round(_count(headers, kind)) for kind in costs}
    shares = {kind: own.listed_share.expected for kind, own in costs.items()}
    lines = [
        f"{kind}: {costs[kind].slides} of {count} slides tiled in part, tiles on {shares[kind]:.0%}"
        for kind, count in counts.items()
        if costs[kind].slides
    ]
    if headers.unread:
        lines.append(
            f"{len(headers.slides)} of {headers.todo} headers read, drawn by chance; others by the size of their files"
        )
    return lines
