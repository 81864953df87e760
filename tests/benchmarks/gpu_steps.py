"""The steps of bench_gpu.py: each a generator of rows, which are JSON values.

A row with ``ok`` is a check; one with ``value``, ``unit`` and perhaps ``limit`` (same unit) is a measurement.
"""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_features
import bench_mil
import bench_pretrain
import numpy as np
import torch

from features.bags.bag import BagFacts, read_features, write_bag
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from features.finetune.options import FinetuneOptions
from features.finetune.run import finetune
from mil.planning.calibration import read_calibration
from mil.planning.options import PlanOptions
from mil.planning.plan import plan
from mil.train import train
from mil.training.options import TrainOptions
from sample_data.make import make_cohort, make_slide
from sample_data.options import SampleOptions
from sample_data.spec import SlideSpec
from wsi.errors import RequestError
from wsi.machine.cpu import usable_cpus
from wsi.store.tile_store import TileStore, find_stores
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

Row = dict[str, Any]
TILE_PX = 224
SEED = 0
RESNET, VIT, JOINT = "timm:resnet10t", "timm:test_vit.r160_in1k", "timm:resnet10t+timm:test_vit.r160_in1k"
LARGE = "timm:vit_large_patch16_224"
MODELS = (
    "timm:resnet50", "timm:vit_small_patch16_224", LARGE, "timm:convnext_large.fb_in22k",
    "timm:tf_efficientnetv2_l.in21k", "h-optimus-0",
)  # fmt: skip
TOLERANCE = {"fp32": 1e-3, "bf16": 0.15, "fp16": 0.02}
"""Largest difference to fp32 on the CPU, in standard deviations of the CPU's features."""


@dataclass(frozen=True)
class Setting:
    """Where the steps run, and how large they are."""

    device: str
    small: bool
    folder: Path

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.startswith("cuda")

    @property
    def torch_device(self) -> torch.device:
        """The device."""
        return torch.device("cuda", 0) if self.gpu else torch.device("cpu")

    def stores(self, codec: str) -> Path:
        """Return the folder of the stores of a codec."""
        return self.folder / f"stores-{codec}"

    def many(self, codec: str) -> Path:
        """Return stores by which speed is measured: a larger slide's under many names."""
        return self.folder / f"many-{codec}"


def prepare(setting: Setting) -> Iterator[Row]:
    """Paint a cohort and a larger slide, tile them twice, repeat the larger one's stores by hard links."""
    sides = (1100, 1024) if setting.small else (3000, 2000)
    sample = SampleOptions(out=setting.folder / "sample", patients=12, size=sides[0], shortest=sides[1])
    began = time.perf_counter()
    if make_cohort(sample).exit_code:
        raise SystemExit("the sample cohort cannot be made")
    large, side = setting.folder / "large.tif", 1100 if setting.small else 9000
    make_slide(large, SlideSpec(height_px=side, width_px=side, seed=(0,), tissue_share=0.6), threads=usable_cpus())
    for codec in ("zstd", "jpeg"):
        made, slides = setting.stores(codec), (sample.out / "slides", large)
        options = TileOptions(slides=slides, out=made, assume_mpp=0.5, tile_px=TILE_PX, codec=codec, min_tissue=0.2)
        if tile(options).exit_code:
            raise SystemExit("the slides cannot be tiled")
        one = (made / f"{large.stem}.zarr").rename(setting.folder / f"{large.stem}-{codec}.zarr")
        for copy in range(1 if setting.small else 20):
            shutil.copytree(one, setting.many(codec) / f"{copy}.zarr", copy_function=os.link)
    tiles = [sum(store.n_tiles for store in find_stores([where("zstd")])) for where in (setting.stores, setting.many)]
    yield {"name": "cohort", "value": time.perf_counter() - began, "unit": "s", "tiles": tiles}


def ceilings(setting: Setting) -> Iterator[Row]:
    """Measure what the device can do at most: a copy, a product, an upload from page-locked memory."""
    size = 2**24 if setting.small else 2**32
    here = torch.empty(size, dtype=torch.uint8, device=setting.torch_device)
    there = torch.empty_like(here)
    seconds = best_of(setting, lambda: there.copy_(here))
    yield {"name": "copy on the device", "value": 2 * size / seconds / 1e9, "unit": "GB/s"}
    side = 512 if setting.small else 8192
    left, right = (torch.randn(side, side, device=setting.torch_device, dtype=torch.bfloat16) for _ in range(2))
    seconds = best_of(setting, lambda: left @ right)
    yield {"name": "bf16 product", "value": 2 * side**3 / seconds / 1e12, "unit": "TFLOP/s"}
    host = torch.empty(size // 4, dtype=torch.uint8, pin_memory=setting.gpu)
    seconds = best_of(setting, lambda: here[: size // 4].copy_(host, non_blocking=True))
    yield {"name": "upload", "value": size / 4 / seconds / 1e9, "unit": "GB/s"}


def best_of(setting: Setting, work: Callable[[], object], rounds: int = 5) -> float:
    """Return the fewest seconds of some rounds, after one that warms up."""
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        if setting.gpu:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found[1:])


def tests(setting: Setting) -> Iterator[Row]:
    """Run the tests that need a GPU."""
    yield from _pytest(setting, "gpu", "-m", "gpu", "tests/features", "tests/mil")


def suite(setting: Setting) -> Iterator[Row]:
    """Run the ordinary tests of features and mil, which take a GPU where there is one."""
    many = ["-n", str(max(1, usable_cpus() - 4))] if importlib.util.find_spec("xdist") else []
    yield from _pytest(setting, "features and mil", *many, "tests/features", "tests/mil")


def _pytest(setting: Setting, name: str, *arguments: str) -> Iterator[Row]:
    if not setting.gpu:
        yield {"name": f"pytest: {name}", "note": "left out: no GPU"}
        return
    root = Path(__file__).resolve().parents[2]
    # plugins of other projects warn, and warnings are errors
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    command += ["--continue-on-collection-errors", *arguments]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    yield {"name": f"pytest: {name}", "ok": ended.returncode == 0, "note": ended.stdout.strip()[-3000:]}


def encoded(setting: Setting, out: str, **options: Any) -> dict[str, np.ndarray]:
    """Extract into a folder of its own; return each bag's features, float32 (N, D)."""
    bags = setting.folder / "bags" / out
    usual: dict[str, Any] = {"stores": (setting.stores("zstd"),), "batch_size": 32, "device": setting.device}
    options = usual | options
    if options["encoder"] != "texture":
        options["random_weights"] = SEED
    summary = extract(ExtractOptions(out=bags, bag_dtype="float32", **options))
    if summary.exit_code:
        raise RuntimeError(summary.outcomes[0].reason)
    found = {path.stem: read_features(path).astype(np.float32) for path in sorted(bags.glob("*.h5"))}
    shutil.rmtree(bags)
    return found


def difference(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """Return the largest difference, in standard deviations of what was wanted."""
    assert found.keys() == wanted.keys()
    deviation = np.concatenate(list(wanted.values())).std()
    return max(float(np.abs(found[name] - wanted[name]).max()) for name in wanted) / float(deviation)


def exactness(setting: Setting) -> Iterator[Row]:
    """Compare the device's features with those of the CPU in fp32, and runs with each other."""
    variants: dict[str, dict[str, Any]] = {name: {"encoder": name} for name in ("texture", RESNET, VIT)}
    for stain in ("background", "macenko", "reinhard"):
        variants[f"stain {stain}"] = {"encoder": RESNET, "stain": stain}
    variants |= {
        "views d4": {"encoder": RESNET, "views": "d4"},
        "views kept": {"encoder": RESNET, "views": "flips", "keep_views": True},
    }
    for name, options in itertools.islice(variants.items(), 2 if setting.small else None):
        wanted = encoded(setting, "cpu", **options | {"device": "cpu", "precision": "fp32"})
        for precision in ("fp32", "bf16", "fp16") if options["encoder"] != "texture" else ("fp32",):
            found = encoded(setting, "device", **options, precision=precision)
            off = difference(found, wanted)
            yield check_row(f"{name}, {precision}, to fp32 on the CPU", off, TOLERANCE[precision])
            again = encoded(setting, "again", **options, precision=precision)
            yield {"name": f"{name}, {precision}, twice: equal bytes", "ok": difference(again, found) == 0.0}
    yield from _shapes_of_work(setting)


def check_row(name: str, value: float, limit: float) -> Row:
    """Return the row of a difference that must be within a limit."""
    return {"name": name, "ok": value <= limit, "value": value, "unit": "sd", "limit": limit}


def _shapes_of_work(setting: Setting) -> Iterator[Row]:
    """Yield what must not matter: memory order, a last batch of one, who encodes first; and what memory cannot hold."""
    first = encoded(setting, "first", encoder=RESNET, precision="fp32")
    order = encoded(setting, "order", encoder=RESNET, precision="fp32", channels_last=False)
    yield check_row("channels last or not", difference(order, first), 1e-3)
    tiles = sum(store.n_tiles for store in find_stores([setting.stores("zstd")]))
    side = next(size for size in range(2, tiles) if tiles % size == 1)
    one = encoded(setting, "one", encoder=RESNET, precision="fp32", batch_size=side)
    yield check_row(f"last batch of one tile (batches of {side})", difference(one, first), 1e-3)
    joint = [encoded(setting, "joint", encoder=JOINT) for _ in range(2 if setting.small else 20)]
    same = all(difference(own, joint[0]) == 0.0 for own in joint[1:])
    yield {"name": f"joint encoders, {len(joint)} times: equal bytes", "ok": same}
    if setting.gpu:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.02)
        told = ""
        try:
            encoded(setting, "much", encoder=LARGE, precision="fp32", batch_size=4096)
        except (RequestError, RuntimeError) as error:
            told = str(error)
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
        enough = encoded(setting, "enough", encoder=RESNET, precision="fp32")
        ok = "--batch-size 4096" in told and "\n" not in told and difference(enough, first) == 0.0
        yield {"name": "out of memory is one line, and the next run works", "ok": ok, "note": told[:300]}


def command_of(setting: Setting, out: Path, *more: str) -> list[str]:
    """Return the arguments of an extraction from the command line."""
    where = ["--device", "cuda" if setting.gpu else "cpu", "--random-weights", str(SEED), "--batch-size", "8"]
    return ["-m", "cli", "extract", str(setting.stores("zstd")), "--out", str(out), "--encoder", RESNET, *where, *more]


def hashes(bags: Path) -> dict[str, bytes]:
    """Return each bag's rows as bytes."""
    return {path.stem: read_features(path).tobytes() for path in sorted(bags.glob("*.h5"))}


def processes(setting: Setting) -> Iterator[Row]:
    """Share one device among processes, kill one of them, interrupt all."""
    folder = setting.folder / "processes"
    shutil.rmtree(folder, ignore_errors=True)
    alone = [sys.executable, *command_of(setting, folder / "alone")]
    subprocess.run(alone, check=True, capture_output=True)
    wanted = hashes(folder / "alone")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    several = {
        "--nproc 2 on one device": [sys.executable, *command_of(setting, folder / "two", "--nproc", "2")],
        "torchrun": [*torchrun, *command_of(setting, folder / "torchrun")],
    }
    for (name, command), where in zip(several.items(), ("two", "torchrun"), strict=True):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        ok = ended.returncode == 0 and hashes(folder / where) == wanted
        yield {"name": f"{name}: as one process", "ok": ok, "note": "" if ok else ended.stderr[-300:]}
    for name, number, codes in (("SIGKILL of a process", signal.SIGKILL, (0, 1)), ("Ctrl-C", signal.SIGINT, (130,))):
        out = folder / number.name
        command = [sys.executable, *command_of(setting, out, "--nproc", "2")]
        code, seconds = _disturbed(command, number)
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        ok = code in codes and again.returncode == 0 and hashes(out) == wanted
        note = f"ended with {code} after {seconds:.1f} s"
        yield {"name": f"{name} while encoding, then again: as undisturbed", "ok": ok, "note": note}


def _disturbed(command: list[str], number: signal.Signals) -> tuple[int, float]:
    """Run a command, send the signal once the first rank computes; return the exit code and the seconds it took."""
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    until = time.monotonic() + 60
    rank = 0
    while started.poll() is None and time.monotonic() < until:
        found = [int(own) for own in children.read_text().split()] if children.exists() else []
        working = [own for own in found if _cpu_seconds(own) > 4]
        if working:
            rank = working[0]
            break
        time.sleep(0.02)
    began = time.monotonic()
    if started.poll() is None:
        os.kill(rank if number == signal.SIGKILL and rank else started.pid, number)
    return started.wait(timeout=120), time.monotonic() - began


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def speed(setting: Setting) -> Iterator[Row]:
    """Measure the forward pass alone, and whole extractions as a share of it."""
    models = (RESNET,) if setting.small else MODELS
    halves = ("bf16", "fp16") if setting.gpu else ("fp32",)
    for name, precision, batch in itertools.product(models, halves, (16,) if setting.small else (64, 256)):
        wanted = setting.small or (batch == 256 and (precision == "bf16" or name == LARGE))
        yield from _speed_of(setting, name, precision, batch, ("zstd", "jpeg") if wanted else ())


def _speed_of(setting: Setting, name: str, precision: str, batch: int, codecs: tuple[str, ...]) -> Iterator[Row]:
    seconds = 0.3 if setting.small else 2.0
    if not codecs:
        alone = bench_features.forward_only(name, setting.torch_device, precision, batch, seconds)
        yield {"name": f"{name}, {precision}, batch {batch}: forward", "value": alone, "unit": "tiles/s"}
    for codec in codecs:
        if setting.gpu:
            torch.cuda.reset_peak_memory_stats()
        row = bench_features.measure(
            name, setting.many(codec), codec, setting.torch_device, precision, batch, 1, seconds
        )
        peak = torch.cuda.max_memory_allocated() / 2**30 if setting.gpu else 0.0
        told = {step: round(value, 2) for step, value in row.spent.items()}
        yield {
            "name": f"{name}, {precision}, batch {batch}: extraction from {codec}",
            "value": row.tiles_s, "unit": "tiles/s", "limit": row.limit_tiles_s, "spent": told, "peak_gib": peak,
        }  # fmt: skip


def trace(setting: Setting) -> Iterator[Row]:
    """Write a trace of the most important extraction, and say what the device did."""
    from torch.profiler import ProfilerActivity, profile

    name = RESNET if setting.small else LARGE
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.gpu else [])]
    began = time.perf_counter()
    with profile(activities=activities) as profiler:
        encoded(setting, "trace", encoder=name, precision="bf16" if setting.gpu else "fp32", batch_size=64)
    seconds = time.perf_counter() - began
    profiler.export_chrome_trace(str(setting.folder / "trace.json"))
    averages = profiler.key_averages()
    key = "self_device_time_total" if setting.gpu else "self_cpu_time_total"
    top = sorted(averages, key=lambda own: getattr(own, key), reverse=True)[:8]
    busy = sum(getattr(own, key) for own in averages) / 1e6
    note = "; ".join(f"{own.key[:60]} {getattr(own, key) / 1e3:.0f} ms" for own in top)
    yield {"name": "device busy while profiled", "value": busy, "unit": "s", "limit": seconds, "note": note}


def decode(setting: Setting) -> Iterator[Row]:
    """Compare decoding of JPEG tiles on the CPU with that on a GPU, where a package has it."""
    stores = find_stores([setting.many("jpeg")])
    tiles = [store.path for store in stores]
    _read_whole(tiles[0])  # imports
    for readers in (1, usable_cpus()):
        chosen = tiles * 2 if setting.small else tiles[: 12 * min(readers, 20)]
        began = time.perf_counter()
        with ThreadPoolExecutor(readers) as pool:
            count = sum(pool.map(_read_whole, chosen))
        rate = count / (time.perf_counter() - began)
        yield {"name": f"JPEG tiles of {TILE_PX} px, {readers} readers", "value": rate, "unit": "tiles/s"}
    if not setting.gpu or importlib.util.find_spec("torchvision") is None:
        yield {"name": "JPEG tiles, decoded by a GPU", "note": "left out: no GPU, or no torchvision"}
        return
    import imagecodecs
    from torchvision.io import decode_jpeg

    pixels = TileStore(tiles[0]).read_tiles(np.arange(min(64, TileStore(tiles[0]).n_tiles))).transpose(0, 2, 3, 1)
    files = [
        torch.frombuffer(bytearray(imagecodecs.jpeg8_encode(np.ascontiguousarray(own), level=90)), dtype=torch.uint8)
        for own in pixels
    ]
    batch = list(itertools.islice(itertools.cycle(files), 256))
    seconds = best_of(setting, lambda: decode_jpeg(batch, device="cuda"))
    yield {"name": "JPEG tiles, nvJPEG through torchvision", "value": len(batch) / seconds, "unit": "tiles/s"}


def _read_whole(path: Path | str) -> int:
    """Read all tiles of a store; return how many."""
    store = TileStore(path)
    return len(store.read_tiles(np.arange(store.n_tiles)))


def training(setting: Setting) -> Iterator[Row]:
    """Measure an epoch of resident features, large bags, training from disk, many models together."""
    for bags, rows in ((8, 200), (4, 800)) if setting.small else ((750, 10_000), (32, 50_000)):
        found = bench_mil.resident_epoch(setting.device, bags, rows)
        name = f"epoch of {bags} x {rows:,} x {bench_mil.DIM}, resident, bf16"
        yield {"name": name, "value": found["epoch_s"], "unit": "s", "limit": found["products_s"]}
    folder = setting.folder / "disk"
    _write_bags(folder, *((16, 100, 64) if setting.small else (200, 5000, 1024)))
    for precision in ("fp32", "bf16", "fp16") if setting.gpu else ("fp32",):
        out = setting.folder / f"run-{precision}"
        options = TrainOptions(
            bags=(folder,), manifest=folder / "train.csv", out=out, folds=2, epochs=2, baselines=(),
            device=setting.device, precision=precision,
        )  # fmt: skip
        summary = train(options)
        yield {
            "name": f"train from disk, {precision}, 2 folds x 2 epochs, with report",
            "ok": summary.exit_code == 0, "value": summary.seconds, "unit": "s",
        }  # fmt: skip
    if not setting.small:
        whole = bench_mil.whole_run(setting.folder / "whole", 2)
        yield {"name": "5 folds x 3 seeds on 754 bags of 1,000 x 512", "value": whole["bags_per_s"], "unit": "bags/s"}


def _write_bags(folder: Path, count: int, rows: int, dim: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    block = rng.standard_normal((2 * rows, dim)).astype(np.float16)
    starts = rng.permutation(rows)  # no two alike: equal bags of two patients are refused
    grid = np.stack(np.divmod(np.arange(rows), 40), axis=1).astype(np.int64) * 256
    lines = ["image_id,patient_id,label"]
    for number in range(count):
        facts = BagFacts(
            image_id=f"{number:04d}_0", encoder="made", recipe={}, provenance={}, tile_px=256, l0_px_per_px=1.0,
            level0_shape_yx=(100_000, 100_000), mpp=0.5,
        )  # fmt: skip
        first = int(starts[number])
        write_bag(folder / f"{number:04d}_0.h5", [block[first : first + rows]], grid, facts)
        lines.append(f"{number:04d}_0,{number:04d},{'LAA' if number % 3 == 0 else 'CE'}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")


def profile_of_the_card(setting: Setting) -> Iterator[Row]:
    """Measure for `gigamil plan --as card.json`, and plan by the file that was written."""
    models = (RESNET,) if setting.small else MODELS
    written, cohort = setting.folder / "card.json", setting.folder / "sample" / "card.toml"
    grid = f'[grid]\nencoder = {json.dumps(models)}\nhead = ["gated_abmil", "mean_pool"]\n'
    cohort.write_text(
        f'folder = "card"\nslides = "slides"\nmanifest = "train.csv"\n[tile]\ntile_px = {TILE_PX}\n{grid}'
    )
    plan(PlanOptions(what=(cohort,), calibrate=written, seconds=1 if setting.small else 6))
    known = read_calibration(written)
    for key, cost in known.encoders.items():
        yield {"name": f"{key}, {cost.precision}", "value": 1 / cost.tile_seconds.expected, "unit": "tiles/s"}
    there = plan(PlanOptions(what=(cohort,), calibrated=written))
    lost = [name for name in models if not any(own.name == name for own in there.stages)]
    ok = not lost and len(known.heads) > 0
    yield {"name": "planned with the file that was written", "ok": ok, "note": ", ".join([*lost, *there.notes])}


def tuning(setting: Setting) -> Iterator[Row]:
    """Measure some steps of fine-tuning, with accumulation and checkpointing."""
    for name in (RESNET,) if setting.small else ("timm:convnext_large.fb_in22k", LARGE):
        tiles = 8 if setting.small else 96
        options = FinetuneOptions(
            stores=(setting.stores("zstd"),), manifest=setting.folder / "sample" / "train.csv", encoder=name,
            random_weights=SEED, out=setting.folder / f"{name.partition(':')[2]}.safetensors", epochs=1,
            tiles_per_slide=tiles, batch_size=16 if setting.small else 64, accumulate=2, folds=2,
            activation_checkpointing=True, device=setting.device,
        )  # fmt: skip
        began = time.perf_counter()
        summary = finetune(options)
        seconds = time.perf_counter() - began
        note = "" if summary.exit_code == 0 else summary.outcomes[0].reason
        name = f"finetune {name}, an epoch with start and validation"
        yield {"name": name, "ok": summary.exit_code == 0, "value": seconds, "unit": "s", "note": note}


def pretraining(setting: Setting) -> Iterator[Row]:
    """Measure pretraining on formulas against images made alone and a network trained alone, taking turns."""
    network, size, batch, steps = ("test_resnet", 32, 8, 5) if setting.small else ("resnet50", 224, 256, 8)
    families = ("exfractaldb", "rcdb", "visualatom", "deadleaves-he", "stained")
    for family in families[-1:] if setting.small else families:
        asked = bench_pretrain.asked(family, network, size, batch, steps, setting.device, setting.folder)
        own = bench_pretrain.rates(asked)
        note = f"made alone {own.made:.0f}, trained alone {own.trained:.0f}"
        name = f"pretrain {network} on {family}, {size} px"
        yield {"name": name, "value": own.both, "limit": own.limit, "unit": "images/s", "note": note}


STEPS: dict[str, tuple[Callable[[Setting], Iterator[Row]], int]] = {
    "prepare": (prepare, 120),
    "ceilings": (ceilings, 30),
    "exactness": (exactness, 150),
    "processes": (processes, 120),
    "speed": (speed, 240),
    "training": (training, 90),
    "card": (profile_of_the_card, 120),
    "tuning": (tuning, 90),
    "pretraining": (pretraining, 90),
    "trace": (trace, 60),
    "decode": (decode, 40),
    "tests": (tests, 120),
    "suite": (suite, 300),
}
"""By name: what it does, and the seconds after which it is ended."""
CHECKS = ("exactness", "processes", "tests", "suite")
"""Steps of which no speed is asked."""
