"""A store of JPEG chunks, opened by zarr-python alone: the entry points make the codec known."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from wsi.pixels import jpeg
from wsi.store import layout, verify
from wsi.store.tile_store import TileStore
from wsi.zarr_jpeg import JpegCodec

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["zarr.codecs"]
READ = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np, zarr
pixels = zarr.open_group(sys.argv[1], mode="r")["0"][...]
assert "wsi.store" not in sys.modules
np.save(sys.argv[2], pixels)
"""


def installed(folder: Path, name: str, entry_points: dict[str, str]) -> Path:
    """Write what an installed package says of itself, for Python to find on its path."""
    told = folder / f"{name}-0.0.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0\n")
    lines = [f"{own} = {value}" for own, value in entry_points.items()]
    (told / "entry_points.txt").write_text("\n".join(["[zarr.codecs]", *lines, ""]))
    return folder


def read_by_zarr(store: TileStore, folder: Path, *path: Path) -> np.ndarray:
    """Return the corner of a store, read in a process of its own that imports zarr and nothing of ours."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    command = [sys.executable, "-c", READ, str(store.path), str(folder / "pixels.npy")]
    subprocess.run(command, check=True, env=environment, cwd=folder, timeout=120)
    return np.asarray(np.load(folder / "pixels.npy"))


def test_the_entry_points_name_the_codec_by_every_name_that_is_known() -> None:
    assert set(ENTRY_POINTS) == set(jpeg.ZARR_NAMES)
    for value in ENTRY_POINTS.values():
        module, _, name = value.partition(":")
        assert getattr(import_module(module), name) is JpegCodec


@pytest.fixture
def jpeg_store(deflate_slide: Path, tmp_path: Path, tiled: Callable[..., TileStore]) -> TileStore:
    return tiled(deflate_slide, tmp_path / "stores", codec="jpeg")


def test_zarr_alone_reads_a_jpeg_store_and_another_registration_does_not_clash(
    jpeg_store: TileStore, tmp_path: Path
) -> None:
    folder = installed(tmp_path / "path", "as_gigamil", ENTRY_POINTS)
    pixels = read_by_zarr(jpeg_store, tmp_path, folder)
    assert pixels.tobytes() == jpeg_store.read_level(0).tobytes()
    # imagecodecs-zarr names the class that ours resolves to
    known = f"{JpegCodec.__module__}:{JpegCodec.__qualname__}"
    installed(folder, "another", {"imagecodecs_jpeg": known})
    assert (read_by_zarr(jpeg_store, tmp_path, folder) == pixels).all()


def test_a_further_name_is_written_first_and_the_earlier_one_still_verifies(
    jpeg_store: TileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (layout, verify):
        monkeypatch.setattr(module, "ZARR_NAMES", ("jpeg", *jpeg.ZARR_NAMES))
    written = layout.image_array(jpeg_store.grid.levels()[0], jpeg_store.grid, 0, "jpeg")
    assert written["codecs"][0]["configuration"]["codecs"][1]["name"] == "jpeg"
    assert not list(verify._metadata(jpeg_store))
    monkeypatch.setattr(verify, "ZARR_NAMES", ("jpeg",))
    assert "0/zarr.json is missing or differs from what the store's layout says" in list(verify._metadata(jpeg_store))
