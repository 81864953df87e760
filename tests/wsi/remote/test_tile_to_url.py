"""Slides and stores behind URLs: the stores are those that a local run makes, and each is made once."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from making import picture, write_deflate
from remote_server import BadProxy, client_of, make_bucket, objects

from wsi.errors import RequestError
from wsi.outcome import Status
from wsi.store.tile_store import TileStore, find_stores
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
from wsi.urls import path_of


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(3):
        write_deflate(folder / f"slide{number}_0.tif", picture(600, 700, number))
    return folder


@pytest.fixture(scope="session")
def local_stores(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores")
    assert tile(TileOptions(slides=(slides,), out=out, workers=0, assume_mpp=0.5)).exit_code == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {own.relative_to(folder).as_posix(): own.read_bytes() for own in folder.rglob("*") if own.is_file()}


def published(port: int, bucket: str, prefix: str) -> dict[str, bytes]:
    """Return what readers see below a prefix: all but records and claims."""
    found = {key.removeprefix(prefix): data for key, data in objects(port, bucket).items() if key.startswith(prefix)}
    return {key: data for key, data in found.items() if not key.startswith(".gigamil")}


def of_urls(bucket: str, **more: object) -> TileOptions:
    slides, out = path_of(f"s3://{bucket}/slides"), path_of(f"s3://{bucket}/stores")
    return TileOptions(**{"slides": (slides,), "out": out, "workers": 0, "assume_mpp": 0.5} | more)  # type: ignore[arg-type]


def test_stores_through_a_bad_network_are_those_of_a_local_run(
    slides: Path, local_stores: Path, bucket: str, bad_proxy: BadProxy, port: int, tmp_path: Path
) -> None:
    make_bucket(port, bucket, slides.parent / slides.name, "slides/")
    summary = tile(of_urls(bucket))
    assert [(own.item_id, own.status) for own in summary.outcomes] == [
        (f"slide{number}_0", Status.DONE) for number in range(3)
    ], summary
    assert published(port, bucket, "stores/") == contents(local_stores)
    assert sum(count for kind, count in bad_proxy.did.items() if kind != "passed") > 5
    assert not [own for own in (tmp_path / "scratch").rglob("*") if own.is_file()]
    assert [store.image_id for store in find_stores([f"s3://{bucket}/stores"])] == [f"slide{i}_0" for i in range(3)]

    asked: list[str] = []
    bad_proxy.before = lambda method, path: asked.append(f"{method} {path}")
    again = tile(of_urls(bucket))
    assert {own.status for own in again.outcomes} == {Status.SKIPPED}
    assert again.outcomes[0].facts["tiles"] == TileStore(local_stores / "slide0_0.zarr").n_tiles
    assert not [own for own in asked if own.startswith("GET") and ".tif" in own], "a finished slide was fetched again"

    with pytest.raises(RequestError, match=r"was made with other settings \(min_tissue: found 0.1, wanted 0.5"):
        tile(of_urls(bucket, min_tissue=0.5))
    assert published(port, bucket, "stores/") == contents(local_stores)
