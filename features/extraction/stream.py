"""The tiles of a whole cohort as one stream: read ahead, encoded, handed back; nothing waits between slides.

    readers (threads) --uint8 batches, bounded by bytes--> lanes (threads) --features--> whoever iterates

Readers and lanes live for the whole run. Decoding and arithmetic do not hold the interpreter lock. On a CPU every lane
computes with one thread, so that a number never depends on how many cores there are; on a GPU every lane has a CUDA
stream of its own, so that copies of one batch pass under the arithmetic of another. The budget of a batch is given back
when its features have been taken: nothing piles up anywhere.
"""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from features.encoders.spec import Encoder
from features.encoders.tile_encoder import TileEncoder
from features.extraction.plan import Batch, Job, Span
from features.stain import Fit, fit_stain
from features.views import VIEWS
from wsi.arrays import Features
from wsi.errors import GigamilError, RequestError, StalledError, StoreError
from wsi.progress.stalls import moved, watched
from wsi.store.tile_store import TileStore

OPEN_STORES = 4
"""Per reader: batches touch neighbours only."""
GPU_LANES = 2
READ_TRIES = 2
"""How often a read is begun that stalls each time."""
SECONDS_TO_END = 0.7
"""How long threads are waited for once nobody wants their results: longer only one that is in a single product."""
THREAD_PREFIX = "gigamil-"
"""Names of the threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How the stream runs; nothing here shapes the features."""

    device: torch.device
    readers: int
    lanes: int
    prefetch_bytes: int
    """uint8 pixels between reading and their features' arrival; one batch always fits."""
    stall: float = 0.0
    """Seconds after which a read that does not move is given up; 0: never."""


@dataclass(slots=True)
class Task:
    """One batch on its way."""

    item: int
    """Work item that it belongs to."""
    batch: Batch
    pixels: Tensor | None = None
    """uint8 (n, 3, T, T), in page-locked memory where a GPU follows."""
    features: Features | None = None
    """(n, dim)."""
    failures: dict[int, str] = field(default_factory=dict)
    """Slides of which tiles could not be read, with the reason; their rows hold nothing."""


@dataclass(slots=True)
class Times:
    """Seconds, summed over threads."""

    reading: float = 0.0
    """Readers: reading and decoding tiles."""
    starving: float = 0.0
    """Lanes: waiting for tiles."""
    encoding: float = 0.0
    """Lanes: copying to the device, the forward pass, copying back."""
    writing: float = 0.0
    """The consumer: between taking one batch and asking for the next."""

    def told(self) -> str:
        """Return one line: shares of the lanes' time."""
        lanes = max(1e-9, self.starving + self.encoding)
        return f"encoder busy {self.encoding / lanes:.0%} of its time, waiting for tiles {self.starving / lanes:.0%}"


class _Budget:
    """Bytes that may be under way; waits while they are spent."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used, self._closed = limit, 0, False
        self._changed = threading.Condition()

    def take(self, amount: int) -> bool:
        """Wait for room; False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._used == 0 or self._used + amount <= self._limit)
            self._used += amount
            return not self._closed

    def give(self, amount: int) -> None:
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class TileStream:
    """Encodes the batches that an iterator of tasks yields; iterate over it for the finished ones, in any order.

    The iterator of tasks is asked one task at a time, as readers become free: taking a task is claiming work.
    """

    def __init__(self, job: Job, tasks: Iterator[Task], encoder: Encoder, options: StreamOptions) -> None:
        self._job, self._tasks, self._options = job, tasks, options
        self._encode = TileEncoder(encoder, options.device, job.precision)
        self._budget = _Budget(options.prefetch_bytes)
        self._read: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Task | BaseException | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = {"readers": options.readers, "lanes": options.lanes}
        self._failed: dict[int, str] = {}
        self._fits: dict[int, Fit] = {}
        self._views = VIEWS[job.views]
        self._whole_batches = job.compiled or options.device.type == "cuda"
        self._stop = threading.Event()
        self.times = Times()

    def __iter__(self) -> Generator[Task, None, None]:
        """Yield tasks with their features; raises what a reader or a lane raised.

        Left early, or by an error, it drops what is queued, ends its threads where they stand between two spans or two
        layers, and is gone within a second.
        """
        self._warm_up()
        names = ["readers"] * self._options.readers + ["lanes"] * self._options.lanes
        loops: dict[str, Callable[[], None]] = {"readers": self._read_loop, "lanes": self._encode_loop}
        threads = [
            threading.Thread(
                target=self._run, args=(name, loops[name]), daemon=True, name=f"{THREAD_PREFIX}{name}-{number}"
            )
            for number, name in enumerate(names)
        ]
        for thread in threads:
            thread.start()
        # On a CPU a batch may take longer than anybody's patience: a layer is a step, too.
        steps = self._options.device.type == "cpu" and not self._job.compiled
        hook = register_module_forward_pre_hook(lambda module, inputs: moved()) if steps else None
        whole = False
        try:
            while (task := self._done.get()) is not None:
                if isinstance(task, BaseException):
                    raise task
                began = time.perf_counter()
                yield task
                self.times.writing += time.perf_counter() - began
                self._budget.give(task.batch.nbytes)
            whole = True
        finally:
            if hook is not None:
                hook.remove()
            self._end([] if whole else threads)

    def _warm_up(self) -> None:
        """Let the encoder make what it makes at its first batch (constants, compiled kernels) before lanes share it.

        Compiled kernels are made for the batches that come: of that size, in that precision, by as many threads; so are
        a GPU library's plans.
        """
        device, threads = self._options.device, torch.get_num_threads()
        if device.type == "cpu":
            torch.set_num_threads(1)
        try:
            with torch.inference_mode(), self._within_memory():
                for tile_px in sorted({slide.tile_px for slide in self._job.slides if slide.missing()}):
                    shape = (self._job.batch_size if self._whole_batches else 1, 3, tile_px, tile_px)
                    self._features(torch.zeros(shape, dtype=torch.uint8, device=device))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        except GigamilError:
            raise
        except Exception as error:  # whatever a compiler, or the lack of one, brings about
            if not self._job.compiled:
                raise
            told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise RequestError(
                f"--compile: {self._job.encoder} cannot be compiled here ({told}): leave --compile out"
            ) from error
        finally:
            torch.set_num_threads(threads)

    def _end(self, threads: list[threading.Thread]) -> None:
        """End the threads: those that wait, those that read at their next span, those that encode at their next layer.

        None is interrupted from outside: that could strike in the middle of somebody's tidying up.
        """
        self._stop.set()
        self._budget.close()
        with suppress(queue.Empty):
            while True:
                self._read.get_nowait()
        for _ in range(self._options.lanes):
            self._read.put(None)
        deadline = time.monotonic() + SECONDS_TO_END
        with _no_more_layers(threads) if threads else nullcontext():
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, name: str, loop: Callable[[], None]) -> None:
        """Run one thread's loop; the last reader ends the lanes, the last lane ends the iteration."""
        try:
            loop()
        except BaseException as error:
            self._done.put(error)
        with self._lock:
            self._running[name] -= 1
            last = self._running[name] == 0
        if last and name == "readers":
            for _ in range(self._options.lanes):
                self._read.put(None)
        elif last:
            self._done.put(None)

    def _read_loop(self) -> None:
        stores: OrderedDict[Path | str, TileStore] = OrderedDict()
        while (task := self._next_task()) is not None:
            began = time.perf_counter()
            task.pixels = self._pixels(task, stores)
            self._count("reading", began)
            self._read.put(task)

    def _next_task(self) -> Task | None:
        with self._lock:
            task = None if self._stop.is_set() else next(self._tasks, None)
        return task if task is not None and self._budget.take(task.batch.nbytes) else None

    def _pixels(self, task: Task, stores: OrderedDict[Path | str, TileStore]) -> Tensor:
        """Read a batch; a slide that cannot be read is noted, its tiles are black, and the others keep their places."""
        pixels, row = self._buffer(task.batch), 0
        for span in task.batch.spans:
            self._leave_if_stopped()
            rows = slice(row, row := row + span.stop - span.start)
            try:
                if span.slide in self._failed:
                    raise StoreError(self._failed[span.slide])
                pixels = self._with_span(pixels, rows, span, stores)
            except (StoreError, OSError) as error:
                task.failures[span.slide] = self._failed.setdefault(span.slide, str(error))
                pixels = pixels.clone()  # what was left behind at a read that stalls may still write into it
                pixels[rows] = 0
        return pixels

    def _buffer(self, batch: Batch) -> Tensor:
        """Return where a batch is read to: page-locked where a GPU follows, so that nothing is copied twice."""
        shape = (batch.n_tiles, 3, batch.tile_px, batch.tile_px)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._options.device.type == "cuda")

    def _with_span(self, pixels: Tensor, rows: slice, span: Span, stores: OrderedDict[Path | str, TileStore]) -> Tensor:
        """Return the batch with a slide's part read into it; a read that stalls is tried once more, into a copy."""
        stall, image_id = self._options.stall, self._job.slides[span.slide].image_id
        for _ in range(READ_TRIES):
            try:
                watched(image_id, stall, self._read_span, span, stores, pixels[rows].numpy())
            except StalledError:
                stores.clear()  # the thread that was left behind keeps the one it reads, and what it reads into
                pixels = pixels.clone()
            else:
                return pixels
        raise StoreError(
            f"{image_id}: reading its store stalled {READ_TRIES} times for {stall:g} s: see to its disk, and run the "
            "same command again"
        )

    def _read_span(
        self, span: Span, stores: OrderedDict[Path | str, TileStore], out: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        path = self._job.slides[span.slide].store
        store = stores.pop(path, None) or TileStore(path)
        stores[path] = store
        if len(stores) > OPEN_STORES:
            stores.popitem(last=False)
        if self._job.stain != "none" and span.slide not in self._fits:
            self._fits[span.slide] = fit_stain(self._job.stain, store)
        return store.read_tiles(self._job.slides[span.slide].store_rows(span.start, span.stop), out=out)

    def _encode_loop(self) -> None:
        device = self._options.device
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if device.type == "cpu":
            torch.set_num_threads(1)
        with torch.inference_mode(), torch.cuda.stream(stream) if stream else nullcontext():
            while True:
                began = time.perf_counter()
                task = self._read.get()
                self._count("starving", began)
                if task is None or self._stop.is_set():
                    return
                began = time.perf_counter()
                task.features, task.pixels = self._encoded(task), None
                self._count("encoding", began)
                moved()
                self._done.put(task)

    def _encoded(self, task: Task) -> Features:
        assert task.pixels is not None
        with self._within_memory():
            features = self._features(self._stained(task, task.pixels))
        if features.shape != (task.batch.n_tiles, self._job.width):
            raise RequestError(
                f"encoder {self._job.encoder}: expected features of shape {(task.batch.n_tiles, self._job.width)}, "
                f"found {tuple(features.shape)}"
            )
        array: Features = features.numpy()
        return array

    def _features(self, tiles_NCHW: Tensor) -> Tensor:
        """Return float32 (N, width) on the CPU, of uint8 tiles (N, 3, T, T) on the device.

        Only the encoder runs under autocast: colours, views, resizing and normalisation are in float32. Compiled
        kernels and a GPU's always see a whole batch.
        """
        n_tiles = len(tiles_NCHW)
        if self._whole_batches and n_tiles < self._job.batch_size:
            blank = tiles_NCHW.new_zeros((self._job.batch_size - n_tiles, *tiles_NCHW.shape[1:]))
            tiles_NCHW = torch.cat([tiles_NCHW, blank])
        seen = []
        for view in self._views:
            self._leave_if_stopped()
            seen.append(self._encode(view(tiles_NCHW)))
        kept = torch.cat(seen, dim=1) if self._job.kept_views > 1 else sum(seen[1:], seen[0]) / len(seen)
        return kept[:n_tiles].cpu()

    @contextmanager
    def _within_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise RequestError(
                f"--batch-size {self._job.batch_size}: the GPU's memory is too small for it: give a smaller one"
            ) from None

    def _stained(self, task: Task, pixels: Tensor) -> Tensor:
        """Return the tiles on the device, each slide's in the colours of the reference."""
        tiles = pixels.to(self._options.device, non_blocking=True)
        if self._job.stain == "none":
            return tiles
        pieces, row = [], 0
        for span in task.batch.spans:
            rows = span.stop - span.start
            fit = self._fits.get(span.slide)
            piece = tiles[row : row + rows]
            pieces.append(fit.apply(piece) if fit else piece)  # no fit: the slide cannot be read, and has failed
            row += rows
        return torch.cat(pieces)

    def _leave_if_stopped(self) -> None:
        if self._stop.is_set():
            raise SystemExit

    def _count(self, what: str, began: float) -> None:
        spent = time.perf_counter() - began
        with self._lock:
            setattr(self.times, what, getattr(self.times, what) + spent)


@contextmanager
def _no_more_layers(threads: list[threading.Thread]) -> Iterator[None]:
    """While the block runs, a torch module that one of the threads calls ends the thread instead."""

    def end(module: torch.nn.Module, inputs: object) -> None:
        if threading.current_thread() in threads:
            raise SystemExit

    hook = register_module_forward_pre_hook(end)
    try:
        yield
    finally:
        hook.remove()
