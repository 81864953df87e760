"""Reading a store into batches, as a ratio to decoding the same chunks from memory, measured in the same run.

Run: ``python tests/benchmarks/bench_store.py STORE``
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import zarr

from wsi.store.layout import shard_key
from wsi.store.tile_store import TileStore

ROUNDS = 5


def measure(path: Path, n_tiles: int = 512, batch: int = 64) -> dict[str, float]:
    """Return MPix/s of each way, and the ratios of the direct reader to decoding alone.

    Tiles in a random order of runs of 16, as a cohort's stream of batches takes them; files in the page cache.
    """
    store = TileStore(path)
    starts = np.random.default_rng(0).permutation(np.arange(0, store.n_tiles - 15, 16))
    order = np.concatenate([np.arange(s, s + 16) for s in starts])[:n_tiles]
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    chunks = compressed(store, order)
    out = np.empty((batch, 3, store.tile_px, store.tile_px), np.uint8)
    decode_into = store.codec_of(0).decode_into

    def decode(part: slice) -> None:
        for i in range(*part.indices(len(chunks))):
            decode_into(chunks[i], out[i % batch])

    def decode_two() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(decode, [slice(0, None, 2), slice(1, None, 2)]))

    def read(threads: int) -> None:
        for indices in batches:
            store.read_tiles(indices, threads, out[: len(indices)])

    def through_zarr() -> None:
        array = zarr.open_array(path / "0", mode="r")
        for row, column in store.tiles_yx[order[:64]].tolist():
            side = store.tile_px
            array[:, row * side : (row + 1) * side, column * side : (column + 1) * side]

    mpix = len(order) * store.tile_px**2 / 1e6
    ways: dict[str, tuple[Callable[[], None], float]] = {
        "decode, 1 thread": (lambda: decode(slice(None)), mpix),
        "read_tiles, 1 thread": (lambda: read(1), mpix),
        "decode, 2 threads": (decode_two, mpix),
        "read_tiles, 2 threads": (lambda: read(2), mpix),
        "zarr-python": (through_zarr, mpix * min(64, len(order)) / len(order)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):  # taken in turn, so that a busy machine slows all of them
        for name, (run, _) in ways.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    speed = {name: ways[name][1] / median(times) for name, times in seconds.items()}
    for n in ("1 thread", "2 threads"):
        ratios = [d / r for d, r in zip(seconds[f"decode, {n}"], seconds[f"read_tiles, {n}"], strict=True)]
        speed[f"ratio, {n}"] = median(ratios)
    return speed


def compressed(store: TileStore, indices: np.ndarray) -> list[bytes]:
    """Return the chunks of listed tiles as bytes in memory."""
    side = store.grid.shard_tiles(0)
    wanted = [
        (shard_key(0, row // side, column // side), row % side * side + column % side)
        for row, column in store.tiles_yx[indices].tolist()
    ]
    return [bytes(data) for data in store.folder.chunks(wanted, side**2) if data is not None]


if __name__ == "__main__":
    print(json.dumps({name: round(value, 3) for name, value in measure(Path(sys.argv[1])).items()}, indent=1))
