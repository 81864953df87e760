"""Ventana BIF: read directly where tiles do not overlap, and then as OpenSlide reads it."""

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from making import picture
from numpy.typing import NDArray

from wsi.slide import open_slide
from wsi.units import Box

TILE = 256
ROWS, COLUMNS = 4, 5


def joints(overlap: int) -> str:
    """Say of every neighbouring pair how far it overlaps; rows count from the bottom, every second from the right."""
    lines = []
    number = {
        (row, column): (ROWS - 1 - row) * COLUMNS + (COLUMNS - 1 - column if (ROWS - 1 - row) % 2 else column) + 1
        for row in range(ROWS)
        for column in range(COLUMNS)
    }
    for (row, column), one in number.items():
        for direction, other in (("RIGHT", (row, column + 1)), ("UP", (row - 1, column))):
            if other in number:
                lines.append(
                    f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{direction}" Tile1="{one}" '
                    f'Tile2="{number[other]}" OverlapX="{overlap}" OverlapY="{overlap}"/>'
                )
    return "".join(lines)


def write_bif(path: Path, pixels: NDArray[np.uint8], overlap: int = 0, rows: int = ROWS) -> Path:
    scan = '<iScan Magnification="20" ScanRes="0.465" Z-layers="1" UnitNumber="1"/>'
    info = (
        f'<EncodeInfo Ver="2"><SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" NumRows="{rows}" '
        f'NumCols="{COLUMNS}" Width="{TILE}" Height="{TILE}" Pos-X="0" Pos-Y="0">{joints(overlap)}</ImageInfo>'
        '</SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    common = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    colours = {"compressionargs": {"outcolorspace": "ycbcr", "level": 90}}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        label = np.full((64, 64, 3), 200, np.uint8)
        xmp = scan.encode()
        tiff.write(label, description="Label Image", extratags=[(700, 1, len(xmp), xmp, True)], **common, **colours)
        for level in range(2):
            xml = info.encode() if level == 0 else b""
            tags = [(700, 1, len(xml), xml, True)] if xml else []
            tiff.write(
                pixels[:: 2**level, :: 2**level],
                description=f"level={level} mag={20 / 2**level:g} quality=90",
                tile=(TILE, TILE),
                extratags=tags,
                **common,
                **colours,
            )
    return path


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return picture(ROWS * TILE, COLUMNS * TILE)


def test_tiles_that_do_not_overlap_are_read_as_openslide_places_them(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = write_bif(tmp_path / "a.bif", pixels)
    slide = open_slide(path)
    assert slide.reader == "tiff"
    assert slide.mpp_claims[0].source == "Ventana ScanRes"
    assert slide.mpp_claims[0].mpp_yx == (0.465, 0.465)
    assert slide.objective_power == 20
    with openslide.OpenSlide(path) as other:
        assert other.properties["openslide.vendor"] == "ventana"
        assert other.dimensions == (COLUMNS * TILE, ROWS * TILE)
        assert float(other.properties["openslide.mpp-x"]) == 0.465
        theirs = np.asarray(other.read_region((0, 0), 0, other.dimensions))[..., :3]
    ours = slide.read(0, Box(0, 0, ROWS * TILE, COLUMNS * TILE))
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert [level.downsample for level in slide.levels] == [1, 2]


@pytest.mark.parametrize(("overlap", "rows", "reason"), [(8, ROWS, "overlapping"), (0, ROWS - 1, "several areas")])
def test_other_bif_is_left_to_openslide(
    tmp_path: Path, pixels: NDArray[np.uint8], overlap: int, rows: int, reason: str
) -> None:
    path = write_bif(tmp_path / "a.bif", pixels, overlap, rows)
    with pytest.raises(Exception, match=reason):
        open_slide(path, "tiff")
