"""Sharing from the command line: the words, the codes, and that a page for a pathologist is among what goes."""

import json
from pathlib import Path

import pytest

from cli.app import run
from wsi.store.tile_store import TileStore
from wsi.viewing import frontend


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "cohort.csv").write_text("image_id,patient_id\n049194_0,049194\n")
    return tmp_path / "cohort.csv"


def test_share_then_search(
    small_store: TileStore, table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    assert run(["share", str(small_store.path), "-m", str(table), "-o", str(out)]) == 0
    assert run(["verify", "--phi", str(out), "--against", str(table), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["items"][0]["values"] == 2
    (out / "notes.txt").write_text("slide 049194")
    assert run(["verify", "--phi", str(out), "--against", str(table)]) == 1
    line = capfd.readouterr().err
    assert "notes.txt" in line
    assert "049194" not in line
    assert "patient_id of line 2" in line


def test_words_that_do_not_belong_together(table: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["--phi"], ["--against", str(table)], ["--slides", str(tmp_path)]):
        assert run(["verify", str(tmp_path), *words]) == 2
    assert run(["verify", "--phi", str(tmp_path / "nothing"), "--against", str(table)]) == 2
    assert run(["share", str(tmp_path), "-o", str(tmp_path / "b"), "--as", "slides"]) == 2
    assert capfd.readouterr().err.count("\n") == 5


def test_pages_know_the_new_ids_alone(small_store: TileStore, table: Path, tmp_path: Path) -> None:
    try:
        frontend.assets()
    except Exception as error:  # OpenSeadragon comes over a network, once
        pytest.skip(str(error))
    out = tmp_path / "bundle"
    assert run(["share", str(small_store.path), "-m", str(table), "-o", str(out), "--as", "pages"]) == 0
    (slide,) = (out / "pages" / "slides").iterdir()
    assert slide.name in (slide / "slide.js").read_text()
    assert slide.name in (out / "pages" / "cohort.js").read_text()
    assert {p.name for p in out.iterdir()} == {"pages", "cohort.csv", "bundle.json", "README.txt", "SHA256SUMS"}
    assert run(["verify", "--phi", str(out), "--against", str(table)]) == 0
