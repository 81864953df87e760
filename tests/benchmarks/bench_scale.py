"""From one slide and one worker to a cluster: what grows, what a task costs, and what would be in the way first.

Run: ``python tests/benchmarks/bench_scale.py [--quick] [--out bench-scale.json]``, or ``make bench-scale``.

CPU seconds are those of every process that took part, so that a busy machine does not change them much; what is
compared is measured in turn, in one run. A cluster is not measured: it is simulated (`scale_model`) from unit costs
that are, and the simulation of two workers is held against two workers. What a cluster's file system does is assumed
(``--bandwidth``, ``--files``), and said so.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table
from scale_measures import (
    FULL,
    ORDER,
    QUICK,
    Sizes,
    Tiled,
    count_files,
    growth,
    lock_of_the_table,
    make,
    overhead,
    ranks,
    workers,
)
from scale_model import STEPS, WINDOW, Cluster, Costs, Result, Step, lifted, simulate

from wsi.machine.cpu import usable_cpus


def costs_of(tiled: Tiled, files: float, row: dict[str, Any], grow: float = 1.0, *, by_cpu: bool = False) -> Costs:
    """Return the model's unit costs of a measured command; its slides ``grow`` times as large.

    ``by_cpu``: tasks take their share of the workers' CPU seconds, not what the clock said of a busy machine.
    """
    share = min(1.0, tiled.workers_cpu_s / sum(map(sum, tiled.tasks.values()))) if by_cpu else 1.0
    per_slide = {name: len(seconds) / tiled.slides for name, seconds in tiled.tasks.items()}
    scaled = {"make_band", "make_region_once", "settle_region", "make_region"}
    counts = {
        name: max(1, round(count * (grow if name in scaled else 1)))
        for name, count in per_slide.items()
        if count >= 0.5
    }
    parts = sum(counts.values())
    each = tiled.bytes / tiled.slides * grow / parts
    steps = [
        Step(counts[name], [own * share for own in tiled.tasks[name]], each, files * grow / parts)
        for name in ORDER
        if name in counts
    ]
    client, scheduler = float(row["client_ms"]) / 1e3, float(row["scheduler_ms"]) / 1e3
    return Costs(steps, client, scheduler, client)


def check_model(tiled: Sequence[Tiled], row: dict[str, Any]) -> list[dict[str, float | str]]:
    """Hold the model of the 2-worker run against it: from the costs of the 1-worker run, and from its own."""
    one, two = (next(own for own in tiled if own.workers == number) for number in (1, 2))
    found: list[dict[str, float | str]] = []
    for name, source in (("one worker's costs", one), ("its own costs", two)):
        guess = simulate(costs_of(source, 0, row), Cluster(2), two.slides).seconds
        found.append({"from": name, "simulated_s": guess, "measured_s": two.wall_s, "error": guess / two.wall_s - 1})
    return found


def at_scale(costs: Costs, arguments: argparse.Namespace, sizes: Sizes) -> dict[str, Any]:
    """Simulate clusters of more and more nodes; then lift what is in the way, one thing after the other."""

    def cluster(nodes: int) -> Cluster:
        return Cluster(nodes * arguments.workers, arguments.bandwidth * 1e9, arguments.files)

    nodes = [{"nodes": n, **_told(simulate(costs, cluster(n), sizes.sweep))} for n in (1, 10, 25, 50, 100)]
    now, whole = cluster(100), simulate(costs, cluster(100), sizes.slides)
    path: list[dict[str, Any]] = [{"with": "as it is", **_told(whole)}]
    while path[-1]["bottleneck"] not in ("workers", STEPS) and len(path) < 4:
        words, costs, now = lifted(costs, now, str(path[-1]["bottleneck"]))
        path.append({"with": words, **_told(simulate(costs, now, sizes.sweep))})
    return {"slides": sizes.slides, "workers_per_node": arguments.workers, "nodes": nodes, "lifting": path}


def _told(result: Result) -> dict[str, Any]:
    rates = {"hours": result.seconds / 3600, "tasks_per_s": result.tasks / result.seconds}
    return {
        **rates,
        "bottleneck": result.bottleneck,
        "busy": {name: round(own, 3) for name, own in result.busy.items()},
    }


def show(result: dict[str, Any]) -> None:
    """Print what was found."""
    console = Console(width=140, soft_wrap=True)
    for title, key in (("cohorts", "cohorts"), ("single slides", "slides"), ("workers", "workers")):
        table = Table("slides", "gigapixels", "workers", "wall s", "CPU s", "CPU s a gigapixel", title=title)
        for row in result[key]:
            numbers = (row["gigapixels"], row["workers"], row["wall_s"], row["cpu_s"], row["cpu_s"] / row["gigapixels"])
            table.add_row(str(row["slides"]), *(f"{own:.3g}" for own in numbers))
        console.print(table)
    for key in ("ranks", "overhead", "model", "table"):
        for row in result[key]:
            console.print(
                key, ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
            )
    scale = result["scale"]
    console.print(
        f"{scale['slides']} slides of {scale['gigapixels']} gigapixels, {scale['workers_per_node']} workers a node"
    )
    for row in [*scale["nodes"], *scale["lifting"]]:
        told = f"{row['nodes']} nodes" if "nodes" in row else f"100 nodes, {row['with']}"
        busy = ", ".join(f"{name} {share:.0%}" for name, share in row["busy"].items())
        speed = f"{row['hours']:.2f} h, {row['tasks_per_s']:.0f} tasks/s"
        console.print(f"{told}: {speed}; first in the way: {row['bottleneck']} ({busy})")


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure, simulate; return what the JSON holds."""
    sizes = QUICK if arguments.quick else FULL
    out = folder / "stores"
    grown = growth(sizes, folder, out)
    by_workers = workers(sizes, folder, out)
    by_ranks = ranks(sizes, out, folder / "bags")
    empty = overhead(sizes, folder / "empty")
    largest = next(own for own in empty if own["by"] == "engine" and own["window"] != WINDOW * 2)
    files = count_files(make(folder, sizes.side, sizes.side), folder / "counted")
    grow = arguments.gigapixels / (sizes.side**2 / 1e9)
    source = max(by_workers, key=lambda own: own.workers == min(2, usable_cpus()))
    tables = [lock_of_the_table(folder, rows) for rows in (10, 200)]
    return {
        "machine": {"cpus": usable_cpus(), "load": os.getloadavg()[0]},
        **{name: [_row(own) for own in rows] for name, rows in (*grown.items(), ("workers", by_workers))},
        "ranks": by_ranks,
        "overhead": empty,
        "files_of_a_slide": files,
        "table": tables,
        "model": check_model(by_workers, empty[1]),
        "scale": {
            "gigapixels": arguments.gigapixels,
            **at_scale(costs_of(source, files, largest, grow, by_cpu=True), arguments, sizes),
        },
    }


def _row(tiled: Tiled) -> dict[str, Any]:
    tasks = {name: {"count": len(own), "mean_s": mean(own)} for name, own in tiled.tasks.items()}
    return {**asdict(tiled), "tasks": tasks}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small slides and few tasks: to see that it works")
    parser.add_argument("--gigapixels", type=float, default=1.5, help="of a simulated slide")
    parser.add_argument("--workers", type=int, default=32, help="of a simulated node")
    parser.add_argument("--bandwidth", type=float, default=20.0, help="of the simulated file system, GB/s")
    parser.add_argument("--files", type=float, default=20_000.0, help="files a second that it opens, makes or renames")
    parser.add_argument("--folder", type=Path, help="where slides are kept between runs; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=Path("bench-scale.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = run(arguments, folder)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


if __name__ == "__main__":
    main()
