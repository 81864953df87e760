"""How a slide's steps count in the progress bar."""

from pathlib import Path

import pytest
from making import picture, write_deflate, write_pyramid

from wsi.cohort.slides import find_jobs
from wsi.progress.outcome import Silent
from wsi.tiling.options import TileOptions
from wsi.tiling.plan import make_plan
from wsi.tiling.shares import PLAN, step_shares
from wsi.tiling.tiler import tile


class _Bar(Silent):
    def __init__(self) -> None:
        self.total = self.done = 0.0

    def begin(self, title: str, total: float, unit: str) -> None:
        self.total += total

    def advance(self, amount: float) -> None:
        self.done += amount


def test_shares_make_the_whole_and_follow_the_kind(tmp_path: Path) -> None:
    options = TileOptions(slides=(tmp_path,), out=tmp_path, assume_mpp=0.5, workers=0)
    write_deflate(tmp_path / "deflate.tif", picture())
    write_pyramid(tmp_path / "jpeg.tif", picture())
    deflate, jpeg = (step_shares(make_plan(job, options)) for job in find_jobs([tmp_path], None))
    for shares in (deflate, jpeg):
        assert PLAN + shares.overview + shares.tissue + shares.regions + shares.finish == pytest.approx(1)
    assert deflate.overview > 4 * jpeg.overview, "a pyramid has small levels"
    assert deflate.regions > jpeg.regions, "copied tiles are quicker than made ones"


def test_a_bar_reaches_its_end(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "s.tif", picture())
    bar = _Bar()
    tile(TileOptions(slides=(tmp_path / "s.tif",), out=tmp_path / "stores", workers=0), bar)
    assert bar.done == pytest.approx(bar.total)
