"""The local server on a store of 6 gigapixels: first picture, memory, tiles per second against reading them directly.

Run: ``python tests/benchmarks/bench_view.py FOLDER``; the store is made in the folder, and takes about 1 GB.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import imagecodecs
import numpy as np

from wsi.files.documents import parse_json
from wsi.store.codecs import Jpeg
from wsi.store.grid import Grid
from wsi.store.layout import (
    group,
    meta_hash,
    multiscales,
    omero,
    shard_path,
    write_image_arrays,
    write_json,
    write_small_array,
)
from wsi.store.metadata import FORMAT_VERSION
from wsi.store.shards import write_shard
from wsi.store.tile_store import TileStore
from wsi.units import YX, ceil_div
from wsi.viewing.picture import StorePicture

SHAPE, TILE_PX, MPP, MASK_MPP = YX(76_800, 79_360), 256, 0.25, 16.0
REQUESTS, ROUNDS, CONNECTIONS = 2000, 3, 6
_SERVER = """
import sys
from pathlib import Path
from wsi.viewing.collection import Collection, find_shown, patients_of
from wsi.viewing.review import Review
from wsi.viewing.served import Served
from wsi.viewing.server.access import Access
from wsi.viewing.server.serve import serve
shown = find_shown((Path(sys.argv[1]),), (), None)
review = Review(patients_of([own.image_id for own in shown], {}), None, None, blind=False)
served = Served(Collection(shown), review, "Slides")
serve(served, Access("127.0.0.1", None), 0, lambda told: print(told.port, flush=True))
"""


def make_store(path: Path) -> TileStore:
    """Write a store of JPEG chunks, tissue on two fifths of it: a few different tiles, each at many places."""
    grid, rng = Grid(SHAPE, TILE_PX), np.random.default_rng(0)
    codec = Jpeg()
    noise = [rng.normal(0, 1, (TILE_PX // 4, TILE_PX // 4, 1)).repeat(4, 0).repeat(4, 1) for _ in range(64)]
    fine = [rng.normal(0, 6, (TILE_PX, TILE_PX, 3)) for _ in noise]
    tiles = [
        np.clip(np.array([170, 90, 160]) + 30 * n + f, 0, 254).astype(np.uint8)
        for n, f in zip(noise, fine, strict=True)
    ]
    chunks = [codec.encode(tile) for tile in tiles]
    y, x = np.mgrid[: grid.tiles.y, : grid.tiles.x]
    held = ((y / grid.tiles.y - 0.5) / 0.36) ** 2 + ((x / grid.tiles.x - 0.5) / 0.36) ** 2 < 1
    listed = np.argwhere(held).astype(np.int32)
    for level in range(len(grid.levels())):
        _write_level(path, grid, level, held, chunks)
        padded = np.pad(held, [(0, side % 2) for side in held.shape])
        held = padded[::2, ::2] | padded[1::2, ::2] | padded[::2, 1::2] | padded[1::2, 1::2]
        if level + 1 < len(grid.levels()):
            held = held[: grid.level_tiles(level + 1).y, : grid.level_tiles(level + 1).x]
    write_image_arrays(path, grid, ("jpeg",) * len(grid.levels()))
    _write_small(path, grid, listed)
    return TileStore(path)


def _write_level(path: Path, grid: Grid, level: int, held: Any, chunks: list[bytes]) -> None:
    side = grid.shard_tiles(level)
    for row in range(0, held.shape[0], side):
        for column in range(0, held.shape[1], side):
            places = np.argwhere(held[row : row + side, column : column + side]).tolist()
            content = {y * side + x: chunks[(7 * (row + y) + column + x) % len(chunks)] for y, x in places}
            write_shard(shard_path(path, level, row // side, column // side), content, side**2)


def _write_small(path: Path, grid: Grid, listed: Any) -> None:
    shape = YX(*(ceil_div(side, round(MASK_MPP / MPP)) for side in SHAPE))
    write_small_array(path / "overview" / "0", np.full((3, *shape), 236, np.uint8), ("c", "y", "x"))
    write_small_array(path / "labels" / "tissue" / "0", np.ones(shape, np.uint8), ("y", "x"))
    write_small_array(path / "tiles" / "yx", listed, ("tile", "yx"))
    write_small_array(path / "tiles" / "tissue", np.ones(len(listed), np.float32), ("tile",))
    meta: dict[str, Any] = {
        "format": FORMAT_VERSION, "complete": True, "image_id": path.stem, "tile_px": TILE_PX, "mpp": MPP,
        "l0_px_per_px": 1.0, "mask_mpp": MASK_MPP, "slide_shape_yx": list(SHAPE), "shape_yx": list(SHAPE),
        "n_tiles": len(listed), "codec": "jpeg", "codecs": ["jpeg"] * len(grid.levels()), "jpeg_checksum": True,
        "scores": [], "recipe": {}, "recipe_hash": "", "provenance": {"tissue": {"background": [236, 238, 237]}},
    }  # fmt: skip
    meta["sha256"] = meta_hash(meta)
    scales = multiscales(path.stem, grid.levels(), MPP, "cyx", 0.0)
    ome = {"version": "0.5", "multiscales": [scales], "omero": omero()}
    write_json(path / "zarr.json", group({"ome": ome, "gigamil": meta}))


class Client:
    """Connections that stay open and ask in turn, as a browser's do: as little work as can be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        self._left = [bytearray() for _ in self._sockets]

    def get(self, paths: list[str]) -> list[bytes]:
        """Return the bodies; so many requests are under way at once as there are connections."""
        bodies: list[bytes] = []
        for start in range(0, len(paths), CONNECTIONS):
            part = paths[start : start + CONNECTIONS]
            for one, path in zip(self._sockets, part, strict=False):
                one.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
            bodies += [self._answer(i) for i in range(len(part))]
        return bodies

    def _answer(self, i: int) -> bytes:
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._sockets[i].recv(1 << 16)
        assert data.startswith(b"HTTP/1.1 200"), bytes(data[:200])
        length = re.search(rb"Content-Length: (\d+)", data[:end], re.IGNORECASE)
        assert length is not None
        whole = end + 4 + int(length[1])
        while len(data) < whole:
            data += self._sockets[i].recv(1 << 18)
        return bytes(data[end + 4 : whole])


def first_picture(client: Client, image_id: str, width: int = 1400) -> float:
    """Return the seconds from the page's address to the last tile of the first view: what a browser asks, in turn."""
    began = time.perf_counter()
    client.get([f"/slides/{image_id}/index.html"])
    client.get(["/assets/style.css", "/assets/app.js"])
    (text,) = client.get([f"/slides/{image_id}/slide.js"])
    document = parse_json(text.strip().removeprefix(b"gigamil.slide(").removesuffix(b");"))
    level = max(i for i, shape in enumerate(document["levels"]) if shape[1] >= width or i == 0)
    rows, columns = (ceil_div(side, document["tile_px"]) for side in document["levels"][level])
    client.get([f"/slides/{image_id}/tiles/{level}/{y}_{x}.jpg" for y in range(rows) for x in range(columns)])
    return time.perf_counter() - began


def measure(path: Path) -> dict[str, float]:
    """Return seconds, MiB, tiles per second, and ratios measured in the same run; files in the page cache."""
    store = TileStore(path) if path.exists() else make_store(path)
    picture = StorePicture(store)
    starts = np.random.default_rng(0).permutation(np.arange(0, store.n_tiles - 20, 20))[: REQUESTS // 20]
    places = store.tiles_yx[np.concatenate([np.arange(s, s + 20) for s in starts])]
    paths = [f"/slides/{store.image_id}/tiles/0/{y}_{x}.jpg" for y, x in places.tolist()]
    out = np.empty((len(places), 3, TILE_PX, TILE_PX), np.uint8)
    seconds: dict[str, list[float]] = {"decode": [], "file": [], "served": []}
    with subprocess.Popen([sys.executable, "-c", _SERVER, str(path)], stdout=subprocess.PIPE) as program:
        try:
            assert program.stdout is not None
            client = Client(int(program.stdout.readline()))
            before = _cpu_seconds(program.pid)
            found = {"first picture, s": first_picture(client, store.image_id)}
            found["first picture, CPU seconds of the server"] = _cpu_seconds(program.pid) - before
            for _ in range(ROUNDS):
                seconds["served"].append(_timed(lambda: client.get(paths)))
                seconds["decode"].append(_timed(lambda: store.read_chunks(0, places, out)))
                seconds["file"].append(_timed(lambda: [picture.jpeg(0, y, x) for y, x in places.tolist()]))
            status = Path(f"/proc/{program.pid}/status").read_text()
            found["server's memory after all requests, MiB"] = int(status.split("VmRSS:")[1].split()[0]) / 1024
            found["of it files in the page cache, MiB"] = int(status.split("RssFile:")[1].split()[0]) / 1024
            bodies = client.get(paths[:50])
            assert bodies == [picture.jpeg(0, y, x) for y, x in places[:50].tolist()]
            assert imagecodecs.jpeg8_decode(bodies[0]).shape == (TILE_PX, TILE_PX, 3)
        finally:
            program.terminate()
    speed = {name: len(places) / median(times) for name, times in seconds.items()}
    found |= {f"{name}, tiles/s": value for name, value in speed.items()}
    found["ratio to reading the chunks into pixels"] = speed["served"] / speed["decode"]
    found["ratio to reading them as files"] = speed["served"] / speed["file"]
    return found


def _cpu_seconds(pid: int) -> float:
    """Return what a process has used: on a busy machine it tells more than the clock does."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _timed(run: Any) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps({name: round(value, 3) for name, value in measure(folder / "six.zarr").items()}, indent=1))
