"""What `bench_scale` measures: cohorts, slides, workers, ranks, empty tasks, files, the table's lock."""

import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
from distributed import Client, LocalCluster, as_completed, get_task_stream
from distributed.utils import key_split
from scale_model import WINDOW

from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from mil.pipeline.cohort.cohort_file import read_cohort_file
from mil.pipeline.experiments import Experiments, row_of
from sample_data.make import make_slide
from sample_data.spec import SlideSpec
from wsi.cohort.slides import Job
from wsi.machine.cpu import usable_cpus
from wsi.progress.outcome import Outcome, Silent, Status
from wsi.tiling import engine
from wsi.tiling.cluster import DaskWorkers
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

TISSUE = 0.03
STEPS = ("make_plan", "make_band", "make_region_once", "make_tissue", "unsettled_regions", "settle_region")
ORDER = (*STEPS, "make_region", "finish")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    side: int
    """Of a slide of the cohorts, pixels."""
    cohorts: tuple[int, ...]
    """Slides in one command."""
    heights: tuple[tuple[int, int], ...]
    """Slides one by one, height and width."""
    processes: tuple[int, ...]
    tasks: int
    """Empty tasks."""
    slides: int
    """Simulated."""
    sweep: int
    """Simulated for each number of nodes, and for each thing that is lifted."""


FULL = Sizes(
    10_000,
    (1, 5, 50),
    ((10_000, 10_000), (20_000, 25_000), (40_000, 50_000), (60_000, 100_000)),
    (1, 2, 3, 4),
    1000,
    10_000,
    2000,
)
QUICK = Sizes(2048, (1, 4), ((2048, 2048), (4096, 4096)), (1, 2), 100, 200, 50)


def cpu_of(pids: Sequence[int]) -> float:
    """Return the CPU seconds that processes have spent, and those of children that ended."""
    found = 0.0
    for pid in pids:
        times = psutil.Process(pid).cpu_times()
        found += times.user + times.system + times.children_user + times.children_system
    return found


def _hold_cluster(pipe: Connection, workers: int) -> None:
    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    with LocalCluster(n_workers=workers, **options) as cluster:
        pipe.send(cluster.scheduler_address)
        pipe.recv()


@dataclass(frozen=True)
class Running:
    """A scheduler in a process of its own, with workers."""

    client: Client
    address: str
    scheduler: int
    """Process id."""
    workers: tuple[int, ...]

    def cpu(self) -> float:
        """CPU seconds of this process, the scheduler and the workers."""
        return cpu_of([os.getpid(), self.scheduler, *self.workers])


@contextmanager
def cluster_of(workers: int) -> Iterator[Running]:
    """Give a running cluster whose workers have imported the tiler."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_hold_cluster, args=(there, workers))
    process.start()
    try:
        address = here.recv()
        with Client(address) as client:
            client.wait_for_workers(workers)
            pids = client.run(_warm)
            assert process.pid is not None
            yield Running(client, address, process.pid, tuple(pids.values()))
        here.send(None)
        process.join(60)
    finally:
        process.kill()


def _warm() -> int:
    import wsi.tiling.tiler  # noqa: F401

    return os.getpid()


def make(folder: Path, height: int, width: int) -> Path:
    """Make a slide, unless it is there."""
    path = folder / f"scale-{height}x{width}.tif"
    if not path.exists():
        make_slide(
            path, SlideSpec(height_px=height, width_px=width, tissue_share=TISSUE, bigtiff=True), threads=usable_cpus()
        )
    return path


def cohort(slide: Path, count: int) -> tuple[Path, ...]:
    """Return the slide under several names."""
    links = [slide.with_name(f"{slide.stem}-{number}{slide.suffix}") for number in range(count)]
    for link in links:
        if not link.exists():
            os.link(slide, link)
    return tuple(links)


@dataclass(frozen=True)
class Tiled:
    """What one command cost."""

    slides: int
    gigapixels: float
    workers: int
    wall_s: float
    cpu_s: float
    workers_cpu_s: float
    """Of the workers alone."""
    bytes: int
    """Of the slides and their stores."""
    tasks: dict[str, list[float]]
    """Seconds at the workers, by function."""

    @property
    def cpu_per_gigapixel(self) -> float:
        """CPU seconds."""
        return self.cpu_s / self.gigapixels


def tile_once(slides: Sequence[Path], height: int, width: int, running: Running, out: Path) -> Tiled:
    """Tile slides by a running cluster."""
    shutil.rmtree(out, ignore_errors=True)
    options = TileOptions(slides=tuple(slides), out=out, assume_mpp=0.5, scheduler=running.address)
    before, start, own = running.cpu(), time.perf_counter(), cpu_of(running.workers)
    with get_task_stream(client=running.client) as stream:
        summary = tile(options)
        wall = time.perf_counter() - start
    assert summary.exit_code == 0, summary.outcomes
    spent, own = running.cpu() - before, cpu_of(running.workers) - own
    tasks: dict[str, list[float]] = defaultdict(list)
    for record in stream.data:
        for part in record["startstops"]:
            if part["action"] == "compute" and key_split(record["key"]) in ORDER:
                tasks[key_split(record["key"])].append(part["stop"] - part["start"])
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) + sum(s.stat().st_size for s in slides)
    pixels = len(slides) * height * width / 1e9
    return Tiled(len(slides), pixels, len(running.workers), wall, spent, own, size, dict(tasks))


def growth(sizes: Sizes, folder: Path, out: Path) -> dict[str, list[Tiled]]:
    """Return the cost of cohorts of more and more slides, and of larger and larger slides; two workers."""
    side = sizes.side
    with cluster_of(2) as running:
        tile_once([make(folder, side, side)], side, side, running, out)  # warm
        slides = cohort(make(folder, side, side), max(sizes.cohorts))
        cohorts = [tile_once(slides[:count], side, side, running, out) for count in sizes.cohorts]
        single = [tile_once([make(folder, h, w)], h, w, running, out) for h, w in sizes.heights]
    return {"cohorts": cohorts, "slides": single}


def workers(sizes: Sizes, folder: Path, out: Path) -> list[Tiled]:
    """Return what one cohort costs with more and more workers."""
    side, count = sizes.side, 4
    slides, found = cohort(make(folder, side, side), count), []
    for number in sizes.processes:
        with cluster_of(number) as running:
            tile_once(slides[:1], side, side, running, out)
            found.append(tile_once(slides, side, side, running, out))
    return found


def ranks(sizes: Sizes, stores: Path, out: Path) -> list[dict[str, float]]:
    """Return what extraction costs with more and more processes."""
    found = []
    for number in sizes.processes:
        shutil.rmtree(out, ignore_errors=True)
        before = _own_cpu()
        summary = extract(ExtractOptions(stores=(stores,), out=out, encoder="texture", nproc=number, device="cpu"))
        assert summary.exit_code == 0, summary.outcomes
        tiles = sum(own.facts["tiles"] for own in summary.outcomes)
        cpu = _own_cpu() - before
        found.append({"ranks": number, "tiles": tiles, "wall_s": summary.seconds, "cpu_s": cpu})
    shutil.rmtree(out)
    return found


def _own_cpu() -> float:
    """CPU seconds of this process and of its children that ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in both)


def _nothing() -> None:
    pass


def raw_dask(client: Client, tasks: int, window: int) -> None:
    """Send empty tasks with a window, by Dask alone: the least that a client can do."""
    finished, left = as_completed(raise_errors=False, with_results=True), tasks
    for _ in range(min(window, tasks)):
        finished.add(client.submit(_nothing, pure=False))
        left -= 1
    for _future, _result in finished:
        if left:
            finished.add(client.submit(_nothing, pure=False))
            left -= 1


def our_engine(client: Client, tasks: int, threads: int, out: Path) -> None:
    """Send empty tasks by the tiler's engine: slides of a hundred tasks each."""

    def steps_of(job: Job, _options: TileOptions) -> Generator[Any, Any, Outcome]:
        yield 1.0, [(_nothing, ())] * 100
        return Outcome(job.image_id, Status.DONE)

    jobs = [Job(f"empty-{number}", Path(f"/nowhere/empty-{number}.tif")) for number in range(tasks // 100)]
    options = TileOptions(slides=(Path("/nowhere"),), out=out)
    with patch.object(engine, "steps_of", steps_of):
        engine.Engine(DaskWorkers(client, threads), options, Silent(), {job.image_id: 0 for job in jobs}).run(jobs)


def overhead(sizes: Sizes, out: Path) -> list[dict[str, float | str]]:
    """Return what an empty task costs client and scheduler, by Dask alone and by the engine, in turn."""
    found: list[dict[str, float | str]] = []
    out.mkdir(exist_ok=True)
    with cluster_of(2) as running:
        ways: dict[str, Callable[[int], None]] = {
            "Dask": lambda window: raw_dask(running.client, sizes.tasks, window),
            "engine": lambda window: our_engine(running.client, sizes.tasks, window // WINDOW, out),
        }
        raw_dask(running.client, 50, 6)
        for window in (WINDOW * 2, WINDOW * 200):
            for name, way in ways.items():
                client, scheduler, start = cpu_of([os.getpid()]), cpu_of([running.scheduler]), time.perf_counter()
                way(window)
                wall = time.perf_counter() - start
                spent = cpu_of([os.getpid()]) - client, cpu_of([running.scheduler]) - scheduler
                row: dict[str, float | str] = {"by": name, "window": window, "tasks_per_s": sizes.tasks / wall}
                found.append(
                    row | {"client_ms": spent[0] / sizes.tasks * 1e3, "scheduler_ms": spent[1] / sizes.tasks * 1e3}
                )
    return found


def lock_of_the_table(folder: Path, rows: int) -> dict[str, float]:
    """Return what a change of a row costs in a table of so many experiments."""
    path = folder / "cohort.toml"
    (folder / "slides").mkdir(exist_ok=True)
    (folder / "t.csv").write_text("image_id,patient_id,label\na_0,a,A\nb_0,b,B\n")
    seeds = ", ".join(map(str, range(rows)))
    path.write_text(f'slides = ["slides"]\nmanifest = "t.csv"\n[grid]\nseed = [{seeds}]\n')
    file = read_cohort_file(path)
    file.folder.mkdir(exist_ok=True)
    table, start = Experiments(file.folder), time.process_time()
    table.write([row_of(own) for own in file.experiments])
    added = time.process_time() - start
    start, times = time.process_time(), 10
    for number in range(times):
        table.update(file.experiments[number].name, reason=f"{number}")
    return {"rows": rows, "write_s": added, "change_s": (time.process_time() - start) / times}


def count_files(slide: Path, out: Path) -> int:
    """Return how many files the tiling of one slide opens, makes, renames, lists or removes, in one process."""
    watched, counted, on = {"open", "os.mkdir", "os.rename", "os.remove", "os.listdir", "os.scandir"}, [0], [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if on[0] and event in watched and str(arguments[0]).startswith(str(out)):
            counted[0] += 1

    sys.addaudithook(hook)
    shutil.rmtree(out, ignore_errors=True)
    counted[0] = 0
    assert tile(TileOptions(slides=(slide,), out=out, workers=0, assume_mpp=0.5)).exit_code == 0
    on[0] = False
    return counted[0]
