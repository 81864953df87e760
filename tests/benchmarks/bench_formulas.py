"""Pictures per second that each family of formulas draws, as a ratio to a plain limit measured in the same run.

Run: ``python tests/benchmarks/bench_formulas.py [--device cuda] [--size 224] [--out bench-formulas.json]``; less than a
minute. The limit counts one point for each pixel of as many pictures, at places in memory (`scatter_add`): less no
picture can cost that is made of points. On a CPU processor time of one thread counts, on a GPU time on its clock.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from features.formulas import FORMULAS, formula
from wsi.machine.memory import keep_freed_memory

TOGETHER = {"cpu": 24, "cuda": 256}
REPEATS = 5
SEED = 0


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return what it takes: processor time, or on a GPU time until all is done."""
    if device.type == "cpu":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def measured(size_px: int, device: torch.device) -> dict[str, float]:
    """Return pictures per second of the limit and of each family: the best of several interleaved repeats."""
    index = torch.arange(TOGETHER[device.type], device=device)
    places = (torch.rand(len(index), size_px**2, device=device) * size_px**2).long()
    counts = torch.zeros(len(index), size_px**2, dtype=torch.int32, device=device)
    ones = torch.ones_like(places, dtype=torch.int32)
    works: dict[str, Callable[[], object]] = {"limit": lambda: counts.scatter_add_(1, places, ones)}
    for name in FORMULAS:
        drawn = formula(name, classes=len(index), seed=SEED)
        works[name] = partial(drawn.draw, index, index, size_px)
    for work in works.values():
        work()
    best = dict.fromkeys(works, float("inf"))
    for _ in range(REPEATS):
        best = {name: min(best[name], seconds(work, device)) for name, work in works.items()}
    return {name: len(index) / spent for name, spent in best.items()}


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, action="append")
    parser.add_argument("--out", type=Path, default=Path("bench-formulas.json"))
    asked = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    table, found = Table("family", "px", "pictures/s", "limit/s", "limit / pictures"), {}
    for size_px in asked.size or [96, 224]:
        rates = found[size_px] = measured(size_px, torch.device(asked.device))
        for name in FORMULAS:
            ratio = rates["limit"] / rates[name]
            table.add_row(name, str(size_px), f"{rates[name]:.0f}", f"{rates['limit']:.0f}", f"{ratio:.1f}")
    Console().print(table)
    asked.out.write_text(json.dumps({"device": asked.device, "pictures_per_second": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
