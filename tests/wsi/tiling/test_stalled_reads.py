"""A slide whose disk went away: its reads block for ever, the other slides go on."""

import os
from pathlib import Path

import pytest

from wsi.progress.outcome import Status
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

READER = '''
"""Reads a TIFF through a file that names it, how often its disk goes away, and a pipe that nobody ever writes into."""
import os
from pathlib import Path

from wsi.errors import UnreadableSlideError
from wsi.readers.tiff.reader import open_with_tiff

def open_lost(path, opening):
    if path.suffix != ".lost":
        raise UnreadableSlideError("it is not lost")
    slide, times, pipe = path.read_text().split()
    slide = open_with_tiff(Path(slide), opening)
    read, notes = slide.read, Path(pipe).parent

    def lost(*arguments):
        mine = notes / f"{path.stem}-{len(list(notes.glob(path.stem + '-*')))}"
        if int(times) > len(list(notes.glob(path.stem + "-*"))):
            mine.touch()
            os.open(pipe, os.O_RDONLY)  # blocks in the kernel
        return read(*arguments)

    slide.read, slide.reader = lost, "lost"
    slide.tiles = lambda level: None
    return slide
'''


@pytest.fixture
def slides(tmp_path: Path, deflate_slide: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``once`` loses its disk for one read, ``always`` for each; ``a`` and ``z`` are well."""
    site, info = tmp_path / "site", tmp_path / "site" / "gigamil_lost_of_test-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "gigamil_lost_of_test.py").write_text(READER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gigamil-lost-of-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gigamil.readers]\nlost = gigamil_lost_of_test:open_lost\n")
    monkeypatch.syspath_prepend(site)
    notes, folder = tmp_path / "notes", tmp_path / "slides"
    notes.mkdir()
    folder.mkdir()
    os.mkfifo(notes / "pipe")
    for name, times in (("a", 0), ("always", 10**6), ("once", 1), ("z", 0)):
        (folder / f"{name}.lost").write_text(f"{deflate_slide} {times} {notes / 'pipe'}")
    return folder


@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_reads_that_block_are_tried_elsewhere_and_then_fail_one_slide(
    slides: Path, tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stores"
    files = tuple(sorted(slides.iterdir()))
    summary = tile(TileOptions(slides=files, out=out, assume_mpp=0.5, workers=workers, stall=3.0))
    found = {outcome.item_id: outcome for outcome in summary.outcomes}
    assert {name: outcome.status for name, outcome in found.items()} == {
        "a": Status.DONE, "always": Status.FAILED, "once": Status.DONE, "z": Status.DONE
    }  # fmt: skip
    assert "always: nothing moved for 3 s, 3 times: see to its disk" in found["always"].reason
    assert "open_lost" in capfd.readouterr().err or workers  # the stacks; a worker's standard error is its own
    assert sorted(path.name for path in out.iterdir()) == ["a.zarr", "once.zarr", "z.zarr"]
    tiles = [TileStore(out / f"{name}.zarr") for name in ("a", "once")]
    assert tiles[0].n_tiles > 0
    assert (tiles[0].read_tiles(range(5)) == tiles[1].read_tiles(range(5))).all()
