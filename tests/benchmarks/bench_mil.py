"""A training step of gated attention on ragged bags, against torchmil's padded collate and its gated ABMIL.

Run: ``python tests/benchmarks/bench_mil.py [--out bench-mil.json]``, or ``make bench-mil``. About four minutes.

Both sides have the same layers (1024-512-256), the same float16 bags in memory and float32 products on one thread; a
step is collating, forward, backward and AdamW. Each side runs in a process of its own, so that the peak of its memory
is its own: resident memory above what the bags and the model hold before the step. *Products* is the time of the
matrix products alone: two forward and three backward, of the rows that there are. Without torchmil
(``pip install torchmil``) only this side is measured.

Then a whole cross-validation, 5 folds x 3 seeds on 754 bags of 1,000 x 512, as a user runs it, for a few epochs.

Where a GPU is present, also an epoch of 750 bags of 10,000 with the features resident, against the products alone on
the same rows. ``--device``, ``--bags`` and ``--rows`` make that part smaller, or run it elsewhere; on a CPU, which is
slow at float16 products, its ratio says nothing.
"""

import argparse
import importlib.util
import json
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from features.bags.bag import BagFacts, write_bag
from mil.heads import HeadSpec
from mil.models.model import BagModel
from mil.ragged.packing import group_by_rows, pack
from mil.targets import ClassTarget
from mil.train import train
from mil.training.options import TrainOptions
from wsi.machine.cpu import usable_cpus

DIM, HIDDEN, ATTENTION = 1024, 512, 256
CASES = {"16 x 1,000": (16, 1000, 3), "8 x 10,000": (8, 10_000, 1), "4 x 50,000": (4, 50_000, 1)}
"""Number of bags, their mean size, and how many steps are measured."""
SPREAD = 0.75
"""Standard deviation of the logarithm of the sizes."""
MAX_ROWS: Any = TrainOptions.__dataclass_fields__["max_rows"].default
"""What `gigamil train` takes where nothing else is said."""
BATCH = 8
"""Bags of a step on the GPU."""
Step = Callable[[], None]


@dataclass(frozen=True)
class Cost:
    """What one step costs."""

    cpu_s: float
    peak_mb: float


def ragged_sizes(count: int, mean: int, seed: int = 0) -> list[int]:
    """Return lognormal sizes whose mean is ``mean``."""
    sizes = np.random.default_rng(seed).lognormal(0, SPREAD, count)
    return [max(1, round(size)) for size in sizes * mean / sizes.mean()]


def make_bags(sizes: list[int]) -> list[np.ndarray]:
    """Return float16 bags (n, DIM); a block of normal numbers, repeated."""
    block = np.random.default_rng(1).standard_normal((1000, DIM)).astype(np.float16)
    return [np.resize(block, (size, DIM)) for size in sizes]


def our_step(bags: list[np.ndarray]) -> Step:
    """Return a training step of this package, as `mil.training.fit` takes it: at most `MAX_ROWS` instances at once."""
    model = BagModel(spec()).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    target = ClassTarget(np.arange(len(bags), dtype=np.int64) % 2, ("a", "b"))

    def step() -> None:
        optimizer.zero_grad()
        for group in group_by_rows([len(bag) for bag in bags], MAX_ROWS):
            packed = pack([bags[place] for place in group])
            truth = target.batch(np.array(group), "cpu")
            losses = truth.loss(model(packed.rows_ND, packed.offsets, truth).logits_BC)
            (losses.sum() / len(bags)).backward()
        optimizer.step()

    return step


def torchmil_step(bags: list[np.ndarray]) -> Step:
    """Return the same step with torchmil."""
    from torchmil.data import collate_fn
    from torchmil.models import ABMIL

    embed = nn.Sequential(nn.Linear(DIM, HIDDEN), nn.ReLU())
    model = ABMIL(in_shape=(DIM,), att_dim=ATTENTION, gated=True, feat_ext=embed).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    items = [{"X": torch.from_numpy(bag), "Y": torch.tensor(place % 2)} for place, bag in enumerate(bags)]

    def step() -> None:
        batch = collate_fn(items)
        logits_B = model(batch["X"].float(), batch["mask"])
        loss = nn.functional.binary_cross_entropy_with_logits(logits_B, batch["Y"].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


STEPS = {"gigamil": our_step, "torchmil": torchmil_step}


def spec() -> HeadSpec:
    """Return the head that is measured."""
    return HeadSpec(name="gated_abmil", dim=DIM, n_classes=2, hidden=HIDDEN, attention=ATTENTION)


def cost_here(side: str, sizes: list[int], repeats: int) -> Cost:
    """Measure a step in this process, which has done nothing else."""
    torch.set_num_threads(1)
    STEPS[side](make_bags([50, 20]))()
    step = STEPS[side](make_bags(sizes))
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident
    before = _resident("VmRSS")
    start = time.process_time()
    for _ in range(repeats):
        step()
    return Cost((time.process_time() - start) / repeats, _resident("VmHWM") - before)


def _resident(field: str) -> float:
    """Return a line of this process's status, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def cost(side: str, sizes: list[int], repeats: int) -> Cost:
    """Measure a step in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(cost_here, (side, sizes, repeats))


def products(rows_ND: Tensor, first_DH: Tensor, second_HA: Tensor) -> None:
    """Make the five matrix products of a training step on rows, and nothing else."""
    embedded_NH = rows_ND @ first_DH
    gate_NA = embedded_NH @ second_HA
    gate_NA @ second_HA.T
    embedded_NH.T @ gate_NA
    rows_ND.T @ embedded_NH


def weights(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return weights of the two layers."""
    shapes = (DIM, HIDDEN), (HIDDEN, 2 * ATTENTION)
    first_DH, second_HA = (torch.randn(shape, device=device, dtype=dtype) * shape[0] ** -0.5 for shape in shapes)
    return first_DH, second_HA


def product_seconds(rows: int) -> float:
    """Return the CPU time of the products of so many rows, in float32, from 10 chunks of 2048."""
    torch.set_num_threads(1)
    chunk_ND, layers = torch.randn(2048, DIM), weights("cpu", torch.float32)
    products(chunk_ND, *layers)
    start = time.process_time()
    for _ in range(10):
        products(chunk_ND, *layers)
    return (time.process_time() - start) / 10 / 2048 * rows


def ragged() -> list[dict[str, object]]:
    """Measure all cases."""
    sides = [side for side in STEPS if side == "gigamil" or importlib.util.find_spec(side)]
    rows = []
    for name, (count, mean, repeats) in CASES.items():
        sizes = ragged_sizes(count, mean)
        found = {side: cost(side, sizes, repeats) for side in sides}
        row: dict[str, Any] = {"bags": name, "sizes": sizes, "products_cpu_s": product_seconds(sum(sizes))}
        rows.append({**row, **{side: asdict(value) for side, value in found.items()}})
        print(_line(name, row["products_cpu_s"], found), flush=True)
    return rows


def _line(name: str, alone: float, found: dict[str, Cost]) -> str:
    ours, theirs = found["gigamil"], found.get("torchmil")
    cells = [name, f"{ours.cpu_s:.2f}", f"{ours.peak_mb:.0f}", f"{ours.cpu_s / alone:.2f} x"]
    if theirs is not None:
        ratios = theirs.cpu_s / ours.cpu_s, theirs.peak_mb / ours.peak_mb
        cells += [f"{theirs.cpu_s:.2f}", f"{theirs.peak_mb:.0f}", *(f"{ratio:.1f} x" for ratio in ratios)]
    return "| " + " | ".join(cells) + " |"


def resident_epoch(device: str, bags: int, size: int) -> dict[str, float]:
    """Return the seconds of an epoch on features that stay on the device, and of its matrix products alone."""
    torch.manual_seed(0)
    rows_ND = torch.empty(bags * size, DIM, dtype=torch.float16, device=device).normal_()
    model = BagModel(spec()).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    target = ClassTarget(np.arange(bags, dtype=np.int64) % 2, ("a", "b"))
    groups = [np.arange(start, min(start + BATCH, bags)) for start in range(0, bags, BATCH)]
    layers = weights(device, torch.float16)

    def step(group: np.ndarray) -> None:
        truth = target.batch(group, device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            output = model(_part(rows_ND, group, size), [size * i for i in range(len(group) + 1)], truth)
        loss = truth.loss(output.logits_BC).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def alone(group: np.ndarray) -> None:
        products(_part(rows_ND, group, size), *layers)

    train_s, products_s = (_epoch_seconds(work, groups, device) for work in (step, alone))
    return {"bags": bags, "rows": size, "epoch_s": train_s, "products_s": products_s, "ratio": train_s / products_s}


def whole_run(folder: Path, epochs: int) -> dict[str, float]:
    """Return wall seconds and bags/s of training 5 folds x 3 seeds on 754 bags of 1,000 x 512."""
    n_bags, rows, dim = 754, 1000, 512
    rng = np.random.default_rng(0)
    block = rng.standard_normal((4 * rows, dim)).astype(np.float16)
    starts = rng.permutation(3 * rows)  # no two alike: equal bags of two patients are refused
    lines = ["image_id,patient_id,label,center_id"]
    grid = np.stack(np.divmod(np.arange(rows), 40), axis=1).astype(np.int64) * 256
    for number in range(n_bags):
        facts = BagFacts(
            image_id=f"{number:04d}_0",
            encoder="made",
            recipe={},
            provenance={},
            tile_px=256,
            l0_px_per_px=1.0,
            level0_shape_yx=(100_000, 100_000),
            mpp=0.5,
        )
        first = int(starts[number])
        write_bag(folder / f"{number:04d}_0.h5", [block[first : first + rows]], grid, facts)
        lines.append(f"{number:04d}_0,{number:04d},{'LAA' if number % 4 == 0 else 'CE'},{number % 11}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    jobs = usable_cpus()
    options = TrainOptions(
        bags=(folder,),
        manifest=folder / "train.csv",
        out=folder / "run",
        seeds=3,
        epochs=epochs,
        patience=epochs,
        baselines=(),
        workers=jobs,
    )
    summary = train(options)
    if summary.exit_code:
        raise SystemExit(str(summary.outcomes[0].reason))
    passes = 15 * epochs * n_bags * 0.8
    return {"epochs": epochs, "jobs": jobs, "seconds": summary.seconds, "bags_per_s": passes / summary.seconds}


def _part(rows_ND: Tensor, group: np.ndarray, size: int) -> Tensor:
    return rows_ND[int(group[0]) * size : int(group[-1] + 1) * size]


def _epoch_seconds(work: Callable[[np.ndarray], None], groups: list[np.ndarray], device: str) -> float:
    """Return the time of all groups, after three to warm up."""
    on_gpu = torch.device(device).type == "cuda"
    for group in groups[:3]:
        work(group)
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for group in groups:
        work(group)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench-mil.json"))
    gpu = "cuda" if torch.cuda.is_available() else ""
    parser.add_argument("--device", default=gpu, help="device of the resident epoch; without a GPU there is none")
    parser.add_argument("--bags", type=int, default=750, help="bags of the resident epoch")
    parser.add_argument("--rows", type=int, default=10_000, help="instances of each of them")
    parser.add_argument("--epochs", type=int, default=3, help="of the whole run of 5 folds x 3 seeds; 0: none")
    parser.add_argument("--only-resident", action="store_true", help="leave the ragged bags out")
    arguments = parser.parse_args()
    result: dict[str, object] = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    if not arguments.only_resident:
        print("| bags | CPU s | extra MB | to products | torchmil CPU s | extra MB | less CPU | less memory |")
        print("|---" * 8 + "|")
        result["ragged"] = ragged()
    if arguments.epochs and not arguments.only_resident:
        with tempfile.TemporaryDirectory() as folder:
            whole = whole_run(Path(folder), arguments.epochs)
        result["whole_run"] = whole
        print(
            f"\n5 folds x 3 seeds on 754 bags of 1,000 x 512, {arguments.epochs} epochs, {whole['jobs']} models side "
            f"by side: {whole['seconds']:.0f} s with evaluation and report, {whole['bags_per_s']:.0f} bags/s"
        )
    if arguments.device:
        resident = resident_epoch(arguments.device, arguments.bags, arguments.rows)
        result["resident_epoch"] = resident
        shape = f"{arguments.bags} x {arguments.rows} x {DIM} on {arguments.device}"
        seconds = f"{resident['epoch_s']:.2f} s, products alone {resident['products_s']:.2f} s"
        print(f"\nepoch of {shape}: {seconds}, {resident['ratio']:.2f} x")
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
