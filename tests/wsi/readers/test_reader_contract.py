"""Every reader keeps the contract that readers of other packages are held to."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from making import RGB, picture, write_deflate, write_ome_zarr, write_pyramid
from making_dicom import JPEG_LS, write_dicom

from wsi.readers.contract import check_reader
from wsi.readers.dicom.reader import open_with_dicom
from wsi.readers.ome_zarr_reader import open_with_ome_zarr
from wsi.readers.openslide_reader import open_with_openslide
from wsi.readers.protocol import Opening
from wsi.readers.tiff.reader import TiffReader, open_with_tiff
from wsi.readers.tiles import Tiles
from wsi.units import Box

READERS = {
    "tiff": open_with_tiff,
    "openslide": open_with_openslide,
    "dicom": open_with_dicom,
    "ome-zarr": open_with_ome_zarr,
}
PIXELS = picture(300, 421)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small slide of each kind, all of `PIXELS`, but for the OME-Zarr."""
    folder = tmp_path_factory.mktemp("slides")
    return {
        "deflate": write_deflate(folder / "a.tif", PIXELS),
        "jpeg": write_pyramid(folder / "b.tif", PIXELS[:, :420]),
        "dicom": write_dicom(folder / "a.dcm", PIXELS, JPEG_LS),
        "zarr": write_ome_zarr(folder / "a.zarr"),
    }


CASES = [("tiff", "deflate"), ("tiff", "jpeg"), ("openslide", "jpeg"), ("dicom", "dicom"), ("ome-zarr", "zarr")]


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
@pytest.mark.parametrize(("reader", "kind"), CASES)
def test_every_reader_keeps_the_contract(slides: dict[str, Path], reader: str, kind: str) -> None:
    check_reader(READERS[reader], slides[kind], PIXELS if kind in ("deflate", "dicom") else None)


class Broken(TiffReader):
    """A reader with something wrong: what depends on the row, black borders, another type, a wrong factor, ...."""

    def __init__(self, wrong: str, path: Path, opening: Opening) -> None:
        super().__init__(path, opening.threads)
        self.wrong = wrong
        if wrong == "factor":
            self.levels = tuple(replace(level, downsample=level.downsample**1.1) for level in self.levels)

    def tiles(self, level: int) -> Tiles | None:
        found = super().tiles(level)
        if found is None or self.wrong not in ("tiles", "flip"):
            return found
        return None if self.wrong == "flip" else replace(found, decode=lambda index: found.decode(0))

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        if self.wrong == "shift":
            return super().read(level, Box(box.y0 % 2 + box.y0, box.x0, box.y1 + box.y0 % 2, box.x1), damaged)
        found = super().read(level, box, damaged)
        if self.wrong == "flip" and level:
            width = self.levels[level].shape.x
            return super().read(level, Box(box.y0, width - box.x1, box.y1, width - box.x0))[:, ::-1]
        if self.wrong == "black" and box.y0 < 0:
            found[: -box.y0] = 0
        return found.astype(np.int16) if self.wrong == "type" else found


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("factor", "does not take"),
        ("shift", "is no part of the level"),
        ("black", "beyond the border"),
        ("flip", "level 1 is not level 0 made smaller"),
        ("tiles", "level 0: tile 1 is not what read gives"),
        ("type", "expected pixels .* uint8, found"),
    ],
)
def test_the_contract_finds_what_is_broken(slides: dict[str, Path], wrong: str, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_reader(partial(Broken, wrong), slides["jpeg"])


def test_other_pixels_and_a_file_of_words_are_found_out(slides: dict[str, Path]) -> None:
    with pytest.raises(AssertionError, match="level 0 is not what was written"):
        check_reader(open_with_tiff, slides["deflate"], 255 - PIXELS)
    with pytest.raises(AssertionError, match="a file of words is taken for a slide"):
        check_reader(lambda path, opening: open_with_tiff(slides["deflate"], opening), slides["deflate"], PIXELS)
