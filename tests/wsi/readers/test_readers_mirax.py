"""MIRAX, read directly where its images lie at whole pixels: the pixels of OpenSlide, on every level."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
from making import RGB, picture
from making_mirax import MiraxSlide, write_mirax

from wsi.errors import DamagedSlideError, UnreadableSlideError
from wsi.readers.contract import check_reader, whole
from wsi.readers.mirax.layout import read_layout
from wsi.readers.mirax.reader import MiraxReader, open_with_mirax
from wsi.readers.tiles import DAMAGED_RGB
from wsi.slide import open_slide
from wsi.store.tile_store import TileStore
from wsi.units import YX, Box

PIXELS = picture(400, 640)
SHIFTS = {(0, 1): (3, 2), (1, 1): (1, -3), (2, 3): (0, 5)}
OVERLAP = YX(8, 12)
SLIDES: dict[str, tuple[MiraxSlide, set[int]]] = {
    "plain": (MiraxSlide(), {0, 1, 2}),
    "photos of 4 x 4": (MiraxSlide(YX(2, 2), divisions=4, levels=4), {0, 1, 2, 3}),
    "photos that were not taken": (MiraxSlide(absent=[(0, 0), (1, 2)]), {0, 1, 2}),
    "overlap": (MiraxSlide(overlap=OVERLAP), {0, 1}),
    "odd overlap": (MiraxSlide(overlap=YX(7, 11)), {0}),
    "told positions": (MiraxSlide(overlap=OVERLAP, shifts=SHIFTS, absent=[(1, 2)]), {0}),
    "told positions, packed": (MiraxSlide(overlap=OVERLAP, shifts=SHIFTS, packed=True), {0}),
    "told positions that are even": (MiraxSlide(overlap=OVERLAP, shifts={(0, 1): (2, 4)}), {0, 1}),
}
"""And the levels that are read directly: further ones hold images between pixels, or of several photos."""


def by_openslide(path: Path, level: int) -> RGB:
    """Return a level, what OpenSlide calls transparent in the slide's fill colour."""
    with openslide.OpenSlide(path) as slide:
        rgba = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + np.array([0xDC, 0xE8, 0xF0]) * (1 - alpha)).astype(np.uint8)


@pytest.mark.parametrize("kind", SLIDES)
def test_every_level_is_what_openslide_reads(tmp_path: Path, kind: str) -> None:
    made, direct = SLIDES[kind]
    path = write_mirax(tmp_path / "a.mrxs", made, PIXELS)
    slide, theirs = open_slide(path), open_slide(path, "openslide")
    assert isinstance(slide, MiraxReader)
    assert {number for number, level in enumerate(read_layout(path).levels) if level} == direct
    facts = [(s.format, s.levels, s.mpp_claims, s.objective_power) for s in (slide, theirs)]
    assert facts[0] == facts[1]
    assert slide.mpp_claims[0].mpp_yx == (0.25, 0.25)
    for number in range(len(slide.levels)):
        np.testing.assert_array_equal(whole(slide, number), by_openslide(path, number))


@pytest.mark.parametrize("kind", ["plain", "photos that were not taken", "told positions that are even"])
def test_it_keeps_the_contract(tmp_path: Path, kind: str) -> None:
    made, direct = SLIDES[kind]
    made.levels = len(direct)
    check_reader(open_with_mirax, write_mirax(tmp_path / "a.mrxs", made, PIXELS))


def test_what_is_not_read_right_is_left_to_openslide(tmp_path: Path) -> None:
    path = write_mirax(tmp_path / "a.mrxs", MiraxSlide(joined=1), PIXELS)
    with pytest.raises(UnreadableSlideError, match="joined on level 0"):
        MiraxReader(path)
    path = write_mirax(tmp_path / "b.mrxs", MiraxSlide(image_format="PNG"), PIXELS)
    with pytest.raises(UnreadableSlideError, match="left to OpenSlide"):
        MiraxReader(path)
    (tmp_path / "c.mrxs").write_bytes(b"")
    with pytest.raises(UnreadableSlideError, match=r"Slidedat\.ini"):
        MiraxReader(tmp_path / "c.mrxs")


@pytest.mark.parametrize("name", ["../a.dat", "/etc/passwd", "..", "x\\y.dat", ""])
def test_files_outside_the_folder_are_no_slides(tmp_path: Path, name: str) -> None:
    path = write_mirax(tmp_path / "a.mrxs", MiraxSlide(), PIXELS)
    ini = tmp_path / "a" / "Slidedat.ini"
    ini.write_text(ini.read_text("utf-8-sig").replace("FILE_1=Data0001.dat", f"FILE_1={name}"))
    with pytest.raises(UnreadableSlideError, match="file name"):
        read_layout(path)


def test_a_damaged_image_is_damage_of_its_own_place(tmp_path: Path) -> None:
    path = write_mirax(tmp_path / "a.mrxs", MiraxSlide(), PIXELS)
    level = read_layout(path).levels[0]
    assert level is not None
    number = int(np.flatnonzero((level.corners == (96, 192)).all(axis=1))[0])
    file, offset, count = level.places[number].tolist()
    data = tmp_path / "a" / f"Data{file:04}.dat"
    good = data.read_bytes()
    data.write_bytes(good[: offset + 300] + bytes(count - 302) + good[offset + count - 2 :])
    slide = open_slide(path)
    damaged: list[Box] = []
    found = slide.read(0, Box(0, 0, 288, 512), damaged)
    assert damaged == [Box(96, 192, 144, 256)]
    assert (found[96:144, 192:256] == DAMAGED_RGB).all()
    with pytest.raises(DamagedSlideError, match="--on-damage skip"):
        slide.read(0, Box(96, 192, 100, 200))


def test_a_data_file_that_is_missing_is_told(tmp_path: Path) -> None:
    path = write_mirax(tmp_path / "a.mrxs", MiraxSlide(YX(2, 4)), PIXELS)
    (tmp_path / "a" / "Data0001.dat").unlink()
    slide = open_slide(path)
    assert slide.missing == "1 of 2 data files are missing, Data0001.dat first"
    damaged: list[Box] = []
    slide.read(0, Box(0, 0, 48, 128), damaged)
    assert damaged == [Box(0, 64, 48, 128)]
    (tmp_path / "a" / "Data0000.dat").rename(tmp_path / "a" / "other.dat")  # OpenSlide looks into this one
    with pytest.raises(UnreadableSlideError, match="cannot be read") as told:
        open_slide(path)
    assert "\n" not in str(told.value)


def test_spoiled_indices_are_refused_in_a_line(tmp_path: Path) -> None:
    path = write_mirax(tmp_path / "a.mrxs", MiraxSlide(overlap=OVERLAP, shifts=SHIFTS), PIXELS)
    rng, ended, lines = np.random.default_rng(5), {"read": 0, "refused": 0}, 0
    for name in ("Index.dat", "Slidedat.ini"):
        file = tmp_path / "a" / name
        good = file.read_bytes()
        for _ in range(60):
            spoiled = bytearray(good)
            for place in rng.integers(0, len(good), 1 + rng.integers(4)):
                spoiled[place] = rng.integers(256)
            file.write_bytes(spoiled[: len(good) if rng.random() < 0.8 else rng.integers(len(good))])
            try:
                read_layout(path)
                ended["read"] += 1
            except UnreadableSlideError as error:
                lines += len(str(error).splitlines())
                ended["refused"] += 1
        file.write_bytes(good)
    assert min(ended.values()) > 10
    assert lines == ended["refused"]


def test_tiling_gives_the_pixels_that_openslide_gives(tmp_path: Path, tiled: Callable[..., TileStore]) -> None:
    made = MiraxSlide(overlap=OVERLAP, shifts=SHIFTS)
    path = write_mirax(tmp_path / "a.mrxs", made, PIXELS)
    options = {"tile_px": 64, "target_mpp": 0.25}
    ours, theirs = tiled(path, tmp_path / "x", **options), tiled(path, tmp_path / "y", reader="openslide", **options)
    assert ours.provenance["reader"] == "mirax"
    assert ours.n_tiles
    np.testing.assert_array_equal(ours.tiles_yx, theirs.tiles_yx)
    indices = np.arange(ours.n_tiles)
    np.testing.assert_array_equal(ours.read_tiles(indices), theirs.read_tiles(indices))
