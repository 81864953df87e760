"""The table of a tiling run: a row per slide, with where its time went."""

import csv
import json
from pathlib import Path

import pytest

from wsi.cohort.summary_table import COLUMNS, STEPS, check_summary_path, write_summary
from wsi.errors import RequestError
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile


def test_each_slide_has_its_row(tmp_path: Path, deflate_slide: Path) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0 nothing")
    options = TileOptions(slides=(deflate_slide, broken), out=tmp_path / "out", workers=0, assume_mpp=0.5)
    summary = tile(options)
    write_summary(tmp_path / "a.csv", summary)
    write_summary(tmp_path / "a.json", summary)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    assert tuple(rows["broken"]) == COLUMNS
    assert rows["broken"]["status"] == "failed"
    assert "broken.tif" in rows["broken"]["notes"] or "TIFF" in rows["broken"]["notes"]
    done = rows[deflate_slide.stem]
    assert (done["status"], done["reader"], float(done["mpp"])) == ("done", "tiff", 0.5)
    assert int(done["tiles"]) > 0
    assert all(float(done[step]) >= 0 for step in STEPS)
    assert float(done["decode"]) > 0
    items = json.loads((tmp_path / "a.json").read_text())["items"]
    assert {item["id"]: item["status"] for item in items} == {name: row["status"] for name, row in rows.items()}


def test_other_endings_are_refused() -> None:
    with pytest.raises(RequestError, match=r"\.csv or \.json"):
        check_summary_path(Path("a.xlsx"))
