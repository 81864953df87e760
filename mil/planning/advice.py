"""What does not fit, and what to change."""

from collections.abc import Iterator, Mapping, Sequence

from features.extraction.options import ExtractOptions
from mil.planning.calibration import EncoderCost, TilingCost
from mil.planning.estimate import StagePlan
from mil.planning.extraction import GPU_ROOM, largest_batch
from mil.planning.machine import Machine
from mil.planning.wording import size
from mil.training.options import TrainOptions

_ROOM = 0.9
"""Part of the memory that may be filled: above it the system begins to kill."""


def tiling_advice(plan: StagePlan, costs: Mapping[str, TilingCost], workers: int, machine: Machine) -> Iterator[str]:
    """Give a line where tiling does not fit into the memory."""
    if plan.peak_bytes.expected <= _ROOM * machine.memory_bytes or not costs:
        return
    each = max(cost.worker_bytes for cost in costs.values())
    others = plan.peak_bytes.expected - workers * each
    fit = int((_ROOM * machine.memory_bytes - others) / each)
    change = f"--workers {fit}" if fit > 0 else "a machine with more memory: not even one worker fits"
    yield f"tile needs {size(plan.peak_bytes)} of memory, {size(machine.memory_bytes)} are there: {change}"


def extraction_advice(plan: StagePlan, options: ExtractOptions, cost: EncoderCost, machine: Machine) -> Iterator[str]:
    """Give the largest batch, and lines where memory of CPU or GPU does not suffice."""
    batch = largest_batch(options, cost, machine.memory_bytes, machine.gpu_bytes)
    name = options.joined
    if plan.gpu_bytes.expected > GPU_ROOM * machine.gpu_bytes and cost.device == "cuda":
        change = f"--batch-size {batch}" if batch else "--precision bf16, or a GPU with more memory"
        yield f"extract {name} needs {size(plan.gpu_bytes)} of {size(machine.gpu_bytes)} GPU memory: {change}"
    elif plan.peak_bytes.expected > _ROOM * machine.memory_bytes:
        change = f"--batch-size {batch}, fewer --nproc or --prefetch-mib" if batch else "fewer --nproc, --prefetch-mib"
        needs = f"extract {name} needs {size(plan.peak_bytes)} of memory"
        yield f"{needs}, {size(machine.memory_bytes)} are there: {change}"
    if batch:
        yield f"extract {name}: the largest batch that fits is {batch:,}{' or more' if batch == 4096 else ''}"


def training_advice(plan: StagePlan, options: TrainOptions, machine: Machine) -> Iterator[str]:
    """Give lines where memory of CPU or GPU does not suffice."""
    changes = f"--max-rows {max(1024, options.max_rows // 4)} accumulates in smaller parts"
    changes += ", a streaming head (gated_abmil, abmil, mean_pool) computes large bags twice in place of keeping them"
    changes += "" if options.max_tiles else ", --max-tiles caps each bag"
    if plan.gpu_bytes.expected > GPU_ROOM * machine.gpu_bytes and machine.gpus:
        yield f"train {plan.name} needs {size(plan.gpu_bytes)} of {size(machine.gpu_bytes)} GPU memory: {changes}"
    if plan.peak_bytes.expected > _ROOM * machine.memory_bytes:
        fewer = f", fewer --workers than {options.workers}" if options.workers > 1 else ""
        needs = f"train {plan.name} needs {size(plan.peak_bytes)} of memory, {size(machine.memory_bytes)} are there"
        yield f"{needs}: {changes}{fewer}; features that lie in files are read again where memory is short"


def disk_advice(stages: Sequence[StagePlan], free: int) -> Iterator[str]:
    """Give a line where the disk is too small."""
    needs = sum(own.disk_bytes.expected for own in stages)
    high = sum(own.disk_bytes.high for own in stages)
    if needs > free:
        yield f"needs {size(needs)} of disk, {size(free)} free: {_smaller(stages)}"
    elif high > free:
        yield f"may need up to {size(high)} of disk, {size(free)} free: {_smaller(stages)}"


def _smaller(stages: Sequence[StagePlan]) -> str:
    largest = max(stages, key=lambda own: own.disk_bytes.expected)
    if largest.stage == "tile":
        return "--codec jpeg makes stores a fifth the size, or a larger um/px, or another disk"
    return f"most of it is for {largest.stage} {largest.name}".rstrip() + ": another disk"
