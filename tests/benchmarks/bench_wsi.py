"""Tiling, as ratios to limits measured in the same run on the same files.

Run: ``python tests/benchmarks/bench_wsi.py [--size 20000] [--out bench-wsi.json]``, or ``make bench-wsi``.

Stores are written to memory (/dev/shm) where there is room, and read from there. The limits are what the bytes cost at
least: copying or decoding the tissue tiles, by as many processes as the tiler has workers, with the files in the page
cache. The tiler's time is that of four slides in one command against running workers: open, overview, mask, scores,
tiles, pyramid, metadata. The ordinary way is OpenSlide's read_region, cv2 and zarr-python, one process per worker.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import bench_store
import cv2
import imagecodecs
import numpy as np
import openslide
import tifffile
import zarr
from distributed import Client, LocalCluster
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1]))
from making_ndpi import NdpiPage, halved, write_ndpi

from sample_data.make import make_slide
from sample_data.spec import SlideSpec
from wsi.machine.cpu import usable_cpus
from wsi.readers.tiff.reader import TiffReader
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

ROUNDS = 3
COPIES = 4
"""Slides in one command: a cohort, not the start-up of one slide, is what is measured."""
TISSUE_SHARE = 0.25
MEMORY_ROOM = 6 << 30
"""Free bytes in /dev/shm from which stores are written there."""
SMALLER_PX = 8192
"""Side of the NDPI and the JPEG 2000 slide."""
JPEG2000 = 33005
"""Aperio's, RGB."""
READ_BACK = ("JPEG, other scale, jpeg", "deflate, one level, zstd")
"""Cases whose stores are read, too."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    slide: Path
    limit: str
    options: dict[str, object]
    goal: float


def make_slides(folder: Path, size: int) -> dict[str, Path]:
    """Make one slide of each kind from real texture, unless they are there."""
    slides = {}
    for kind in ("deflate", "jpeg-pyramid"):
        path = folder / f"{kind}-{size}.tif"
        if not path.exists():
            spec = SlideSpec(height_px=size, width_px=size, kind=kind, tissue_share=TISSUE_SHARE)
            make_slide(path, spec, threads=usable_cpus())
        slides[kind] = path
    return slides


def make_others(folder: Path, jpeg: Path) -> dict[str, Path]:
    """Write an NDPI and a JPEG 2000 slide from the middle of another one, unless they are there."""
    ndpi, jpeg2000 = folder / f"ndpi-{jpeg.stem}.ndpi", folder / f"jpeg2000-{jpeg.stem}.tif"
    if ndpi.exists() and jpeg2000.exists():
        return {"ndpi": ndpi, "jpeg2000": jpeg2000}
    with openslide.OpenSlide(str(jpeg)) as slide:
        width, height = (min(side, SMALLER_PX) for side in slide.dimensions)
        corner = tuple((whole - side) // 2 for whole, side in zip(slide.dimensions, (width, height), strict=True))
        pixels = np.asarray(slide.read_region(corner, 0, (width, height)).convert("RGB"))
    levels = [pixels, halved(pixels), halved(halved(pixels)), halved(halved(halved(pixels)))]
    write_ndpi(ndpi, [NdpiPage(own, 64 * 8, lens=20 / 2**i, mpp=0.5 * 2**i) for i, own in enumerate(levels)])
    form = {"tile": (256, 256), "photometric": "rgb", "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    lossy = {"level": 30, "reversible": False, "mct": True, "codecformat": "j2k"}
    tifffile.imwrite(jpeg2000, pixels, compression=JPEG2000, compressionargs=lossy, maxworkers=usable_cpus(), **form)
    return {"ndpi": ndpi, "jpeg2000": jpeg2000}


def tissue_tiles(slide: Path, store: Path, scale: float) -> list[int]:
    """Return the indices of the slide's own level-0 tiles that lie under the store's tiles."""
    layout, tiles = TiffReader(slide).stored_levels[0], TileStore(store)
    side = tiles.tile_px * scale / layout.tile.y
    found = set()
    for row, column in tiles.tiles_yx.tolist():
        for y in range(int(row * side), min(layout.grid.y, max(int(row * side) + 1, int((row + 1) * side)))):
            for x in range(
                int(column * side), min(layout.grid.x, max(int(column * side) + 1, int((column + 1) * side)))
            ):
                found.add(y * layout.grid.x + x)
    return sorted(found)


def copy_bytes(slide: Path, indices: Iterable[int], folder: str) -> None:
    """Limit: read each tile's bytes and write them to one file."""
    reader = TiffReader(slide)
    with open(Path(folder) / f"copy-{os.getpid()}", "wb") as file:
        file.writelines(reader.payload(0, index) for index in indices)


def decode(slide: Path, indices: Iterable[int], _folder: str) -> None:
    """Limit: decode each tile's bytes, and do nothing with the pixels."""
    reader = TiffReader(slide)
    page, tile_px = reader.stored_levels[0].page, reader.stored_levels[0].tile
    for index in indices:
        payload = reader.payload(0, index)
        if page.compression == JPEG2000:
            imagecodecs.jpeg2k_decode(payload)
        elif page.compression == 7:
            imagecodecs.jpeg8_decode(
                payload, tables=page.jpegtables, colorspace=page.photometric.name, outcolorspace="RGB"
            )
        else:
            imagecodecs.deflate_decode(payload, out=tile_px.y * tile_px.x * 3)


def ordinary(slide: Path, tiles: Iterable[tuple[int, int]], out: str, scale: int) -> None:
    """Tile as most software does: read_region, resize, one zarr chunk at a time."""
    handle = openslide.OpenSlide(str(slide))
    array = zarr.open_array(out, mode="r+")
    for row, column in tiles:
        side = 256 * scale
        region = handle.read_region((column * side, row * side), 0, (side, side))
        pixels = np.asarray(region.convert("RGB"))
        pixels = cv2.resize(pixels, (256, 256), interpolation=cv2.INTER_AREA) if scale > 1 else pixels
        array[:, row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256] = pixels.transpose(2, 0, 1)


def cohort(slide: Path) -> tuple[Path, ...]:
    """Return the slide under several names: hard links, so that all are in the page cache."""
    links = [slide, *(slide.with_name(f"{slide.stem}-{i}{slide.suffix}") for i in range(1, COPIES))]
    for link in links:
        if not link.exists():
            os.link(slide, link)
    return tuple(links)


def timed(function: Callable[[], object]) -> float:
    """Return wall seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def shared(
    pool: "multiprocessing.pool.Pool", work: Callable[..., None], slide: Path, items: list[int], folder: str
) -> None:
    """Spread the items over the pool's processes in runs."""
    parts = [part.tolist() for part in np.array_split(np.array(items), 8 * usable_cpus()) if len(part)]
    pool.starmap(work, [(slide, part, folder) for part in parts])


def run(size: int, folder: Path) -> dict[str, object]:
    """Measure everything; return what the JSON holds."""
    slides = make_slides(folder, size)
    jpeg, deflate = slides["jpeg-pyramid"], slides["deflate"]
    others = make_others(folder, jpeg)
    cases = [
        Case("JPEG at the target scale, copied", jpeg, "copy", {"codec": "auto"}, 0.5),
        Case("the same, --pyramid source", jpeg, "copy", {"codec": "auto", "pyramid": "source"}, 0.3),
        Case("JPEG, other scale, zstd", jpeg, "decode", {"codec": "zstd", "target_mpp": 1.0}, 0.5),
        Case("JPEG, other scale, jpeg", jpeg, "decode", {"codec": "jpeg", "target_mpp": 1.0}, 0.7),
        Case(
            "the same, --downscale dct", jpeg, "decode", {"codec": "jpeg", "target_mpp": 1.0, "downscale": "dct"}, 0.7
        ),
        Case("deflate, one level, zstd", deflate, "decode all", {"codec": "zstd"}, 0.6),
        Case("deflate, one level, jpeg", deflate, "decode all", {"codec": "jpeg"}, 0.6),
        Case("JPEG 2000 at the target scale, zstd", others["jpeg2000"], "decode", {"codec": "zstd"}, 0.6),
    ]
    workers = usable_cpus()
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
        ) as cluster,
        Client(cluster) as client,
        multiprocessing.get_context("spawn").Pool(workers) as pool,
    ):
        client.run(_warm)
        pool.map(_sleep, range(workers))
        rows = [measure(case, cluster.scheduler_address, pool, folder) for case in cases]
        readers = by_reader(others["ndpi"], cluster.scheduler_address, folder)
        peak = max(client.run(_peak_bytes).values())
        rows_ordinary = [ordinary_way(deflate, 1, pool, folder), ordinary_way(jpeg, 2, pool, folder)]
    return {
        "size": size,
        "slides": COPIES,
        "workers": workers,
        "rows": rows,
        "ordinary": rows_ordinary,
        "ndpi": readers,
        "peak_worker_mib": peak >> 20,
    }


def measure(case: Case, scheduler: str, pool: "multiprocessing.pool.Pool", folder: Path) -> dict[str, object]:
    """Time one case and its limit in turn; return the medians and their ratio."""
    out = stores_folder(folder)
    steps: dict[str, float] = {}

    def tile_it() -> None:
        options = {"assume_mpp": 0.5, "scheduler": scheduler} | case.options
        summary = tile(TileOptions(slides=cohort(case.slide), out=out, **options))  # type: ignore[arg-type]
        assert summary.exit_code == 0, summary.outcomes
        for step in summary.outcomes[0].facts["seconds"]:
            steps[step] = median(outcome.facts["seconds"][step] for outcome in summary.outcomes)

    tile_it()
    store = out / f"{case.slide.stem}.zarr"
    scale = float(case.options.get("target_mpp", 0.5)) / 0.5  # type: ignore[arg-type]
    layout = TiffReader(case.slide).stored_levels[0]
    everything = list(range(layout.grid.y * layout.grid.x))
    indices = everything if case.limit == "decode all" else tissue_tiles(case.slide, store, scale)
    work = copy_bytes if case.limit == "copy" else decode
    limits, times = [], []
    for _ in range(ROUNDS):
        shutil.rmtree(out)
        limits.append(timed(lambda: shared(pool, work, case.slide, indices * COPIES, str(folder))))
        times.append(timed(tile_it))
    return {
        "case": case.name,
        "limit": case.limit,
        "limit_s": median(limits),
        "tile_s": median(times),
        "ratio": median(limits) / median(times),
        "goal": case.goal,
        "tiles": TileStore(store).n_tiles,
        "seconds_per_slide": steps,
        "reading": bench_store.measure(store) if case.name in READ_BACK else {},
    }


def by_reader(ndpi: Path, scheduler: str, folder: Path) -> dict[str, float]:
    """Tile an NDPI by its own reader and by OpenSlide, in turn; return the median seconds of each."""
    seconds: dict[str, list[float]] = {"ndpi": [], "openslide": []}
    for _ in range(ROUNDS + 1):
        for reader, found in seconds.items():
            out = stores_folder(folder)
            options = TileOptions(slides=cohort(ndpi), out=out, scheduler=scheduler, reader=reader)  # type: ignore[arg-type]
            found.append(timed(lambda options=options: tile(options)))  # type: ignore[misc]
    return {reader: median(found[1:]) for reader, found in seconds.items()}


def stores_folder(folder: Path) -> Path:
    """Return an empty folder for stores: in memory where there is room, so that no disk is measured."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_ROOM
    out = memory / f"gigamil-bench-{os.getpid()}" if roomy else folder / "stores"
    shutil.rmtree(out, ignore_errors=True)
    return out


def ordinary_way(slide: Path, scale: int, pool: "multiprocessing.pool.Pool", folder: Path) -> dict[str, object]:
    """Time the ordinary way on a sample of the tissue tiles; return seconds for all of them."""
    out = stores_folder(folder)
    tile(TileOptions(slides=(slide,), out=out, workers=0, assume_mpp=0.5, target_mpp=0.5 * scale))
    store = TileStore(out / f"{slide.stem}.zarr")
    target = folder / "ordinary.zarr"
    shutil.rmtree(target, ignore_errors=True)
    zarr.create_array(target, shape=(3, *store.shape_yx), chunks=(3, 256, 256), dtype="uint8", fill_value=255)
    chosen = store.tiles_yx[:: max(1, store.n_tiles // 256)].tolist()
    parts = [chosen[i :: usable_cpus()] for i in range(usable_cpus())]
    seconds = timed(lambda: pool.starmap(ordinary, [(slide, part, str(target), scale) for part in parts]))
    return {"case": f"{slide.stem}, {scale}:1", "seconds_for_all": seconds * store.n_tiles / len(chosen)}


def memory(folder: Path) -> list[dict[str, object]]:
    """Tile a slide of 0.5 and one of 6 gigapixels, each with new workers; return what a worker held at most."""
    rows = []
    for height, width in ((20_000, 25_000), (60_000, 100_000)):
        path = folder / f"memory-{height}x{width}.tif"
        if not path.exists():
            spec = SlideSpec(height_px=height, width_px=width, tissue_share=0.03, bigtiff=True)
            make_slide(path, spec, threads=usable_cpus())
        out = stores_folder(folder)
        with (
            LocalCluster(
                n_workers=usable_cpus(), threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
            ) as cluster,
            Client(cluster) as client,
        ):
            options = TileOptions(slides=(path,), out=out, assume_mpp=0.5, scheduler=cluster.scheduler_address)
            seconds = timed(lambda options=options: tile(options))  # type: ignore[misc]
            peak = max(client.run(_peak_bytes).values())
        rows.append({"gigapixels": height * width / 1e9, "tile_s": seconds, "peak_worker_mib": peak >> 20})
    return rows


def _warm() -> None:
    import wsi.tiling.tiler  # noqa: F401


def _sleep(_: int) -> None:
    import wsi.tiling.tiler  # noqa: F401

    time.sleep(0.5)


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def show(result: dict[str, object]) -> None:
    """Print the table."""
    table = Table(
        "case", "limit", "limit s", "tile s", "ratio", "goal", title=f"{result['size']} px, {result['workers']} workers"
    )
    for row in result["rows"]:  # type: ignore[attr-defined]
        numbers = (f"{row[key]:.2f}" for key in ("limit_s", "tile_s", "ratio", "goal"))
        table.add_row(row["case"], row["limit"], *numbers)
    console = Console()
    console.print(table)
    for row in result["rows"]:  # type: ignore[attr-defined]
        told = ", ".join(f"{step} {seconds:.2f}" for step, seconds in row["seconds_per_slide"].items())
        console.print(f"regions of one slide, {row['case']}: {told} s")
        for name, value in row["reading"].items():
            console.print(f"  {name}: {value:.2f}{'' if name.startswith('ratio') else ' MPix/s'}")
    for row in result["ordinary"]:  # type: ignore[attr-defined]
        console.print(f"the ordinary way, {row['case']}: {row['seconds_for_all']:.1f} s (from a sample of its tiles)")
    ndpi = result["ndpi"]
    console.print(f"NDPI: {ndpi['ndpi']:.2f} s, by OpenSlide {ndpi['openslide']:.2f} s")  # type: ignore[index]
    console.print(f"peak memory of a worker: {result['peak_worker_mib']} MiB")
    for row in result.get("memory", ()):  # type: ignore[attr-defined]
        console.print(
            f"{row['gigapixels']:.1f} gigapixels: {row['tile_s']:.1f} s, "
            f"a worker held {row['peak_worker_mib']} MiB at most"
        )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000, help="side of the slides, pixels")
    parser.add_argument("--folder", type=Path, help="where slides are kept between runs; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=Path("bench-wsi.json"))
    parser.add_argument("--memory", action="store_true", help="also tile 0.5 and 6 gigapixels and compare the peaks")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = run(arguments.size, folder)
        if arguments.memory:
            result["memory"] = memory(folder)
    shutil.rmtree(stores_folder(folder), ignore_errors=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


if __name__ == "__main__":
    main()
