"""A folder of pages: its tiles are the store's, its sizes are told before, and what is interrupted is no page."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from making import SEED, picture, write_deflate, write_pyramid
from PIL import Image

from wsi.errors import RequestError
from wsi.progress.outcome import Outcome, Silent, Status
from wsi.recipe import Json
from wsi.store.tile_store import TileStore, find_stores
from wsi.viewing import npm
from wsi.viewing.pages import folder as pages
from wsi.viewing.pages.folder import Wanted, write_pages
from wsi.viewing.pages.page_size import page_size
from wsi.viewing.picture import StorePicture

pytestmark = pytest.mark.skipif(
    not (Path(pages.__file__).parents[1] / "frontend" / npm.TARGET.name).is_file(),
    reason="OpenSeadragon is not there: gigamil was installed without a network",
)


class Told(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.total, self.advanced = 0.0, 0.0

    def begin(self, title: str, total: float, unit: str) -> None:
        self.total = total

    def advance(self, amount: float) -> None:
        self.advanced += amount

    def note(self, line: str) -> None:
        self.lines.append(line)


def test_tiles_are_on_the_disk_before_the_slide_has_its_name(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = os.sync, list[tuple[int, bool]]()

    def recorded() -> None:
        tiles = sum(path.suffix == ".jpg" for path in (tmp_path / "out/slides").rglob("*/tiles/*/*"))
        seen.append((tiles, (tmp_path / "out/slides/a_0").exists()))
        real()

    monkeypatch.setattr(os, "sync", recorded)
    (outcome,) = write(tmp_path / "out", stores, listed=find_stores([stores])[:1])
    assert seen == [(outcome.facts["tiles"], False)]


class Says:
    """Says one word of each slide."""

    def __init__(self, word: str = "") -> None:
        self.word, self.rows = word, dict[str, Json]()

    def recipe(self, store: TileStore) -> Json | None:
        return {"word": self.word} if self.word else None

    def speak(self, store: TileStore, document: Json) -> tuple[Json, Json]:
        return (document | {"title": self.word}, {"word": self.word}) if self.word else (document, {})

    def cohort(self, rows: Mapping[str, Json]) -> Json:
        self.rows = dict(rows)
        return {"slides": sorted(rows)}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, tiled: Callable[..., TileStore]) -> Path:
    """Two stores: one of copied JPEG tiles, one of zstd."""
    folder = tmp_path_factory.mktemp("stores")
    pixels = picture(1300, 1100, SEED + 2)
    tiled(write_pyramid(folder / "a_0.tif", pixels, 0.5), folder)
    tiled(write_deflate(folder / "b_0.tif", pixels), folder)
    return folder


def write(out: Path, stores: Path, progress: Silent | None = None, **changes: object) -> list[Outcome]:
    wanted = {"overwrite": False, "workers": 1, "threads": 1} | changes
    dry = bool(wanted.pop("dry", False))
    listed = wanted.pop("listed", None) or find_stores([stores])
    return write_pages(Wanted(out=out, stores=listed, **wanted), Says(), progress or Silent(), dry=dry)  # type: ignore[arg-type]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def statuses(outcomes: list[Outcome]) -> list[Status]:
    return [own.status for own in outcomes]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, stores: Path) -> tuple[Path, Told, list[Outcome]]:
    out, told = tmp_path_factory.mktemp("pages") / "out", Told()
    return out, told, write(out, stores, told)


def test_each_tile_is_the_chunk_that_the_store_holds(written: tuple[Path, Told, list[Outcome]], stores: Path) -> None:
    out, _, outcomes = written
    assert statuses(outcomes) == [Status.DONE, Status.DONE]
    for store in find_stores([stores]):
        tiles = out / "slides" / store.image_id / "tiles"
        own = StorePicture(store)
        found = {path.relative_to(tiles).as_posix() for path in tiles.rglob("*.jpg")}
        wanted = {f"{n}/{r}_{c}.jpg" for n in range(len(own.levels)) for r, c in np.argwhere(own.present(n)).tolist()}
        assert found == wanted
        for name in sorted(wanted):
            level, row, column = map(int, name.removesuffix(".jpg").replace("_", "/").split("/"))
            assert (tiles / name).read_bytes() == own.jpeg(level, row, column)
            with Image.open(tiles / name) as image:
                assert image.size == (256, 256)
    chunks = np.empty((1, 3, 256, 256), np.uint8)
    (jpeg_store, _) = find_stores([stores])
    assert jpeg_store.read_chunks(0, jpeg_store.tiles_yx[:1], chunks).all()
    row, column = jpeg_store.tiles_yx[0].tolist()
    with Image.open(out / f"slides/a_0/tiles/0/{row}_{column}.jpg") as image:
        assert np.abs(np.asarray(image).astype(int) - chunks[0].transpose(1, 2, 0)).max() <= 2


def test_the_size_is_told_before_and_is_exact_of_jpeg(written: tuple[Path, Told, list[Outcome]], stores: Path) -> None:
    out, told, outcomes = written
    for store in find_stores([stores]):
        size = page_size(StorePicture(store))
        found = [path.stat().st_size for path in (out / "slides" / store.image_id / "tiles").rglob("*.jpg")]
        assert len(found) == size.tiles
        assert size.estimated == (store.image_id == "b_0")
        if size.estimated:
            assert 0.4 < size.n_bytes / sum(found) < 2.5
        else:
            assert size.n_bytes == sum(found)
            assert outcomes[0].facts["tile_bytes"] == sum(found)
    assert told.lines[0].startswith("a_0: ")
    assert told.lines[1].startswith("b_0: about ")
    assert told.lines[2].startswith("2 slides to write into ")
    assert told.advanced == told.total > 10


def test_the_thumbnail_shows_the_glass(written: tuple[Path, Told, list[Outcome]]) -> None:
    with Image.open(written[0] / "slides/a_0/thumb.jpg") as image:
        assert image.size == (271, 320)
        assert np.abs(np.asarray(image)[2, 2].astype(int) - (236, 238, 237)).max() <= 4


def test_nothing_of_this_machine_stands_in_the_pages(written: tuple[Path, Told, list[Outcome]], stores: Path) -> None:
    for name, data in files_of(written[0]).items():
        for secret in (str(stores), stores.parent.name, ".tif", ".zarr", str(Path.home())):
            assert secret.encode() not in data, name


def test_a_second_call_writes_nothing_of_the_slides(written: tuple[Path, Told, list[Outcome]], stores: Path) -> None:
    out = written[0]
    before = {path: path.stat().st_mtime_ns for path in (out / "slides").rglob("*")}
    assert statuses(write(out, stores)) == [Status.SKIPPED, Status.SKIPPED]
    assert {path: path.stat().st_mtime_ns for path in (out / "slides").rglob("*")} == before


def test_processes_write_what_one_process_writes(
    written: tuple[Path, Told, list[Outcome]], stores: Path, tmp_path: Path
) -> None:
    told = Told()
    assert statuses(write(tmp_path / "out", stores, told, workers=2, threads=4)) == [Status.DONE, Status.DONE]
    assert files_of(tmp_path / "out") == files_of(written[0])
    assert told.advanced == told.total


def test_a_kill_leaves_no_page_and_the_next_call_goes_on(
    written: tuple[Path, Told, list[Outcome]], stores: Path, tmp_path: Path
) -> None:
    program = """
import os, signal, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from wsi.progress.outcome import Silent
from wsi.store.tile_store import find_stores
from wsi.viewing.pages import folder, slide_page
from wsi.viewing.pages.stores_alone import StoresAlone
left, write_new = [30], slide_page._write_new
def write(path, data):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    write_new(path, data)
slide_page._write_new = write
wanted = folder.Wanted(Path(sys.argv[1]), find_stores([Path(sys.argv[2])]), False, 1, 1)
folder.write_pages(wanted, StoresAlone(wanted.stores), Silent())
"""
    out = tmp_path / "out"
    ran = subprocess.run([sys.executable, "-c", program, str(out), str(stores), *sys.path], check=False)
    assert ran.returncode == -signal.SIGKILL
    left = [path.name for path in (out / "slides").iterdir()]
    assert left
    assert [name for name in left if not name.startswith(".")] in (["a_0"], [])
    assert not (out / "index.html").exists()
    outcomes = write(out, stores)
    assert Status.FAILED not in statuses(outcomes)
    assert sorted(path.name for path in (out / "slides").iterdir()) == ["a_0", "b_0"]
    assert files_of(out) == files_of(written[0])


def test_what_is_said_anew_replaces_words_and_not_tiles(stores: Path, tmp_path: Path) -> None:
    out, listed = tmp_path / "out", find_stores([stores])[:1]

    def said(word: str, *, overwrite: bool = False) -> tuple[Outcome, Json]:
        says = Says(word)
        (outcome,) = write_pages(Wanted(out, listed, overwrite, 1, 1), says, Silent())
        return outcome, says.rows

    outcome, rows = said("one")
    assert (outcome.status, rows) == (Status.DONE, {"a_0": {"word": "one"}})
    tiles = {path: path.stat().st_mtime_ns for path in (out / "slides/a_0/tiles").rglob("*.jpg")}
    outcome, rows = said("two")
    assert outcome.status is Status.FAILED
    assert 'said.word: found "one", wanted "two"' in outcome.reason
    assert "--overwrite" in outcome.reason
    assert rows == {}
    assert said("one")[0].status is Status.SKIPPED
    outcome, rows = said("two", overwrite=True)
    assert (outcome.status, rows) == (Status.DONE, {"a_0": {"word": "two"}})
    assert b'"title":"two"' in (out / "slides/a_0/slide.js").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in (out / "slides/a_0/tiles").rglob("*.jpg")} == tiles


def test_a_broken_slide_is_named_and_the_others_go_on(stores: Path, tmp_path: Path) -> None:
    copies = tmp_path / "stores"
    shutil.copytree(stores, copies, ignore=shutil.ignore_patterns("*.tif"))
    shard = next(path for path in (copies / "b_0.zarr/0/c").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-3])
    first, second = write(tmp_path / "out", copies)
    assert (first.item_id, first.status) == ("b_0", Status.FAILED)
    assert "the shard's index is damaged" in first.reason
    assert (second.item_id, second.status) == ("a_0", Status.DONE)
    assert [path.name for path in (tmp_path / "out/slides").iterdir()] == ["a_0"]
    assert (tmp_path / "out/cohort.js").read_text() == 'gigamil.cohort({"slides":["a_0"]});\n'


def test_pages_of_other_slides_go_only_when_told(stores: Path, tmp_path: Path) -> None:
    out, (first, second) = tmp_path / "out", find_stores([stores])
    write(out, stores, listed=[first])
    with pytest.raises(RequestError, match=r"pages of other slides \(a_0\).*--overwrite"):
        write(out, stores, listed=[second])
    write(out, stores, listed=[second], overwrite=True)
    assert [path.name for path in (out / "slides").iterdir()] == ["b_0"]


def test_a_folder_of_somebody_else_stays(stores: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty and holds no pages of ours"):
        write(tmp_path, stores, overwrite=True)
    with pytest.raises(RequestError, match="expected a folder, found a file"):
        write(tmp_path / "letter.txt", stores)
    with pytest.raises(RequestError, match="over its own input"):
        write(stores / "a_0.zarr" / "pages", stores)
    assert files_of(tmp_path) == {"letter.txt": b"mine"}


def test_sizes_alone_write_nothing(stores: Path, tmp_path: Path) -> None:
    told = Told()
    outcomes = write(tmp_path / "out", stores, told, dry=True)
    assert all(own.facts["tiles"] > 5 for own in outcomes)
    assert len(told.lines) == 3
    assert not (tmp_path / "out").exists()


def test_no_page_is_begun_that_the_disk_has_no_room_for(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(RequestError, match=r"the pages want \d+ MB and the disk has 0 MB left"):
        write(tmp_path / "out", stores)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["..", ".hidden", "a" * 201])
def test_hostile_names_are_refused(stores: Path, tmp_path: Path, name: str) -> None:
    class Named(TileStore):
        image_id = name

    (outcome,) = write(tmp_path / "out", stores, listed=[Named(stores / "a_0.zarr")])
    assert outcome.status is Status.FAILED
    assert "cannot name a file" in outcome.reason
    assert list((tmp_path / "out/slides").iterdir()) == []


def test_strange_but_lawful_names_work(stores: Path, tmp_path: Path) -> None:
    name = "a b'\"<i>#?%2e&amp;"
    shutil.copytree(stores / "a_0.zarr", tmp_path / f"{name}.zarr")
    (outcome,) = write(tmp_path / "out", stores, listed=[TileStore(tmp_path / f"{name}.zarr")])
    assert outcome.status is Status.DONE
    document = json.loads((tmp_path / f"out/slides/{name}/slide.js").read_text()[len("gigamil.slide(") : -3])
    assert document["id"] == name
    with Image.open(io.BytesIO((tmp_path / f"out/slides/{name}/thumb.jpg").read_bytes())) as image:
        assert max(image.size) == 320
