"""Extraction: what tiles and an encoder's cost come to."""

from collections.abc import Mapping
from dataclasses import dataclass

from features.extraction.options import ExtractOptions
from mil.accounting.ranges import Range, total
from mil.planning.calibration import Calibration, EncoderCost
from mil.planning.estimate import StagePlan

MIB = 1 << 20
VIEWS = {"none": 1, "flips": 4, "d4": 8, "colour": 5}
"""How often each tile goes through the encoder (`features.views`)."""
BAG_BYTES, BAG_SECONDS = 9_000.0, 0.01
"""Of a bag beside its rows, on disk in whole blocks; and of writing one."""
GPU_ROOM = 0.92
"""Part of a GPU's memory that may be filled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bags:
    """The tiles that an encoder is to see."""

    tiles: Mapping[str, Range]
    """By image id, of the bags that are still to be made, as far as their slides are known one by one."""
    scale: float
    """By which there are more tiles than these."""
    unread: int
    """Further bags, of slides whose header was not read."""
    done: int

    @property
    def todo(self) -> int:
        """Bags to be made."""
        return len(self.tiles) + self.unread


def chosen(options: ExtractOptions, tiles: Range) -> Range:
    """Return how many of a slide's tiles are encoded."""
    most = options.tiles_per_slide if options.select != "all" else float("inf")
    return Range(min(tiles.low, most), min(tiles.expected, most), min(tiles.high, most))


def plan_extraction(options: ExtractOptions, cost: EncoderCost, bags: Bags, calibration: Calibration) -> StagePlan:
    """Return what an extraction takes on the machine of the calibration."""
    machine, views = calibration.machine, VIEWS[options.views]
    tiles = total(chosen(options, own) for own in bags.tiles.values()).times(bags.scale)
    gpu, cpus = cost.device == "cuda", machine.cpus
    ranks = options.nproc if not gpu else min(options.nproc, max(1, machine.gpus))
    reading = cost.read_seconds / min(cpus, max(2, cpus // ranks) * ranks)
    encoding = cost.tile_seconds.times(views / (ranks if gpu else 1))
    tile = _slower(encoding, reading) if gpu else encoding + Range.about(reading, 0.2)
    seconds = Range.about(
        tile.expected * tiles.expected + BAG_SECONDS * bags.todo, tile.error, tiles.error
    ) + Range.about(cost.start_seconds, 0.3)
    processor = (cost.cpu_tile_seconds * views + cost.read_seconds) * tiles.expected
    rows = tiles.times(VIEWS[options.views] if options.keep_views else 1)
    width = cost.dim * (4 if options.bag_dtype == "float32" else 2) + 16
    read_first = reading > encoding.expected
    return StagePlan(
        stage="extract",
        name=options.joined,
        todo=bags.todo,
        done=bags.done,
        tiles=tiles,
        seconds=seconds,
        cpu_seconds=Range.about(processor + cost.start_seconds * options.nproc, tile.error, tiles.error),
        peak_bytes=Range.about(memory_of(options, cost, options.batch_size, tiles.expected), 0.2),
        gpu_bytes=Range.about(gpu_memory_of(cost, options.batch_size), 0.1) if gpu else Range(0, 0, 0),
        disk_bytes=rows.times(width) + Range.about(BAG_BYTES * bags.todo, 0.1),
        parts={
            "start": cost.start_seconds,
            "reading": reading * tiles.expected,
            "encoding": encoding.expected * tiles.expected,
            "writing": BAG_SECONDS * bags.todo,
        },
        bottleneck="reading and decoding tiles: more CPUs, or --codec auto or zstd when tiling"
        if read_first
        else f"the encoder on the {'GPU' if gpu else 'CPU'}: {1 / max(encoding.expected, 1e-9):,.0f} tiles a second",
        notes=_notes(options, cost),
    )


def _slower(encoding: Range, reading: float) -> Range:
    return Range(*(max(own, reading) for own in (encoding.low, encoding.expected, encoding.high)))


def memory_of(options: ExtractOptions, cost: EncoderCost, batch: int, tiles: float) -> float:
    """Return the resident memory of all processes, bytes."""
    pixels = 3 * cost.tile_px**2
    ahead = min(max(options.prefetch_mib * MIB, batch * pixels), tiles * pixels)
    lanes = max(1, cost.lanes // options.nproc) if cost.device == "cpu" else cost.lanes
    working = lanes * min(batch, max(tiles, 1)) * cost.lane_bytes
    return options.nproc * (cost.base_bytes + ahead + (working if cost.device == "cpu" else 0.0))


def gpu_memory_of(cost: EncoderCost, batch: int) -> float:
    """Return the memory of a GPU, bytes."""
    return cost.gpu_base_bytes + cost.lanes * batch * cost.gpu_tile_bytes


def largest_batch(options: ExtractOptions, cost: EncoderCost, memory_bytes: float, gpu_bytes: float) -> int:
    """Return the largest batch, a power of two up to 4096, that fits; 0 where not even one tile does."""
    for power in range(12, -1, -1):
        batch = 1 << power
        if cost.device == "cuda":
            fits = gpu_memory_of(cost, batch) <= GPU_ROOM * gpu_bytes
        else:
            fits = memory_of(options, cost, batch, float("inf")) <= 0.9 * memory_bytes
        if fits:
            return batch
    return 0


def _notes(options: ExtractOptions, cost: EncoderCost) -> list[str]:
    notes = [] if cost.measured else [f"{options.joined}: not measured, by the number of its operations: a rough guess"]
    notes += [
        f"{options.joined} in {cost.precision} on {cost.device}, weights by chance: as quick as the real ones"
    ] * (cost.measured and options.joined != "texture")
    notes += ["--compile is not in the estimate: slower to start, quicker then"] * options.compiled
    notes += ["stain normalisation is not in the estimate"] * (options.stain != "none")
    return notes
