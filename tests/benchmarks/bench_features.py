"""Whole extraction, as a ratio to the forward pass alone on tensors in memory, measured in the same run.

Run: ``python tests/benchmarks/bench_features.py [--out bench-features.json]``, or ``make bench-features``. About four
minutes on a CPU.

A cohort of small slides is painted from real texture and tiled once. The limit is the encoder's forward pass on
normalised tensors in memory: the same model and batch size, as many threads (on a GPU: streams) as extraction uses.
Extraction is everything from the command on: building the encoder, opening stores, reading, normalising, encoding,
writing bags. *Longest wait* is the longest time without a finished batch once the first has come: a valley
between slides would show there, in units of the median time between batches.

Where a GPU is present, also ViT-L/16, ConvNeXt-L and EfficientNetV2-L in fp16 and bf16, from zstd and from JPEG stores.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from features.encoders.device import autocast, reproducible_arithmetic
from features.encoders.registry import build_encoder
from features.encoders.spec import WeightsChoice
from features.encoders.tile_input import TileInput
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from features.extraction.stream import GPU_LANES
from sample_data.make import make_slide
from sample_data.spec import SlideSpec
from wsi.machine.cpu import usable_cpus
from wsi.machine.memory import keep_freed_memory
from wsi.progress.outcome import Silent
from wsi.store.tile_store import find_stores
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

SIDE_PX = 3000
TILE_PX = 224
CPU_MODEL = "timm:resnet18"
GPU_MODELS = ("timm:vit_large_patch16_224", "timm:convnext_large.fb_in22k", "timm:tf_efficientnetv2_l.in21k")
GPU_COPIES = 40
"""How often the cohort's stores are repeated for a GPU."""
SEED = 0


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    encoder: str
    precision: str
    codec: str
    processes: int
    tiles: int
    limit_tiles_s: float
    tiles_s: float
    longest_wait: float
    spent: dict[str, float]

    @property
    def ratio(self) -> float:
        """Extraction's speed in units of the limit."""
        return self.tiles_s / self.limit_tiles_s


@dataclass
class Clock(Silent):
    """Notes when tiles are finished."""

    times: list[float] = field(default_factory=list)

    def advance(self, amount: float) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def longest_wait(self) -> float:
        """Return the longest time between finished batches, in units of the median."""
        gaps = [after - before for before, after in zip(self.times[:-1], self.times[1:], strict=True)]
        gaps = [gap for gap in gaps if gap > 1e-4] or [1.0]
        return max(gaps) / median(gaps)


def make_stores(folder: Path, slides: int, codec: str, copies: int) -> Path:
    """Paint and tile the cohort, unless it is there; return the folder of its stores."""
    stores = folder / f"stores-{codec}-{slides}-{copies}"
    if stores.exists():
        return stores
    paths = [folder / f"slide{number:02d}.tif" for number in range(slides)]
    for number, path in enumerate(paths):
        if not path.exists():
            spec = SlideSpec(height_px=SIDE_PX, width_px=SIDE_PX, seed=(number,), tissue_share=0.4)
            make_slide(path, spec, threads=usable_cpus())
    made = folder / "made"
    options = TileOptions(slides=tuple(paths), out=made, assume_mpp=0.5, tile_px=TILE_PX, codec=codec)  # type: ignore[arg-type]
    if tile(options).exit_code:
        raise SystemExit("the slides cannot be tiled")
    for copy in range(1, copies):
        for path in paths:
            shutil.copytree(made / f"{path.stem}.zarr", made / f"{path.stem}-{copy}.zarr", copy_function=os.link)
    made.rename(stores)
    return stores


def forward_only(name: str, device: torch.device, precision: str, batch_size: int, seconds: float) -> float:
    """Return tiles/s of the forward pass alone."""
    keep_freed_memory()
    encoder = build_encoder(name, WeightsChoice(random_seed=SEED)).to(device)
    pixels = torch.randint(0, 256, (batch_size, 3, TILE_PX, TILE_PX), dtype=torch.uint8)
    batch = TileInput(encoder.spec, device)(pixels).clone()
    lanes = GPU_LANES if device.type == "cuda" else usable_cpus()

    def lane(until: float) -> int:
        done = 0
        if device.type == "cpu":
            torch.set_num_threads(1)
        stream = torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else None
        with torch.inference_mode(), autocast(device, precision):
            if stream is not None:
                stream.__enter__()
            while time.perf_counter() < until:
                encoder.encode(batch).float().cpu()
                done += batch_size
        return done

    with reproducible_arithmetic(), ThreadPoolExecutor(lanes) as pool:
        list(pool.map(lane, [time.perf_counter() + seconds / 5] * lanes))  # warm-up
        began = time.perf_counter()
        done = sum(pool.map(lane, [began + seconds] * lanes))
        return done / (time.perf_counter() - began)


def measure(
    name: str,
    stores: Path,
    codec: str,
    device: torch.device,
    precision: str,
    batch_size: int,
    processes: int,
    seconds: float,
) -> Row:
    """Extract the cohort once, between two measurements of the limit."""
    out = stores.parent / f"bags-{stores.name}"
    tiles = sum(store.n_tiles for store in find_stores([stores]))
    before = forward_only(name, device, precision, batch_size, seconds)
    clock = Clock()
    options = ExtractOptions(
        stores=(stores,),
        out=out,
        encoder=name,
        random_weights=SEED,
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]
        device=str(device),
        nproc=processes,
    )
    summary = extract(options, clock)
    after = forward_only(name, device, precision, batch_size, seconds)
    shutil.rmtree(out)
    if summary.exit_code:
        raise SystemExit(f"extraction failed: {summary.outcomes[0].reason}")
    limit = (before + after) / 2
    return Row(
        name,
        precision,
        codec,
        processes,
        tiles,
        limit,
        tiles / summary.seconds,
        clock.longest_wait(),
        dict(summary.spent),
    )


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(
        "encoder", "precision", "store", "processes", "tiles", "limit tiles/s", "tiles/s", "ratio", "longest wait"
    )
    for row in rows:
        speeds = (f"{row.limit_tiles_s:.1f}", f"{row.tiles_s:.1f}", f"{row.ratio:.2f}", f"{row.longest_wait:.1f}")
        table.add_row(row.encoder, row.precision, row.codec, str(row.processes), str(row.tiles), *speeds)
    console = Console(width=140, soft_wrap=True)
    console.print(table)
    for row in rows:
        spent = ", ".join(f"{step} {seconds:.1f}" for step, seconds in row.spent.items())
        console.print(
            f"{row.encoder}, {row.precision}, {row.codec}, {row.processes} processes: {spent} s, over all threads"
        )


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=20)
    parser.add_argument("--model", default=CPU_MODEL, help="encoder of the CPU part")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement of the limit")
    parser.add_argument("--folder", type=Path, help="where stores are kept between runs; default: a temporary folder")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        cpu = torch.device("cpu")
        for codec, processes in (("zstd", 1), ("zstd", 2), ("jpeg", 1)):
            stores = make_stores(folder, asked.slides, codec, 1)
            rows.append(measure(asked.model, stores, codec, cpu, "fp32", asked.batch_size, processes, asked.seconds))
        if torch.cuda.is_available():
            gpu = torch.device("cuda", 0)
            for name in GPU_MODELS:
                for precision in ("fp16", "bf16"):
                    for codec in ("zstd", "jpeg"):
                        stores = make_stores(folder, asked.slides, codec, GPU_COPIES)
                        rows.append(measure(name, stores, codec, gpu, precision, 256, 1, asked.seconds))
    show(rows)
    if asked.out is not None:
        device = (
            torch.cuda.get_device_name(0) if torch.cuda.is_available() else platform.processor() or platform.machine()
        )
        content = {
            "device": device,
            "cpus": usable_cpus(),
            "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
        }
        asked.out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
