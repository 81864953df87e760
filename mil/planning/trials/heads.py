"""Training measured: heads on bags of the sizes that are planned, by the loop that trains, for an epoch or some.

A whole short training, report included, tells what each run takes beside its epochs.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from features.bags.bag import BagFacts, write_bag
from mil.accounting.ranges import Range
from mil.accounting.spent import disk_use, own_peak_bytes
from mil.data.cohort import Cohort
from mil.planning.calibration import HeadCost, head_key
from mil.planning.trials.clock import Clock
from mil.planning.trials.tiling import NOISE
from mil.ragged.packing import group_by_rows
from mil.train import train
from mil.training.fit import new_model
from mil.training.jobs import FitJob, divide
from mil.training.loop import Loop
from mil.training.options import TrainOptions, resolve
from mil.training.processes import deterministic
from mil.training.ranks import Ranks
from mil.training.training_data import gather
from wsi.arrays import Ints
from wsi.files.atomic import make_folder, write_text
from wsi.store.layout import SUFFIX
from wsi.store.tile_store import TileStore

_PATIENTS = 24
_FEW = 12
"""Patients of a run that is compared with one of `_PATIENTS`: what each slide takes in evaluation and report."""
_MOST_BYTES = 256 << 20
"""Of features that are made up."""
_MORE = 12
"""Epochs by which two trainings differ."""
_FOLDS = 6
"""That are trained at most: so few patients are divided into no more."""
_SMALL = 8
"""Rows of small bags: what a bag costs whatever its size."""


@dataclass(slots=True)
class HeadTrial:
    """What was measured."""

    costs: list[HeadCost] = field(default_factory=list)
    fixed: dict[str, float] = field(default_factory=dict)
    load: float = 1.0
    """By which it was slower than on an idle machine."""


def try_heads(
    asked: Sequence[TrainOptions],
    sizes: Sequence[int],
    dim: int,
    scratch: Path,
    seconds: float,
    stores: Sequence[Path] = (),
) -> HeadTrial:
    """Measure every head of the trainings; runs in a process of its own.

    Parameters
    ----------
    asked
        The trainings; only what costs time or memory is taken of them.
    sizes
        Rows of the bags that are planned.
    dim
        Width of the features.
    scratch
        A folder, for bags that are made up.
    seconds
        That it may take, about.
    stores
        Some, for the pictures and colours of a report; none: it shows none.
    """
    trial, jobs = HeadTrial(fixed={"start_seconds": time.process_time()}), dict[str, tuple[TrainOptions, str]]()
    for options in asked:
        for head in options.heads:
            jobs.setdefault(head_key(options, head, dim), (options, head))
    _whole(asked[0], dim, scratch, [*map(TileStore, stores)], trial)
    planned = _bags(scratch / "planned", _chosen(sizes, dim), dim)
    small = _bags(scratch / "small", [_SMALL] * _PATIENTS, dim)
    own = wall = 0.0
    for key, (options, head) in jobs.items():
        clock = Clock()
        trial.costs.append(_cost(key, options, head, (planned, small), seconds / len(jobs)))
        own, wall = own + clock.seconds, wall + clock.wall
    trial.load = max(1.0, wall / max(own, 1e-9))
    return trial


def _chosen(sizes: Sequence[int], dim: int) -> list[int]:
    """Return sizes of so many bags, evenly spread over those that are planned, and never more than fits."""
    ordered = np.sort(np.maximum(1, np.asarray(sizes if len(sizes) else [64], np.int64)))
    picked = ordered[((np.arange(_PATIENTS) + 0.5) * len(ordered) / _PATIENTS).astype(int)]
    return [int(min(size, _most_rows(dim))) for size in picked]


def _most_rows(dim: int) -> int:
    return max(1, _MOST_BYTES // (2 * dim * _PATIENTS))


def _bags(folder: Path, sizes: Sequence[int], dim: int) -> Path:
    """Write bags of noise, and their table."""
    corners = [256 * np.stack([np.arange(size), np.zeros(size, np.int64)], 1) for size in sizes]
    made = [(f"s{n}", own, {"level0_shape_yx": (256 * len(own), 256)}) for n, own in enumerate(corners)]
    return _noise(folder, made, dim)


def _bags_of_stores(folder: Path, stores: Sequence[TileStore], slides: int, dim: int) -> Path:
    """Write bags of noise for so many slides, each with a store, the same under other names where there are few."""
    made = []
    make_folder(folder / "stores")
    for number in range(slides):
        store = stores[number % len(stores)]
        (folder / "stores" / f"s{number}{SUFFIX}").symlink_to(store.path)
        corners = store.coords_l0_yx()[: _most_rows(dim)]
        facts = {"mpp": store.mpp, "l0_px_per_px": store.l0_px_per_px, "level0_shape_yx": store.slide_shape_yx}
        made.append((f"s{number}", corners, facts))
    return _noise(folder, made, dim)


def _noise(folder: Path, made: Sequence[tuple[str, Ints, dict[str, Any]]], dim: int) -> Path:
    """Write bags of noise with these names, corners and facts, and their table."""
    make_folder(folder)
    rng, lines = np.random.default_rng(0), ["image_id,patient_id,center_id,label"]
    usual: dict[str, Any] = {"encoder": "noise", "recipe": {"stage": "extract"}, "provenance": {}, "tile_px": 256}
    for number, (name, corners, told) in enumerate(made):
        rows = rng.standard_normal((len(corners), dim), np.float32)
        facts = BagFacts(image_id=name, **usual | {"mpp": 0.5, "l0_px_per_px": 1.0} | told)
        write_bag(folder / f"{name}.h5", [rows], corners, facts)
        lines.append(f"{name},p{number},c{number // 2 % 3},{'ab'[number % 2]}")
    write_text(folder / "table.csv", "\n".join(lines) + "\n")
    return folder


def _options(options: TrainOptions, head: str, folder: Path, out: Path, **changes: object) -> TrainOptions:
    """Return the options of a short training on made-up bags that costs as the real one does."""
    told: dict[str, object] = {
        "bags": (folder,), "manifest": folder / "table.csv", "out": out, "head": head, "baselines": (), "folds": 2,
        "seeds": 1, "target": "classes", "unit": "patient", "aggregate": "mean", "calibrate": "none", "classes": (),
        "splits": None, "split": "patients", "other": None, "other_label": "", "teacher": None, "stores": (),
        "fusion": "none", "columns": None, "repeats": 1, "workers": 1, "nproc": 1, "track": (), "overwrite": True,
        "output": "linear", "mixup": options.mixup, "inner_share": options.inner_share or TrainOptions.inner_share,
    }  # fmt: skip
    return replace(options, **(told | changes))  # type: ignore[arg-type]


def _loop(options: TrainOptions, head: str, folder: Path) -> tuple[Loop, Cohort]:
    own = resolve(_options(options, head, folder, folder / "run"))
    data = gather(own)
    (cohort,) = data.open()
    job = FitJob(head=head, fold=0, seed=0, folder=folder / "run", options=own, recipe_hash="")
    parts = divide(cohort, data.folds, job)
    model = new_model(job, cohort, parts, Ranks())
    return Loop(job, cohort, parts, model, Ranks()), cohort


def _cost(key: str, options: TrainOptions, head: str, folders: tuple[Path, Path], seconds: float) -> HeadCost:
    small = _loop(options, head, folders[1])[0]
    loop, cohort = _loop(options, head, folders[0])
    rows = sum(len(cohort.bags[i]) for i in loop.parts.train.tolist()) / len(loop.parts.train)
    with deterministic([loop.job]):
        small.epoch(0)
        before = _memory(loop)
        loop.epoch(0)
        mapped = sum(cohort.bags[i].nbytes for i in loop.parts.train.tolist()) if loop.device.type == "cpu" else 0
        row_bytes = max(0.0, _memory(loop) - before - mapped) / max(1, _largest_step(loop, cohort))
        bag = _epochs(loop, seconds / 2)
        scored = _scored(loop) / max(bag, 1e-9)
        fixed = min(bag, _epochs(small, seconds / 4))
    return HeadCost(
        key=key,
        bag_seconds=Range.about(fixed, NOISE),
        row_seconds=Range.about((bag - fixed) / rows, NOISE),
        scored_share=min(1.0, scored),
        row_bytes=row_bytes,
    )


def _epochs(loop: Loop, seconds: float) -> float:
    """Train epochs until the time is over, two at least; return the least that one took, for each of its bags."""
    began, best = time.monotonic(), float("inf")
    for epoch in count(1):
        clock = Clock()
        loop.epoch(epoch)
        best = min(best, clock.wall if loop.device.type == "cuda" else clock.seconds)
        if epoch >= 2 and time.monotonic() - began > seconds:
            break
    return best / len(loop.parts.train)


def _scored(loop: Loop) -> float:
    """Return what scoring takes for each bag."""
    clock = Clock()
    loop.scores(loop.parts.val)
    return (clock.wall if loop.device.type == "cuda" else clock.seconds) / len(loop.parts.val)


def _memory(loop: Loop) -> float:
    """Return the most memory until now: of the GPU where it trains there, else of this process."""
    if loop.device.type == "cuda":
        torch.cuda.synchronize(loop.device)
        return float(torch.cuda.max_memory_allocated(loop.device))
    return float(own_peak_bytes())


def _largest_step(loop: Loop, cohort: Cohort) -> int:
    """Return the rows that were on the device at once, at most."""
    sizes = [len(cohort.bags[i]) for i in loop.parts.train.tolist()]
    capped = [min(size, loop.options.max_tiles or size) for size in sizes]
    batch = sorted(capped, reverse=True)[: loop.options.batch_bags]
    return max(sum(batch[i] for i in group) for group in group_by_rows(batch, loop.options.max_rows))


def _whole(options: TrainOptions, dim: int, scratch: Path, stores: Sequence[TileStore], trial: HeadTrial) -> None:
    """Train whole runs: what the first of a process, each run, slide, and epoch of a model takes beside its bags."""
    out, there = scratch / "runs", [own for own in stores if own.n_tiles] if options.stores else []
    few, many = (
        _bags_of_stores(scratch / str(n), there, n, dim) if there else _bags(scratch / str(n), [_SMALL] * n, dim)
        for n in (_FEW, _PATIENTS)
    )
    # each into a folder of its own: what stands finished in one would not be trained again
    runs = enumerate(((few, 1), (few, 1), (few, 1 + _MORE), (many, 1)))
    first, again, more, larger = (_trained(options, own, out / str(n), epochs) for n, (own, epochs) in runs)
    models = [own.parent for own in (out / "3").rglob("model.json")]
    epoch = max(0.0, more - again) / (_MORE * len(models))
    of_few, of_many = (_bags_seconds(options, own) for own in (few, many))
    slide = max(0.0, larger - again - len(models) * (of_many - of_few)) / (_PATIENTS - _FEW)
    trial.fixed |= {
        "first_seconds": max(0.0, first - again),
        "epoch_seconds": max(0.0, epoch - of_few),
        "slide_seconds": slide,
        "train_seconds": max(0.0, again - len(models) * epoch - _FEW * slide),
        "model_bytes": disk_use(models) / max(1, len(models)),
        "run_bytes": float(disk_use([out / "3"]) - disk_use(models)),
        "train_bytes": float(own_peak_bytes()),
    }


def _bags_seconds(options: TrainOptions, folder: Path) -> float:
    """Return what the bags of a folder take in an epoch, on the mean of the heads."""
    found = 0.0
    for head in options.heads:
        loop, _ = _loop(options, head, folder)
        with deterministic([loop.job]):
            found += _epochs(loop, 0.0) * len(loop.parts.train) + _scored(loop) * len(loop.parts.val)
    return found / len(options.heads)


def _trained(options: TrainOptions, folder: Path, out: Path, epochs: int) -> float:
    """Train a run of so many epochs; return its seconds."""
    clock, cpu = Clock(), time.process_time()
    told: dict[str, object] = {
        "epochs": epochs,
        "warmup_epochs": 0,
        "patience": epochs,
        "folds": min(options.folds, _FOLDS),
    }
    told |= {"baselines": options.baselines, "seeds": min(options.seeds, 2)}
    told |= {"stores": (folder / "stores",)} if (folder / "stores").exists() else {}
    train(_options(options, options.head, folder, out, **told))
    spent = time.process_time() - cpu  # waiting for a disk that others use would count in the other
    return max(clock.seconds, spent) if resolve(options).device != "cpu" else spent
