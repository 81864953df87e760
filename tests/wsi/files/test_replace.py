"""Only what carries our mark is replaced, and no input ever; temporary names; what is left of dead processes."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from making import write_ome_zarr

import wsi
from wsi.cohort.summary_table import write_summary
from wsi.errors import RequestError
from wsi.export.ome_tiff import export_ome_tiff
from wsi.export.ome_zarr import export_ome_zarr
from wsi.export.options import OmeTiffOptions, OmeZarrOptions
from wsi.files import replace
from wsi.files.atomic import make_folder, write_bytes, write_text
from wsi.progress.outcome import Status
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

ROOT = Path(wsi.__file__).resolve().parents[1]


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_slide_is_never_replaced_by_its_own_store(tmp_path: Path, overwrite: bool) -> None:
    slide = write_ome_zarr(tmp_path / "slide.zarr")
    before = content(tmp_path)
    summary = tile(TileOptions(slides=(tmp_path,), out=tmp_path, workers=0, overwrite=overwrite))
    assert [o.status for o in summary.outcomes] == [Status.FAILED]
    assert "its own input" in summary.outcomes[0].reason
    assert content(tmp_path) == before
    assert tile(TileOptions(slides=(slide,), out=tmp_path / "out", workers=0)).exit_code == 0


def test_a_store_that_is_the_slide_is_never_replaced(tmp_path: Path, deflate_slide: Path) -> None:
    tile(TileOptions(slides=(deflate_slide,), out=tmp_path, assume_mpp=0.5, workers=0))
    before = content(tmp_path)
    store = tmp_path / "049194_0.zarr"
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        summary = tile(TileOptions(slides=(store,), out=out, target_mpp=1.0, workers=0, overwrite=True))
        assert "its own input" in summary.outcomes[0].reason
    (tmp_path / "link").unlink()
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["049194_0.zarr", "049194_0.zarr.partial"])
def test_a_foreign_folder_of_that_name_stays(tmp_path: Path, deflate_slide: Path, name: str) -> None:
    write_ome_zarr(tmp_path / name)
    before = content(tmp_path)
    summary = tile(TileOptions(slides=(deflate_slide,), out=tmp_path, assume_mpp=0.5, workers=0, overwrite=True))
    assert summary.outcomes[0].status is Status.FAILED
    assert "was not made by gigamil" in summary.outcomes[0].reason
    assert content(tmp_path) == before


def test_an_export_replaces_exports_only(tmp_path: Path, small_store: TileStore) -> None:
    foreign = tmp_path / "a.ome.tiff"
    foreign.write_bytes(b"a slide of somebody")
    with pytest.raises(RequestError, match="was not made by gigamil"):
        export_ome_tiff(OmeTiffOptions(store=small_store.path, out=foreign, overwrite=True))
    assert foreign.read_bytes() == b"a slide of somebody"
    with pytest.raises(RequestError, match="its own input"):
        export_ome_zarr(OmeZarrOptions(store=small_store.path, out=Path(small_store.path), overwrite=True))
    out = tmp_path / "b.ome.tiff"
    for compression in ("zstd", "jpeg"):
        summary = export_ome_tiff(
            OmeTiffOptions(store=small_store.path, out=out, compression=compression, overwrite=True)
        )
        assert summary.outcomes[0].status is Status.DONE


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_a_summary_replaces_summaries_only(tmp_path: Path, deflate_slide: Path, ending: str) -> None:
    summary = tile(TileOptions(slides=(deflate_slide,), out=tmp_path / "s", assume_mpp=0.5, workers=0))
    path = tmp_path / f"manifest.{ending}"
    path.write_text("image_id\n049194_0\n")
    with pytest.raises(RequestError, match="was not made by gigamil"):
        write_summary(path, summary)
    assert path.read_text() == "image_id\n049194_0\n"
    for _ in range(2):
        write_summary(tmp_path / f"t.{ending}", summary)


def test_put_keeps_the_old_where_the_new_cannot_come(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    write_text(tmp_path / "old" / "a", "old")
    with pytest.raises(FileNotFoundError):
        replace.put(tmp_path / "absent.partial" / "new", tmp_path / "old", lambda _: True)
    assert content(tmp_path) == {"old/a": b"old"}


def test_only_names_of_ours_are_discarded(tmp_path: Path) -> None:
    for name in ("notes.txt", "x.zarr"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match="no work file"):
            replace.discard(tmp_path / name)
    target = tmp_path / "inside"
    target.mkdir()
    write_text(target / "kept", "kept")
    (tmp_path / ".link").symlink_to(target)
    replace.discard(tmp_path / ".link")
    assert content(target) == {"kept": b"kept"}


def test_temporary_names_differ_and_fit(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 125 + ".csv")
    names = {replace.temporary_path(target).name for _ in range(100)}
    assert len(names) == 100
    assert max(len(name.encode()) for name in names) <= 255
    write_bytes(target, b"whole")
    assert content(tmp_path) == {target.name: b"whole"}


def test_what_dead_processes_left_is_removed_and_what_live_ones_write_stays(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from wsi.files.replace import temporary_path\n"
        "print(temporary_path(Path(sys.argv[1])), flush=True)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "a.h5"], stdout=subprocess.PIPE, check=True, text=True)
    dead = Path(run.stdout.strip())
    dead.write_bytes(b"half")
    mine = replace.temporary_path(tmp_path / "a.h5")
    mine.write_bytes(b"half")
    elsewhere = tmp_path / f".a.h5.other-host-1f.0123abcd.{dead.name.split('.')[-2]}.partial"
    elsewhere.write_bytes(b"half")
    make_folder(tmp_path)
    assert set(content(tmp_path)) == {mine.name, elsewhere.name}


def test_bytes_are_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    real = os.fsync

    def recorded(descriptor: int) -> None:
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / "a.csv").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_bytes(tmp_path / "a.csv", b"x")
    (file, early), (folder, late) = seen
    assert Path(file).name.startswith(".a.csv.")
    assert (early, folder, late) == (False, str(tmp_path), True)


def test_a_store_is_on_the_disk_before_its_name(
    tmp_path: Path, deflate_slide: Path, monkeypatch: pytest.MonkeyPatch, tiled: Callable[..., TileStore]
) -> None:
    seen: set[str] = set()
    real = os.fsync

    def recorded(descriptor: int) -> None:
        if not (tmp_path / "049194_0.zarr").exists():
            seen.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    store = tiled(deflate_slide, tmp_path)
    files = [p.relative_to(store.path) for p in Path(store.path).rglob("*")]
    assert {str(tmp_path / "049194_0.zarr.partial" / file) for file in files} <= seen
    assert np.asarray(store.tiles_yx).size


FORBIDDEN = {"rmtree", "unlink", "remove_file", "rename", "renames", "rmdir", "removedirs"}
ALLOWED = {
    "wsi/files/replace.py": "it is the one place",
    "wsi/files/claim.py": "its own lock file, under the lock",
}


@pytest.mark.parametrize("package", ["wsi", "cli"])
def test_one_function_removes_and_replaces(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of_os = isinstance(node.func.value, ast.Name) and node.func.value.id == "os"
                if node.func.attr in FORBIDDEN or (of_os and node.func.attr in {"replace", "remove"}):
                    found.append(str(path.relative_to(ROOT)))
    assert set(found) <= set(ALLOWED)
    assert package == "cli" or "wsi/files/replace.py" in found


def test_a_store_is_no_folder_for_other_outputs(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(RequestError, match="found a store, in which nothing else may lie"):
        make_folder(tmp_path)
