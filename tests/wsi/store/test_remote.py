"""Stores behind URLs: a real S3 server on this machine, and fsspec's memory file system."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

import boto3
import fsspec
from moto.server import ThreadedMotoServer
from remote_server import point_to

from wsi.errors import RequestError, StoreError
from wsi.progress.outcome import Status
from wsi.store.layout import shard_key
from wsi.store.options import VerifyOptions
from wsi.store.remote import coalesce
from wsi.store.tile_store import TileStore, find_stores
from wsi.store.verify import verify

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)  # of the S3 client's and the server's own


class Requests:
    """Counts what the server sends: (method, path, Range header, bytes)."""

    def __init__(self, app: object) -> None:
        self.app = app
        self.seen: list[tuple[str, str, str, int]] = []

    def __call__(self, environ: dict[str, str], start_response: object) -> Iterator[bytes]:
        body = b"".join(self.app(environ, start_response))  # type: ignore[operator]
        self.seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", ""), len(body)))
        return iter([body])


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Requests]]:
    """An S3 server on 127.0.0.1, with a log of its requests."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    assert moto._server is not None
    requests = Requests(moto._server.app)
    moto._server.app = requests
    yield f"http://{host}:{port}", requests
    moto.stop()


@pytest.fixture
def credentials(server: tuple[str, Requests], monkeypatch: pytest.MonkeyPatch) -> str:
    point_to(server[0], monkeypatch)
    return server[0]


@pytest.fixture
def bucket(credentials: str, small_store: TileStore) -> str:
    """The bucket ``slides`` with `small_store` in it."""
    client = boto3.client("s3", endpoint_url=credentials)
    if "slides" not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="slides")
        root = Path(small_store.path)
        for file in root.rglob("*"):
            if file.is_file():
                client.put_object(
                    Bucket="slides", Key=f"cohort/049194_0.zarr/{file.relative_to(root)}", Body=file.read_bytes()
                )
    return "s3://slides/cohort"


def test_a_store_on_s3_reads_as_the_local_one(bucket: str, small_store: TileStore) -> None:
    store = TileStore(f"{bucket}/049194_0.zarr")
    assert (store.image_id, store.recipe_hash) == (small_store.image_id, small_store.recipe_hash)
    np.testing.assert_array_equal(store.tiles_yx, small_store.tiles_yx)
    np.testing.assert_array_equal(store.tissue, small_store.tissue)
    indices = np.random.default_rng(0).permutation(store.n_tiles)
    np.testing.assert_array_equal(store.read_tiles(indices, 2), small_store.read_tiles(indices))
    for level in range(len(store.grid.levels())):
        np.testing.assert_array_equal(store.read_level(level), small_store.read_level(level))
    np.testing.assert_array_equal(store.overview(), small_store.overview())
    np.testing.assert_array_equal(store.tissue_mask()[0], small_store.tissue_mask()[0])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read_tiles([3]), small_store.read_tiles([3]))


def test_only_the_needed_ranges_are_fetched(bucket: str, server: tuple[str, Requests], small_store: TileStore) -> None:
    store = TileStore(f"{bucket}/049194_0.zarr")
    beside = np.diff(store.tiles_yx, axis=0).tolist()
    first = beside.index([0, 1])  # the next tile lies to its right
    row, column = store.tiles_yx[first].tolist()
    index = small_store.folder.index(shard_key(0, 0, 0), 256)
    assert index is not None
    offset, size = index[row * 16 + column].tolist()
    requests = server[1]
    requests.seen.clear()
    store.read_tiles([first])
    gets = [(ranged, sent) for method, path, ranged, sent in requests.seen if path.endswith("/0/c/0/0/0")]
    assert gets == [("bytes=-4100", 4100), (f"bytes={offset}-{offset + size - 1}", size)]
    requests.seen.clear()
    store.read_tiles([first, first + 1])  # neighbours: one request, and the index is known
    ((method, _, _, sent),) = requests.seen
    assert (method, sent) == ("GET", index[row * 16 + column : row * 16 + column + 2, 1].sum())


def test_opening_costs_one_request_per_file(bucket: str, server: tuple[str, Requests]) -> None:
    _ = TileStore(f"{bucket}/049194_0.zarr").tiles_yx
    server[1].seen.clear()
    _ = TileStore(f"{bucket}/049194_0.zarr").tiles_yx
    assert sorted((method, path.split(".zarr/")[1]) for method, path, _, _ in server[1].seen) == [
        ("GET", "tiles/yx/c/0/0"),
        ("GET", "tiles/yx/zarr.json"),
        ("GET", "zarr.json"),  # it says how many tiles there are to be
    ]


def test_neighbours_are_merged_and_strangers_are_not() -> None:
    parts = [("a", 0, 10), ("a", 10, 20), ("a", 50, 60), ("a", 10**6, 10**6 + 5), ("b", 0, 5)]
    assert coalesce(parts) == [("a", 0, 60), ("a", 10**6, 10**6 + 5), ("b", 0, 5)]
    assert coalesce([]) == []
    wide = [("a", i << 20, (i + 1) << 20) for i in range(20)]
    assert [stop - start for _, start, stop in coalesce(wide)] == [8 << 20, 8 << 20, 4 << 20]


def test_stores_are_found_and_verified_on_s3(bucket: str) -> None:
    (store,) = find_stores([bucket])
    assert store.path == f"{bucket}/049194_0.zarr"
    (again,) = find_stores([Path(bucket)])  # as a command line that makes paths hands it over
    assert again.path == store.path
    for quick in (True, False):
        (outcome,) = verify(VerifyOptions(stores=(bucket,), quick=quick, threads=2)).outcomes
        assert (outcome.status, outcome.reason) == (Status.DONE, "")


def test_storage_options_take_the_place_of_the_environment(
    bucket: str, server: tuple[str, Requests], monkeypatch: pytest.MonkeyPatch, small_store: TileStore
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    options = {"key": "testing", "secret": "testing", "endpoint_url": server[0]}
    store = TileStore(f"{bucket}/049194_0.zarr", options)
    assert store.n_tiles == small_store.n_tiles
    assert "testing" not in repr(store)


@pytest.mark.parametrize("place", ["s3://slides/cohort/gone.zarr", "s3://no-such-bucket/a.zarr"])
def test_a_missing_store_is_one_clear_line(bucket: str, place: str) -> None:
    with pytest.raises(StoreError, match=f"{place} is not a tile store|{place}.*there is no such bucket") as caught:
        _ = TileStore(place).n_tiles
    assert "\n" not in str(caught.value)


def test_a_folder_without_stores_is_refused(bucket: str) -> None:
    with pytest.raises(RequestError, match="found none"):
        find_stores(["s3://slides/empty"])


def test_missing_credentials_are_one_clear_line(
    bucket: str, server: tuple[str, Requests], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match=r"no valid credentials.*AWS_ACCESS_KEY_ID") as caught:
        _ = TileStore(f"{bucket}/049194_0.zarr", {"skip_instance_cache": True}).n_tiles
    assert "\n" not in str(caught.value)


def test_a_shard_cut_short_on_s3_is_noticed(bucket: str, credentials: str, small_store: TileStore) -> None:
    client = boto3.client("s3", endpoint_url=credentials)
    key = f"cohort/049194_0.zarr/{shard_key(0, 0, 0)}"
    whole = client.get_object(Bucket="slides", Key=key)["Body"].read()
    try:
        client.put_object(Bucket="slides", Key=key, Body=whole[:-7])
        with pytest.raises(StoreError, match="0/c/0/0/0: the shard's index is damaged"):
            TileStore(f"{bucket}/049194_0.zarr").read_tiles([0])
        client.put_object(Bucket="slides", Key=key, Body=whole[-4100:])
        with pytest.raises(StoreError, match="0/c/0/0/0"):
            TileStore(f"{bucket}/049194_0.zarr").read_tiles([small_store.n_tiles - 1])
    finally:
        client.put_object(Bucket="slides", Key=key, Body=whole)


def test_any_file_system_of_fsspec(small_store: TileStore, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(shutil.copytree(small_store.path, tmp_path / "a.zarr")), "/cohort/a.zarr", recursive=True)
    (store,) = find_stores(["memory://cohort"])
    np.testing.assert_array_equal(store.read_tiles([2, 0]), small_store.read_tiles([2, 0]))
    assert verify(VerifyOptions(stores=("memory://cohort/a.zarr",))).exit_code == 0
    memory.rm("/cohort", recursive=True)


def test_an_unknown_protocol_is_one_clear_line() -> None:
    with pytest.raises(StoreError, match=r"nosuch://bucket/a\.zarr"):
        _ = TileStore("nosuch://bucket/a.zarr").n_tiles
