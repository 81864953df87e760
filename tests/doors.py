"""Spoils files of every kind that may come from elsewhere, and opens each through its door, in a process of its own.

Run as ``python doors.py FOLDER SEED CASES``. FOLDER holds one good file or folder of each kind (`DOORS`).
Prints one JSON object; what it was doing when it died stands in FOLDER/doing.txt.
"""

import csv
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from fuzzing import spoil

from features.bags.bag import feature_rows, read_coords, read_header
from features.encoders.lineage import read_lineage
from features.encoders.weights import load_weights
from features.finetune.attention import AttentionTables
from features.folds import folds_of, read_folds
from features.learning.checkpoint import read_checkpoint as read_standing
from mil.data.splits import read_column
from mil.models.ensemble import load_ensemble, makings_of
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.run.outputs import Tables
from mil.run.scores import read_scores
from mil.search import _read as read_search
from mil.training.checkpoint import read_checkpoint
from wsi.annotations.regions import read_regions
from wsi.cohort.manifest import load_manifest
from wsi.errors import GigamilError
from wsi.recipe import recipe_hash
from wsi.store.tile_store import TileStore
from wsi.tissue.roi import roi_mask
from wsi.units import YX

MEMORY = 3 << 30
"""Bytes of address space on top of what the imports take."""
SECONDS = 20
"""A case that takes longer hangs."""
LONGEST = 600
"""Characters of a message, its path left out."""
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, -(10**9), 0.5, 1e308, float("nan"), float("inf"), -0.0),
    *("", "x", "../../x", "/etc/passwd", "a\nb", "\u202e\x07", "y" * 20_000, "1e999", "-1", "NaN"),
    *([], {}, [[]], [None], {"a": {}}, [0] * 1000, ["z" * 900] * 50),
)
"""What is put in the place of a value."""


def store(path: Path) -> None:
    opened = TileStore(path)
    assert len(opened.tiles_yx) == len(opened.tissue) == len(opened.coords_l0_yx()) == opened.n_tiles
    assert all(len(own) == opened.n_tiles for own in opened.scores.values())
    opened.read_tiles(range(min(2, opened.n_tiles)))
    opened.overview(256)
    opened.tissue_mask()
    assert opened.provenance is not None


def bag(path: Path) -> None:
    header = read_header(path)
    rows = feature_rows(path)
    assert rows.shape == (header.n_tiles, header.dim)
    assert np.isfinite(rows).all()
    assert read_coords(path, 0.5).shape == (header.n_tiles, 2)


def run(path: Path) -> None:
    opened = RunFolder(path)
    made = makings_of(opened)
    assert made
    ensemble = load_ensemble(opened, "cpu")
    logits = ensemble.logits([np.ones((2, made[0].dim), np.float32)])
    assert logits.shape == (1, len(opened.classes))
    assert np.isfinite(logits).all()
    for fold in range(opened.recipe["folds"]):
        assert len(read_scores(opened.model(opened.head, fold, 0) / "scores.csv").image_ids)
    evidence = read_evidence(opened)
    assert len(evidence.told[evidence.head]) == len(evidence.patients)
    assert evidence.warnings() is not None


def splits(path: Path) -> None:
    folds_of(path, ["a_0"], ["a"])
    for name in ("label", "patient_id"):
        read_column(path, name)
    read_column(path, "overview_sha256", "")
    read_folds(path, load_manifest(path.parent / "manifest.csv"))


def regions(path: Path) -> None:
    if path.suffix == ".geojson":
        read_regions(path)
    assert set(np.unique(roi_mask(path, YX(1500, 1900), YX(60, 76), 25.0))) <= {0, 1}


def weights(path: Path) -> None:
    load_weights(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3)), path)
    read_lineage(path)


def attention(path: Path) -> None:
    AttentionTables(path)._of("a_0")


DOORS: dict[str, Callable[[Path], None]] = {
    "store.zarr": store,
    "bag.h5": bag,
    "clam.h5": bag,
    "run": run,
    "manifest.csv": lambda path: (load_manifest(path), None)[1],
    "semicolons.csv": lambda path: (load_manifest(path), None)[1],
    "splits.csv": splits,
    "attention.csv": attention,
    "regions.geojson": regions,
    "regions.png": regions,
    "weights.safetensors": weights,
    "weights.pt": weights,
    "checkpoint.safetensors": lambda path: (read_checkpoint(path.parent, "hash"), None)[1],
    "standing.safetensors": lambda path: (read_standing(path, {"settings": "one"}), None)[1],
    "search_all.json": lambda path: (read_search(path), None)[1],
    "compare.json": lambda path: (Tables(path, (), "mark").earlier({"a": 1}, overwrite=True), None)[1],
}
"""How each kind is opened."""


def spoil_values(content: Any, rng: np.random.Generator) -> Any:
    """Return JSON values with one of them replaced, taken out, doubled, or buried deep."""
    holder: dict[str, Any] = {"root": content}
    place: Any = holder
    key: Any = "root"
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
        place = place[key]
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[int(rng.integers(len(keys)))]
    kind = rng.integers(8)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place, list):
        place.append(place[key])
    elif kind == 2:
        place[key] = [place[key]]
    elif kind == 3 and isinstance(place[key], int | float):
        place[key] = place[key] * int(rng.choice([-1, 2, 1000, 10**9, 10**18]))
    else:
        place[key] = ODD[int(rng.integers(len(ODD)))]
    return holder.get("root")


def spoil_text(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """Spoil what a text says rather than its bytes."""
    if rng.random() < 0.05:
        deep = int(rng.choice([100, 5000, 200_000]))
        return (b"a = " if name.endswith(".toml") else b"") + b"[" * deep + b"]" * deep
    if name.endswith(("json", ".geojson")):
        return json.dumps(spoil_values(json.loads(data), rng)).encode()
    if name.endswith(".toml"):
        config = spoil_values(tomllib.loads(data.decode()), rng)
        if isinstance(config, dict) and isinstance(config.get("recipe"), dict) and rng.random() < 0.8:
            try:
                config["recipe_hash"] = recipe_hash(config["recipe"])
                return tomli_w.dumps(config).encode()
            except (TypeError, ValueError):
                return data[::-1]
        return b"x = 1"
    rows = list(csv.reader(io.StringIO(data.decode())))
    row, cells = spoil_values(rows, rng), io.StringIO()
    listed = [own if isinstance(own, list) else [own] for own in row] if isinstance(row, list) else [[row]]
    csv.writer(cells).writerows(listed)
    return cells.getvalue().encode("utf-8", "replace")


def spoil_file(path: Path, rng: np.random.Generator) -> None:
    """Spoil a file, or put something else in its place."""
    if rng.random() < 0.06:
        path.unlink()
        kind = rng.integers(6)
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1:
            path.mkdir()
        elif kind < 5:
            path.symlink_to(("/dev/zero", path.name, "nowhere")[kind - 2])
        return
    data = path.read_bytes()
    by_value = path.suffix in (".json", ".geojson", ".toml", ".csv") and rng.random() < 0.7
    path.write_bytes(spoil_text(path.name, data, rng) if by_value else spoil(data, rng))


def spoiled(source: Path, copy: Path, rng: np.random.Generator) -> None:
    """Make a spoiled copy of a file or folder."""
    if source.is_file():
        shutil.copyfile(source, copy)
        spoil_file(copy, rng)
        return
    shutil.copytree(source, copy, symlinks=True)
    files = sorted(p for p in copy.rglob("*") if p.is_file() and p.name != "recipe.json")
    share = np.array([9.0 if p.suffix in (".json", ".toml") else 1.0 for p in files])
    victim = files[int(rng.choice(len(files), p=share / share.sum()))]
    spoil_file(victim, rng)


def look(kind: str, copy: Path) -> str:
    """Open a copy through its door; return how it ended."""
    try:
        DOORS[kind](copy)
    except GigamilError as error:
        text = str(error)
        if not text or "\n" in text or len(text.replace(str(copy), "")) > LONGEST or copy.name not in text:
            raise AssertionError(f"not one clear line: {text!r}") from error
        return "refused"
    return "read"


def main(folder: Path, seed: int, cases: int) -> None:
    """Spoil and look, in turn over all doors."""
    torch.set_num_threads(1)
    for kind in DOORS:
        assert look(kind, folder / kind) == "read", kind  # loads every library before memory is limited
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    warnings.simplefilter("error")
    place = folder / "place"
    ended: Counter[str] = Counter()
    faults, slowest = [], (0.0, "")
    for case in range(cases):
        kind = list(DOORS)[case % len(DOORS)]
        (folder / "doing.txt").write_text(f"{kind} seed {seed} case {case}")
        place.mkdir()
        shutil.copyfile(folder / "manifest.csv", place / "manifest.csv")
        spoiled(folder / kind, place / kind, np.random.default_rng([seed, case]))
        there = sorted(os.listdir(place))
        signal.alarm(SECONDS)
        start = time.perf_counter()
        try:
            ended[f"{kind} {look(kind, place / kind)}"] += 1
            assert sorted(os.listdir(place)) == there
        except BaseException as error:
            faults.append(f"{kind} case {case}: {''.join(traceback.format_exception(error)[-4:])[-900:]}")
        signal.alarm(0)
        slowest = max(slowest, (time.perf_counter() - start, f"{kind} case {case}"))
        shutil.rmtree(place)
    print(json.dumps({"ended": ended, "faults": faults, "slowest": slowest}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
