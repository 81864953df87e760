"""One item that is bad among good ones: it is named in one line, the others are done, nothing half-written remains."""

import shutil
from pathlib import Path

import pytest

from cli.app import run
from wsi.store.tile_store import TileStore


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory, deflate_slide: Path, small_store: TileStore) -> Path:
    """Folders slides/, stores/ and bags/, each with a good item and a bad one, ``bad_0``."""
    folder = tmp_path_factory.mktemp("items")
    for kind in ("slides", "stores"):
        (folder / kind).mkdir()
    shutil.copy(deflate_slide, folder / "slides")
    (folder / "slides" / "bad_0.tif").write_bytes(deflate_slide.read_bytes()[:5000])
    assert isinstance(small_store.path, Path)
    shutil.copytree(small_store.path, folder / "stores" / small_store.path.name)
    assert run(["extract", str(folder / "stores"), "--encoder", "texture", "--out", str(folder / "bags")]) == 0
    shutil.copytree(small_store.path, folder / "stores" / "bad_0.zarr")
    (folder / "stores" / "bad_0.zarr" / "zarr.json").write_text("{")
    whole = next((folder / "bags").glob("*.h5")).read_bytes()
    (folder / "bags" / "bad_0.h5").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize(
    ("command", "made"),
    [
        ("info slides --assume-mpp 0.5", None),
        ("tile slides --assume-mpp 0.5 --workers 0 --out {out}", "049194_0.zarr/zarr.json"),
        ("qc stores --out {out}", "qc.html"),
        ("verify stores", None),
        ("verify bags", None),
        ("extract stores --encoder texture --out {out}", "049194_0.h5"),
        ("page stores --workers 0 --out {out}", "slides/049194_0/slide.js"),
        ("share stores --out {out}", "stores/*/zarr.json"),
    ],
)
def test_one_bad_item_among_good_ones(
    items: Path,
    tmp_path: Path,
    command: str,
    made: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if command.startswith("page"):
        from wsi.errors import RequestError
        from wsi.viewing.frontend import assets

        try:
            assets()
        except RequestError as error:
            pytest.skip(str(error))
    monkeypatch.chdir(items)
    before = sorted(path for path in items.rglob("*"))
    assert run(command.format(out=tmp_path / "out").split()) == 1
    told = "".join(capfd.readouterr())
    assert "bad_0" in told
    assert "Traceback" not in told
    assert sorted(path for path in items.rglob("*")) == before
    if made is not None:
        assert list((tmp_path / "out").glob(made))
        assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or "bad_0" in path.name]
