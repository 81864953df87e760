"""Slides and stores behind URLs: the stores are those that a local run makes, and each is made once."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from making import picture, write_deflate
from remote_server import BadProxy, client_of, make_bucket, objects

from wsi.errors import RequestError
from wsi.progress.outcome import Status
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
    make_bucket(port, bucket, slides, "slides/")
    bad_proxy.share = 0.05
    summary = tile(of_urls(bucket))
    assert [(own.item_id, own.status) for own in summary.outcomes] == [
        (f"slide{number}_0", Status.DONE) for number in range(3)
    ], summary
    assert published(port, bucket, "stores/") == contents(local_stores)
    assert sum(count for kind, count in bad_proxy.did.items() if kind != "passed") > 2
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


def test_a_local_folder_takes_slides_of_urls(
    slides: Path, local_stores: Path, bucket: str, port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bucket(port, bucket, slides, "slides/")
    signed = client_of(port).generate_presigned_url("get_object", {"Bucket": bucket, "Key": "slides/slide1_0.tif"})
    table = tmp_path / "train.csv"
    table.write_text(f"image_id,patient_id,path\none_0,one,{signed}\ntwo_0,two,s3://{bucket}/slides/slide2_0.tif\n")
    options = TileOptions(manifest=table, out=tmp_path / "stores", workers=0, assume_mpp=0.5)
    assert [own.status for own in tile(options).outcomes] == [Status.DONE] * 2
    for here, there in (("one_0", "slide1_0"), ("two_0", "slide2_0")):
        store, expected = TileStore(tmp_path / f"stores/{here}.zarr"), TileStore(local_stores / f"{there}.zarr")
        assert store.recipe_hash == expected.recipe_hash
        assert (store.read_tiles(range(len(store))) == expected.read_tiles(range(len(expected)))).all()
    assert [own.status for own in tile(options).outcomes] == [Status.SKIPPED] * 2


def test_an_anonymous_reader_reads_what_is_public(
    slides: Path, bucket: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.config import conf

    make_bucket(port, bucket, slides, "slides/")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    one = path_of(f"s3://{bucket}/slides/slide0_0.tif")
    options = TileOptions(slides=(one,), out=tmp_path / "stores", workers=0, assume_mpp=0.5)
    with pytest.raises(RequestError, match="no valid credentials"):
        tile(options)
    client_of(port).put_object_acl(Bucket=bucket, Key="slides/slide0_0.tif", ACL="public-read")
    monkeypatch.setitem(conf, "s3", {"anon": "true"})  # what FSSPEC_S3_ANON=true becomes when fsspec is imported
    assert [own.status for own in tile(options).outcomes] == [Status.DONE]


TILE = """
import sys
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
from wsi.urls import path_of
at = sys.argv[1]
options = TileOptions(slides=(path_of(f"{at}/slides"),), out=path_of(f"{at}/stores"), workers=0, assume_mpp=0.5)
summary = tile(options)
print(" ".join(f"{own.item_id}:{own.status.value}" for own in summary.outcomes))
sys.exit(summary.exit_code)
"""


def test_killed_while_it_publishes_it_is_taken_up_and_whole(
    slides: Path, local_stores: Path, bucket: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies before the door of its first store is written: no reader takes the half for a whole."""
    make_bucket(port, bucket, slides, "slides/")
    monkeypatch.setenv("GIGAMIL_REMOTE_LEASE", "2")
    monkeypatch.setenv("GIGAMIL_SCRATCH_ITEMS", "1")
    proxy = BadProxy(port, 0)
    child: list[subprocess.Popen[str]] = []

    def kill(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("stores/slide0_0.zarr/zarr.json"):
            child[0].send_signal(signal.SIGKILL)
            raise ConnectionAbortedError  # its request is not carried out

    proxy.before = kill
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    child.append(subprocess.Popen([sys.executable, "-c", TILE, f"s3://{bucket}"], text=True, stdout=subprocess.PIPE))
    child[0].communicate()
    assert child[0].returncode == -signal.SIGKILL
    assert "stores/slide0_0.zarr/zarr.json" not in objects(port, bucket)
    half = published(port, bucket, "stores/")
    assert half
    assert json.loads(objects(port, bucket)["stores/.gigamil/slide0_0.zarr.json"])["whole"] is False
    proxy.before = lambda method, path: None
    done = subprocess.run([sys.executable, "-c", TILE, f"s3://{bucket}"], text=True, capture_output=True, check=True)
    proxy.stop()
    assert done.stdout.split() == ["slide0_0:skipped", "slide1_0:done", "slide2_0:done"]  # it lay finished in scratch
    assert published(port, bucket, "stores/") == contents(local_stores)


@pytest.mark.slow
def test_two_at_once_make_each_store_once(
    slides: Path, local_stores: Path, bucket: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bucket(port, bucket, slides, "slides/")
    monkeypatch.setenv("GIGAMIL_SCRATCH_ITEMS", "1")
    monkeypatch.setenv("GIGAMIL_REMOTE_LEASE", "20")
    command = [sys.executable, "-c", TILE, f"s3://{bucket}"]
    both = [subprocess.Popen(command, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    told = [own.communicate()[0].split() for own in both]
    assert [own.returncode for own in both] == [0, 0]
    made = sorted(own for one in told for own in one if own.endswith(":done"))
    assert made == [f"slide{number}_0:done" for number in range(3)], told
    assert published(port, bucket, "stores/") == contents(local_stores)
