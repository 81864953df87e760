"""Opens and reads spoiled slides in a process of its own: run as ``python fuzzing.py FOLDER SEED CASES``.

Every file and zarr folder of FOLDER is spoiled in many ways. Prints one JSON object; what it was doing when it died
stands in FOLDER/doing.txt.
"""

import json
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from wsi.errors import GigamilError
from wsi.readers.resolution import resolve_mpp
from wsi.slide import open_slide
from wsi.tiling.scaling import choose_scaling
from wsi.units import Box

MEMORY = 3 << 30
"""Bytes of address space on top of what the imports take."""
SECONDS = 20
"""A case that takes longer hangs."""


def spoil(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with flips, holes, cuts, or a number blown up."""
    out = bytearray(data)
    near_an_end = rng.random() < 0.7
    for _ in range(int(rng.integers(1, 9))):
        span = min(len(out), 1024) if near_an_end else len(out)
        if not span:
            break
        at = int(rng.integers(span)) if rng.random() < 0.5 else len(out) - 1 - int(rng.integers(span))
        kind = rng.integers(12)
        if kind < 7:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 7:
            out[at : at + 4] = b"\xff\xff\xff\xff"[: len(out) - at]
        elif kind == 8:
            length = int(rng.integers(1, 4096))
            out[at : at + length] = bytes(len(out[at : at + length]))
        elif kind == 9:
            del out[at:]
        elif kind == 10:
            del out[at : at + int(rng.integers(1, 64))]
        else:
            out[at] = int(rng.integers(256))
    return bytes(out)


def look(path: Path) -> str:
    """Open a slide, read some boxes of each level; return how it ended."""
    try:
        slide = open_slide(path, threads=2)
    except GigamilError as error:
        return _checked(error, "refused")
    try:
        with slide:
            for index, level in enumerate(slide.levels[:6]):
                for corner in (
                    (0, 0),
                    (level.shape.y // 2, level.shape.x // 2),
                    (level.shape.y - 70, level.shape.x - 70),
                ):
                    slide.read(index, Box(*corner, corner[0] + 100, corner[1] + 100), [])
            resolution = resolve_mpp(slide.mpp_claims, objective_power=slide.objective_power, assume_mpp=0.5)
            choose_scaling(slide.levels, resolution.mpp, 20.0)
            slide.read(0, Box(0, 0, 64, 64))
    except GigamilError as error:
        return _checked(error, "damaged")
    return "read"


def _checked(error: GigamilError, kind: str) -> str:
    text = str(error)
    if not text or "\n" in text or len(text) > 1500:
        raise AssertionError(f"not one clear line: {text!r}") from error
    return kind


def _spoiled(source: Path, copy: Path, rng: np.random.Generator) -> None:
    if not source.is_dir():
        copy.write_bytes(spoil(source.read_bytes(), rng))
        return
    shutil.copytree(source, copy)
    files = sorted(p for p in copy.rglob("*") if p.is_file())
    weights = np.array([5.0 if p.suffix == ".json" or p.name.startswith(".z") else 1.0 for p in files])
    victim = files[int(rng.choice(len(files), p=weights / weights.sum()))]
    victim.write_bytes(spoil(victim.read_bytes(), rng))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main(folder: Path, seed: int, cases: int) -> None:
    """Spoil and look, in turn over all slides of the folder."""
    sources = sorted(p for p in folder.iterdir() if p.name != "doing.txt" and not p.name.startswith("spoiled"))
    for source in sources:
        look(source)  # loads every library before memory is limited
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    warnings.simplefilter("error")
    ended: Counter[str] = Counter()
    faults, slowest = [], 0.0
    for case in range(cases):
        source = sources[case % len(sources)]
        (folder / "doing.txt").write_text(f"{source.name} seed {seed} case {case}")
        copy = folder / f"spoiled{source.suffix}"
        _spoiled(source, copy, np.random.default_rng([seed, case]))
        signal.alarm(SECONDS)
        start = time.perf_counter()
        try:
            ended[look(copy)] += 1
        except BaseException as error:
            faults.append(f"{source.name} case {case}: {''.join(traceback.format_exception(error)[-3:])}")
        signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - start)
        _remove(copy)
    print(json.dumps({"ended": ended, "faults": faults, "slowest_s": slowest, "peak_mib": _peak_kib() // 1024}))


def _peak_kib() -> int:
    """Return this program's own peak; getrusage would count what the process that started it held."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
