"""Dask's dashboard: named, there while the tiler runs, on this machine alone."""

import importlib.util
import urllib.request
from pathlib import Path

import pytest

import wsi.tiling.cluster
from wsi.errors import RequestError
from wsi.progress.outcome import Silent
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile


class _Visitor(Silent):
    """Opens the address that a note names."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}

    def note(self, line: str) -> None:
        address = line.rpartition(" ")[2]
        with urllib.request.urlopen(address) as answer:
            self.pages[address] = answer.read().decode()


@pytest.mark.skipif(importlib.util.find_spec("bokeh") is None, reason="bokeh is not installed")
def test_its_address_opens_while_slides_are_tiled(deflate_slide: Path, tmp_path: Path) -> None:
    visitor = _Visitor()
    options = TileOptions(slides=(deflate_slide,), out=tmp_path / "stores", assume_mpp=0.5, workers=0, dashboard=True)
    assert tile(options, visitor).exit_code == 0
    ((address, page),) = visitor.pages.items()
    assert address.startswith(("http://127.0.0.1:", "http://localhost:"))
    assert "Task Stream" in page or "bokeh" in page.lower()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address)


def test_without_bokeh_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsi.tiling.cluster, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"needs bokeh: pip install 'gigamil\[dashboard\]'"):
        tile(TileOptions(slides=(tmp_path,), out=tmp_path / "stores", dashboard=True))
    assert not (tmp_path / "stores").exists()
