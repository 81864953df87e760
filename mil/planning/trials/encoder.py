"""Extraction measured: an encoder on this machine's device, on tiles of a store, in batches, at the real precision.

Weights are random: an architecture takes the same time and memory with them, and nothing has to be fetched.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from features.encoders.device import hold, reproducible_arithmetic, resolve_device, resolve_precision
from features.encoders.registry import build_encoder
from features.encoders.spec import Encoder, TunedEncoder, WeightsChoice
from features.encoders.tile_encoder import TileEncoder
from features.extraction.options import ExtractOptions
from features.extraction.stream import GPU_LANES
from mil.accounting.ranges import Range
from mil.accounting.spent import own_peak_bytes
from mil.planning.calibration import EncoderCost, encoder_key
from mil.planning.machine import Machine, this_machine
from mil.planning.trials.clock import Clock
from mil.planning.trials.tiling import NOISE
from wsi.errors import RequestError
from wsi.machine.cpu import usable_cpus
from wsi.machine.memory import keep_freed_memory
from wsi.store.tile_store import TileStore

_TILES = 512
"""Tiles that are read, at most."""
RANDOM = WeightsChoice(random_seed=0)


@dataclass(frozen=True, slots=True)
class EncoderTrial:
    """What was measured, and on what."""

    cost: EncoderCost
    machine: Machine
    load: float
    """By which it was slower than on an idle machine."""


def with_gpu(machine: Machine) -> Machine:
    """Return the machine with its GPUs."""
    if not torch.cuda.is_available():
        return machine
    facts = torch.cuda.get_device_properties(0)
    return replace(machine, gpu=facts.name, gpus=torch.cuda.device_count(), gpu_bytes=int(facts.total_memory))


def try_encoder(options: ExtractOptions, stores: Sequence[Path], tile_px: int, seconds: float) -> EncoderTrial:
    """Measure an encoder; runs in a process of its own. Without a store, on tiles of noise, and without reading.

    Raises
    ------
    RequestError
        There is no such encoder or device.
    """
    device = resolve_device(options.device)
    encoder = _untrained(options)
    precision = resolve_precision(options.precision, device, encoder.spec)
    tiles, read_seconds = _tiles(stores, tile_px)
    keep_freed_memory()  # as an extraction does
    lanes = GPU_LANES if device.type == "cuda" else usable_cpus()
    with reproducible_arithmetic():
        run = _Lanes(TileEncoder(_tuned(encoder, options, precision), device, precision), lanes, tiles)
        run.encode(1, 1)
        start = time.process_time()
        cost = _measured(run, options, seconds)
    cost = replace(
        cost,
        key=encoder_key(options, tile_px),
        precision=precision,
        start_seconds=start,
        read_seconds=read_seconds,
        tile_px=tile_px,
    )
    return EncoderTrial(cost, with_gpu(this_machine()), run.load)


def _untrained(options: ExtractOptions) -> Encoder:
    """Build the encoder with random weights; with its own where it cannot do with random ones."""
    try:
        return build_encoder(options.joined, RANDOM, crop=options.crop)
    except RequestError:
        return build_encoder(options.joined, options.start(), crop=options.crop)


def _tuned(encoder: Encoder, options: ExtractOptions, precision: str) -> Encoder:
    hold(encoder, precision)
    if isinstance(encoder, TunedEncoder) and not options.channels_last:
        encoder.keep_channels_first()
    return encoder


def _tiles(stores: Sequence[Path], tile_px: int) -> tuple[NDArray[np.uint8], float]:
    """Return tiles (n, 3, T, T) of stores, and what reading one takes a thread."""
    read, clock_seconds = list[NDArray[np.uint8]](), 0.0
    for path in stores:
        store = TileStore(path)
        left = _TILES - sum(map(len, read))
        if store.tile_px != tile_px or not store.n_tiles or left <= 0:
            continue
        clock = Clock()
        read.append(store.read_tiles(np.arange(min(store.n_tiles, left))))
        clock_seconds += clock.seconds
    if not read:
        noise = np.random.default_rng(0).integers(0, 255, (16, 3, tile_px, tile_px), np.uint8)
        return noise, 0.0
    tiles = np.concatenate(read)
    return tiles, clock_seconds / len(tiles)


class _Lanes:
    """Threads that encode side by side, as an extraction's do."""

    def __init__(self, encode: TileEncoder, lanes: int, tiles: NDArray[np.uint8]) -> None:
        self._encode, self.lanes, self._tiles = encode, lanes, tiles
        self.gpu = encode.device.type == "cuda"
        self._own = self._wall = 0.0

    @property
    def load(self) -> float:
        """By which it was slower than on an idle machine."""
        return max(1.0, self._wall / self._own) if self._own else 1.0

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self._encode.spec.dim

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._encode.device

    def batch(self, size: int) -> torch.Tensor:
        """Return so many tiles, as a reader gives them."""
        rows = np.arange(size) % len(self._tiles)
        tiles = torch.from_numpy(self._tiles[rows])
        return tiles.pin_memory() if self.gpu else tiles

    def encode(self, size: int, rounds: int) -> float:
        """Encode so many batches on each lane; return the seconds for each tile, of all lanes together."""
        batches = [self.batch(size) for _ in range(self.lanes)]
        clock = Clock()
        with ThreadPoolExecutor(self.lanes) as pool:
            own = list(pool.map(lambda batch: self._lane(batch, rounds), batches))
        seconds = clock.wall if self.gpu else sum(own) / self.lanes
        self._wall += clock.wall
        self._own += seconds
        return seconds / (self.lanes * rounds * size)

    def _lane(self, tiles: torch.Tensor, rounds: int) -> float:
        if not self.gpu:
            torch.set_num_threads(1)
        stream = torch.cuda.Stream(self.device) if self.gpu else None
        clock = Clock()
        with torch.inference_mode(), torch.cuda.stream(stream) if stream else nullcontext():
            for _ in range(rounds):
                self._encode(tiles.to(self.device, non_blocking=True)).cpu()
        return clock.seconds


def _measured(run: _Lanes, options: ExtractOptions, seconds: float) -> EncoderCost:
    """Encode batches of growing size until the time is over."""
    base, gpu_base = psutil.Process().memory_info().rss, _gpu_bytes(run)
    peak_before, one = own_peak_bytes(), run.encode(1, 1) * run.lanes
    size = max(1, min(options.batch_size, int(seconds / 4 / max(one, 1e-5))))
    with _within_memory(options, run):
        first = run.encode(size, 1)
    rounds = max(1, min(200, int(seconds / 2 / max(first * size * run.lanes, 1e-4))))
    cpu = time.process_time()
    rate = run.encode(size, rounds)
    cpu = (time.process_time() - cpu) / (rounds * size * run.lanes)
    peak = own_peak_bytes()
    grown = max(0, peak - base) if peak > peak_before else 0
    return EncoderCost(
        key="",
        precision="",
        device=run.device.type,
        dim=run.dim,
        start_seconds=0.0,
        tile_seconds=Range.about(rate, NOISE, 0.0 if size == options.batch_size else 0.2),
        lanes=run.lanes,
        cpu_tile_seconds=cpu,
        read_seconds=0.0,
        base_bytes=float(base),
        lane_bytes=grown / (size * run.lanes),
        gpu_base_bytes=gpu_base,
        gpu_tile_bytes=max(0.0, _gpu_bytes(run, peak=True) - gpu_base) / (size * run.lanes),
        tile_px=0,
    )


@contextmanager
def _within_memory(options: ExtractOptions, run: _Lanes) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise RequestError(
            f"--encoder {options.joined}: a batch of {options.batch_size} does not fit into the memory of "
            f"{torch.cuda.get_device_name(run.device)}: give a smaller --batch-size"
        ) from None


def _gpu_bytes(run: _Lanes, *, peak: bool = False) -> float:
    if not run.gpu:
        return 0.0
    torch.cuda.synchronize(run.device)
    return float(torch.cuda.max_memory_allocated(run.device) if peak else torch.cuda.memory_allocated(run.device))


def operations_of(encoder: str) -> float:
    """Return the operations for one tile, counted on a model that takes no memory; 0 where they cannot be."""
    from torch.utils.flop_counter import FlopCounterMode

    from features.encoders.presets import PRESETS

    try:
        with torch.device("meta"):
            model = _architecture(encoder).create().eval()
            pixels = torch.zeros(1, 3, *(PRESETS[encoder].input_px if encoder in PRESETS else 224,) * 2)
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                model(pixels)
        return float(counter.get_total_flops())
    except Exception:  # an architecture that cannot be made so: it is not estimated
        return 0.0


def _architecture(encoder: str) -> Any:
    from features.encoders.presets import PRESETS
    from features.encoders.timm_encoder import Architecture

    return Architecture(encoder, PRESETS.get(encoder))


def operations_of_all(encoders: Sequence[str]) -> list[float]:
    """Return the operations of each; `operations_of`."""
    return [operations_of(encoder) for encoder in encoders]


def width_of(encoder: str) -> int:
    """Return the length of an encoder's feature vectors."""
    return build_encoder(encoder, RANDOM).spec.dim
