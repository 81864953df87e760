"""Malformed and hostile stores: one line that names the field, nothing read outside the store, nothing allocated."""

import json
import math
import os
import resource
import shutil
import struct
from pathlib import Path
from typing import Any

import cv2
import google_crc32c
import numpy as np
import pytest
from click.testing import CliRunner

from cli.app import app
from wsi.cohort.slides import find_jobs
from wsi.errors import StoreError
from wsi.progress.outcome import Status
from wsi.store.codecs import CODECS
from wsi.store.layout import write_small_array
from wsi.store.metadata import parse_metadata
from wsi.store.options import VerifyOptions
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify

DEEP = "[" * 100_000


@pytest.fixture
def store(tmp_path: Path, small_store: TileStore) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(small_store.path, tmp_path / "s.zarr"))


def change(store: Path, **fields: Any) -> None:
    document = json.loads((store / "zarr.json").read_text())
    document["attributes"]["gigamil"] |= fields
    (store / "zarr.json").write_text(json.dumps(document))


def each(field: str, *values: Any) -> list[tuple[str, Any]]:
    return [(field, value) for value in values]


def within(field: str, *values: Any, tissue: bool = False) -> list[tuple[str, Any]]:
    """Values of a field of the provenance, or of what it says of the tissue."""
    found = [{"tissue": {field: value}} if tissue else {field: value} for value in values]
    return [pytest.param("provenance", own, id=f"{field}-{own}") for own in found]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *each("tile_px", 0, -1, 2**40, "x", None, 256.5, True),
        *each("mpp", 0, -1, "x", math.nan, math.inf, None, [], 10**400),
        *each("l0_px_per_px", 0, "x", math.nan, 1e30),
        *each("mask_mpp", 0, "x", math.nan),
        *each("shape_yx", [0, 0], [1], "x", [2**40, 2**40], [1500.0, 1900], [3000, 1900], None, {}),
        *each("slide_shape_yx", [2**40, 2**40], [-1, 5], None, 7),
        *each("n_tiles", -1, 10**12, "x", None),
        *each("scores", ["../../x"], ["/etc/passwd"], "focus", [1], None, [[]], {"focus": 1}),
        *each("codecs", ["zstd"], ["png"] * 3, "zstd", [[]] * 3, {"a": 1}),
        *each("recipe", None, [], "x"),
        *each("provenance", None, []),
        *within("tissue", [1, 2], None, "x"),
        *within("warnings", "x", [1], {"a": 1}),
        *within("slide_mpp", "x", [], math.nan),
        *within("median_scores", [], {"focus": "x"}, {"focus": math.inf}),
        *within("damaged_tiles", -1, "x"),
        *within("background", [1], [1, 2, "x"], [1, 2, 256], 7, tissue=True),
        *within("artefact_shares", {"pen": "z"}, [], tissue=True),
        *within("repeats", 3, [3], [["x"]], tissue=True),
        *within("dark_background", "x", tissue=True),
        ("recipe_hash", None),
        ("image_id", 3),
    ],
)
def test_a_field_that_cannot_be_true_is_named(store: Path, field: str, value: Any) -> None:
    change(store, **{field: value})
    if field == "provenance" and value:
        field = next(iter(value["tissue"] if isinstance(value.get("tissue"), dict) else value))
    with pytest.raises(StoreError, match=field) as caught:
        _ = TileStore(store).n_tiles
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", "{", "[]", "3", DEEP, '{"attributes": []}', '{"attributes": {"gigamil": 3}}'])
def test_what_is_no_metadata_is_one_line(text: str) -> None:
    with pytest.raises(StoreError, match="cannot be read as a tile store's") as caught:
        parse_metadata(text.encode(), "s.zarr")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["yx", "tissue", "focus"])
@pytest.mark.parametrize("shape", [(3,), (1, 2), (4, 4)])
def test_columns_of_another_length_are_named(store: Path, name: str, shape: tuple[int, ...]) -> None:
    shutil.rmtree(store / "tiles" / name)
    write_small_array(store / "tiles" / name, np.ones(shape, np.float32), ("a", "b")[: len(shape)])
    opened = TileStore(store)
    with pytest.raises(StoreError, match=f"tiles/{name}: expected numbers of shape"):
        _ = (opened.tiles_yx, opened.tissue, opened.scores)


@pytest.mark.parametrize("key", ["tiles/yx", "overview/0", "labels/tissue/0"])
def test_arrays_that_declare_too_much_are_not_made(store: Path, key: str) -> None:
    document = json.loads((store / key / "zarr.json").read_text())
    document["shape"] = [2**36 for _ in document["shape"]]
    (store / key / "zarr.json").write_text(json.dumps(document))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError):
        TileStore(store).read_array(key)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_a_jpeg_chunk_of_another_size_is_refused_before_it_is_decoded() -> None:
    small = bytearray(cv2.imencode(".jpg", np.full((64, 64, 3), 200, np.uint8))[1].tobytes())
    at = small.index(b"\xff\xc0") + 5
    small[at : at + 4] = (65_000).to_bytes(2, "big") * 2
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    small += struct.pack("<I", google_crc32c.value(bytes(small)))
    with pytest.raises(Exception, match=r"shape|size"):
        CODECS["jpeg"].decode_into(bytes(small), np.empty((3, 64, 64), np.uint8))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize("key", ["zarr.json", "tiles/yx/zarr.json", "tiles/yx/c/0/0", "overview/0/zarr.json"])
def test_pipes_in_a_store_are_named_and_never_waited_for(store: Path, key: str) -> None:
    (store / key).unlink(missing_ok=True)
    os.mkfifo(store / key)
    opened = TileStore(store)
    with pytest.raises(StoreError, match="named pipe"):
        _ = (opened.n_tiles, opened.tiles_yx, opened.overview())


def run_on(verb: str, folder: Path, out: Path) -> list[str]:
    return {
        "verify": ["verify", str(folder)],
        "qc": ["qc", str(folder), "--out", str(out)],
        "ome-tiff": ["export", str(folder / "s.zarr"), "--ome-tiff", "--out", str(out / "a.ome.tiff")],
        "ome-zarr": ["export", str(folder / "s.zarr"), "--ome-zarr-0.4", "--out", str(out / "a.zarr")],
    }[verb]


@pytest.mark.parametrize("verb", ["verify", "qc", "ome-tiff", "ome-zarr"])
@pytest.mark.parametrize(
    "fields",
    [{"shape_yx": [2**40, 2**40]}, {"tile_px": "x"}, {"scores": ["../../x"]}, {"provenance": {"tissue": [1]}}],
)
def test_every_verb_says_it_in_one_line(
    store: Path, tmp_path: Path, small_store: TileStore, verb: str, fields: dict[str, Any]
) -> None:
    change(store, **fields)
    folder = tmp_path / "both"
    folder.mkdir()
    store.rename(folder / "s.zarr")
    (folder / "t.zarr").symlink_to(small_store.path)
    run = CliRunner().invoke(app, run_on(verb, folder, tmp_path))
    assert run.exit_code == 1
    assert run.exception is None or isinstance(run.exception, SystemExit)
    assert ("tissue" if "provenance" in fields else next(iter(fields))) in run.output
    if verb in {"verify", "qc"}:
        assert "1 done, 1 FAILED" in run.output


def test_a_store_without_a_known_fault_parses(small_store: TileStore, second_store: TileStore) -> None:
    for opened in (small_store, second_store):
        text = (Path(opened.path) / "zarr.json").read_bytes()
        assert parse_metadata(text, "x") == json.loads(text)["attributes"]["gigamil"]


@pytest.mark.parametrize("path", ["../../../x/0", "/etc", 7])
def test_a_level_that_lies_elsewhere_is_not_looked_at(store: Path, path: Any) -> None:
    for folder in ("labels/tissue", "overview"):
        document = json.loads((store / folder / "zarr.json").read_text())
        document["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = path
        (store / folder / "zarr.json").write_text(json.dumps(document))
    (outcome,) = verify(VerifyOptions(stores=(store,), quick=True)).outcomes
    assert outcome.status is Status.FAILED
    assert "is said to lie at" in outcome.reason


@pytest.mark.parametrize("key", ["0", "labels/tissue", "overview", "tiles/yx"])
def test_deep_metadata_is_damage(store: Path, key: str) -> None:
    (store / key / "zarr.json").write_text(DEEP)
    (outcome,) = verify(VerifyOptions(stores=(store,), quick=True)).outcomes
    assert outcome.status is Status.FAILED
    assert "unexpected" not in outcome.reason


def test_a_link_to_itself_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "s.zarr").symlink_to("s.zarr")
    with pytest.raises(StoreError):
        _ = TileStore(tmp_path / "s.zarr").n_tiles
    (tmp_path / "m.csv").write_text("image_id,path\na,s.zarr\n")
    (job,) = find_jobs([], tmp_path / "m.csv")
    assert "which is not there" in job.problem
