"""Training from disk: how long until the first step, what an epoch reads, how much memory and how many files it takes.

Run: ``python tests/benchmarks/bench_train.py [--slides 200 10000] [--folder FOLDER] [--out bench-train.json]``, or
``make bench-train``. Bags of 15,000 x 1,536 are made whose features lie in holes of their files: they take no disk, and
are read as any file is. Each cohort is trained on in a process of its own: of 1,000 slides and fewer a whole epoch with
all its scoring (``mean_pool``, of which reading is the larger part), of more the first two steps of gated attention.
The limit of the epoch is reading the same bags by themselves, one after the other, in the same process.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from sparse_bags import bytes_of_features, bytes_on_disk, write_sparse_bags

from mil.data import several_encoders
from mil.training.fit import fit
from mil.training.jobs import FitJob
from mil.training.later import Later
from mil.training.loop import Loop, Told
from mil.training.options import TrainOptions
from mil.training.sampling import Drawn
from mil.training.training_data import gather

N_TILES, DIM = 15_000, 1536
WHOLE_EPOCH = 1000
"""Slides up to which a whole epoch is trained."""
STEPS = 2
"""Of larger cohorts."""


class Enough(Exception):
    """The steps that were to be measured are done."""


def cpu_s() -> float:
    """Return the CPU seconds of this process, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def bytes_read() -> int:
    """Return the bytes that this process has read from files, from the page cache or not."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def measure(bags: Path, table: Path, slides: int) -> dict[str, Any]:
    """Train as far as is measured; return what it took."""
    torch.set_num_threads(1)
    several_encoders.HELD_BYTES = 0  # a cohort that is not held, however small
    whole = slides <= WHOLE_EPOCH
    options = TrainOptions(
        bags=(bags,), manifest=table, out=bags.parent / f"run{slides}", epochs=1, baselines=(), device="cpu",
        precision="fp32", head="mean_pool" if whole else "gated_abmil",
    )  # fmt: skip
    found: dict[str, Any] = {"slides": slides, "head": options.head}
    files, step, steps, start = [0], Loop._step, [0], (time.perf_counter(), cpu_s(), bytes_read())

    def watched(self: Loop, batch: Sequence[Drawn]) -> tuple[Told, Later]:
        if not steps[0]:
            found["before_first_step_s"] = time.perf_counter() - start[0]
            found["before_first_step_cpu_s"] = cpu_s() - start[1]
            found["before_first_step_bytes"] = bytes_read() - start[2]
        if steps[0] == STEPS and not whole:
            raise Enough
        steps[0] += 1
        files[0] = max(files[0], len(os.listdir("/proc/self/fd")))
        return step(self, batch)

    Loop._step = watched  # type: ignore[method-assign]
    data = gather(options)
    job = FitJob(head=options.head, fold=0, seed=0, folder=options.out, options=options, recipe_hash="")
    (cohort,) = data.open()
    before = (time.perf_counter(), cpu_s(), bytes_read())
    with suppress(Enough):
        fit(job, cohort, data.folds)
    found["then_s"], found["then_cpu_s"] = time.perf_counter() - before[0], cpu_s() - before[1]
    found["then_bytes"] = bytes_read() - before[2]
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["open_files"] = files[0]
    if whole:
        began = cpu_s()
        for bag in cohort.bags:
            bag[:]
        found["reading_alone_cpu_s"] = cpu_s() - began
    return found


def _measured(bags: Path, table: Path, slides: int, out: Any) -> None:
    out.put(measure(bags, table, slides))


def main() -> None:
    """Measure every cohort; print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, nargs="+", default=[200, 10_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results, context = [], multiprocessing.get_context("spawn")
    for slides in asked.slides:
        folder = Path(tempfile.mkdtemp(dir=asked.folder))
        try:
            table = write_sparse_bags(folder / "bags", slides, N_TILES, DIM)
            queue = context.SimpleQueue()
            process = context.Process(target=_measured, args=(folder / "bags", table, slides, queue))
            process.start()
            found = queue.get()
            process.join()
            found["features_bytes"] = slides * bytes_of_features(folder / "bags" / "s00000.h5")
            found["on_disk_mib"] = bytes_on_disk(folder / "bags") / 2**20
        finally:
            shutil.rmtree(folder)
        results.append(found)
        print(json.dumps(found), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
