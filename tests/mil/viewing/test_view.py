"""`gigamil view` as people start it: what it takes for what, how it ends, what a crash leaves."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from mil.viewing.items import Items, sort_items
from wsi.errors import RequestError
from wsi.files.claim import claim
from wsi.store.tile_store import TileStore

CLI = (sys.executable, "-m", "cli", "view")


@pytest.fixture
def folder(tmp_path: Path, small_store: TileStore) -> Path:
    copytree(small_store.path, tmp_path / "stores" / small_store.path.name)  # type: ignore[union-attr]
    return tmp_path


@contextmanager
def viewing(*words: str | Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """Run the verb while the block does; give the process and where it says that it listens."""
    with subprocess.Popen(
        [*CLI, *map(str, words), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        try:
            assert program.stdout is not None
            line = program.stdout.readline()
            assert line, program.communicate()[1]
            yield program, json.loads(line)
        finally:
            program.kill()


def put(port: int, body: bytes, tag: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", "/slides/049194_0/annotations", body, {"If-Match": f'"{tag}"'})
    answer = connection.getresponse()
    told = answer.status, (answer.getheader("ETag") or "").strip('"')
    answer.read()
    connection.close()
    return told


def collection(number: int, size: int) -> bytes:
    point = {"type": "Point", "coordinates": [1, 2]}
    feature = {"type": "Feature", "geometry": point, "properties": {"name": f"{number} " + "x" * 200}}
    return json.dumps({"type": "FeatureCollection", "features": [feature] * size}).encode()


def test_ctrl_c_ends_it_cleanly_and_a_kill_leaves_whole_files(folder: Path) -> None:
    """One start for both: what was confirmed is on the disk after kill -9 in the middle of saving."""
    path, tag = folder / "stores" / "049194_0.geojson", "absent"
    with viewing(folder / "stores") as (program, told):
        assert told["slides"] == 1
        assert told["url"] == f"http://127.0.0.1:{told['port']}/"
        status, tag = put(told["port"], collection(0, 2000), tag)
        assert status == 200
        body = collection(1, 2000)
        connection = HTTPConnection("127.0.0.1", told["port"], timeout=30)
        connection.putrequest("PUT", "/slides/049194_0/annotations")
        connection.putheader("If-Match", f'"{tag}"')
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[: len(body) // 2])  # half-sent
        confirmed = tag
        for number in range(2, 5):
            status, confirmed = put(told["port"], collection(number, 3), confirmed)
            assert status == 200
        program.kill()
        program.wait()
        connection.close()
    names = {own["properties"]["name"].split()[0] for own in json.loads(path.read_bytes())["features"]}
    assert names == {"4"}
    with viewing(folder / "stores") as (program, told):
        assert put(told["port"], collection(5, 1), confirmed)[0] == 200  # nothing of the dead one is in the way
        with claim(path):  # another program writes
            assert put(told["port"], collection(6, 1), "x")[0] == 409
        program.send_signal(signal.SIGINT)
        out, errors = program.communicate(timeout=30)
        assert (program.returncode, out) == (0, b"")
        assert errors.decode().endswith("stopped\n")
        assert "Traceback" not in errors.decode()
    assert sorted(os.listdir(folder / "stores")) == ["049194_0.geojson", "049194_0.zarr"]


def test_another_address_wants_a_token(folder: Path) -> None:
    with viewing(folder / "stores", "--host", "0.0.0.0") as (_, told):
        token = told["url"].partition("?token=")[2]
        assert len(token) >= 32
        for given, expected in (("", 401), (f"?token={token[:-1]}", 401), (f"?token={token}", 302)):
            connection = HTTPConnection("127.0.0.1", told["port"], timeout=30)
            connection.request("GET", f"/cohort.js{given}")
            assert connection.getresponse().status == expected
            connection.close()


def test_wrong_requests_get_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from cli.app import run as run_words

    stores = str(folder / "stores")
    for words, expected in {
        (str(folder / "nowhere"),): "does not exist",
        (stores, "--port", "70000"): "0 to 65535",
        (stores, "--host", "nowhere.invalid"): "cannot be listened on",
        (stores, "--blind"): "give a run",
        (stores, "--cors", "example.org"): "expected an origin",
        (stores, "--export-judgements", "a.txt"): "ends in .csv",
        (stores, "--export-judgements", str(folder / "a.csv")): "nothing was judged",
        (): "expected ITEMS",
    }.items():
        assert run_words(["view", *words]) == 2
        line = capfd.readouterr().err
        assert expected in line, words
        assert line.count("\n") == 1


def test_things_are_told_apart(folder: Path, deflate_slide: Path) -> None:
    (folder / "bags").mkdir()
    (folder / "bags" / "a.h5").write_bytes(b"")
    (folder / "run").mkdir()
    (folder / "run" / "config.toml").write_text("")
    (folder / "similar.csv").write_text("")
    (folder / "empty").mkdir()
    store = folder / "stores" / "049194_0.zarr"
    found = Items(runs=(folder / "run",), stores=(store,), bags=(folder / "bags",))
    assert sort_items([str(folder)]) == found
    assert sort_items([str(folder / name) for name in ("run", "bags", "stores")]) == found
    assert sort_items([str(store), str(folder / "stores")]) == Items(stores=(store,))
    assert sort_items([str(folder / "similar.csv")]) == Items(similar=(folder / "similar.csv",))
    assert sort_items([str(deflate_slide)]) == Items(slides=(deflate_slide,))
    assert sort_items([str(deflate_slide.parent)]) == Items(slides=(deflate_slide.parent,))
    assert sort_items(["s3:/bucket/a"]) == Items(stores=("s3://bucket/a",))
    with pytest.raises(RequestError, match="holds nothing to show"):
        sort_items([str(folder / "empty")])
