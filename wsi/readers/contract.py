"""What every slide reader must satisfy: call `check_reader` in the tests of a package that brings one.

Each check takes a function that opens one small slide with whole pixels, and raises `AssertionError` that says what is
broken. The slide should have several tiles, a border that cuts one, and something to see; levels whose sizes divide
level 0's, if it is read by a library that takes positions on level 0, as OpenSlide does.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from wsi.arrays import RGB
from wsi.errors import UnreadableSlideError
from wsi.readers.protocol import Opener, Opening, Slide
from wsi.units import YX, Box

Open = Callable[[Opening], Slide]
_ALIKE = 16.0
"""Grey levels by which a level may differ from level 0 made smaller, in the mean: many scanners take every other
pixel."""


def whole(slide: Slide, level: int = 0) -> RGB:
    """Return all pixels of a level, uint8 (height, width, 3)."""
    return slide.read(level, Box(0, 0, *slide.levels[level].shape))


def tells_what_it_is(open_it: Open) -> None:
    """Check the facts: names, levels from the largest, true factors, resolutions that can be, one line each."""
    with open_it(Opening()) as slide:
        texts = (slide.reader, slide.format, slide.chosen_because)
        _hold(all(texts), "expected reader, format and why it was chosen")
        _hold("\n" not in "".join((*texts, slide.missing, *slide.notes)), "texts and notes: expected one line each")
        _hold(slide.path.exists(), f"path: {slide.path} is not there")
        first = slide.levels[0]
        _hold(first.downsample == 1, f"levels[0].downsample: expected 1, found {first.downsample}")
        for level in slide.levels:
            _hold(isinstance(level.shape, YX) and min(level.shape) > 0, f"shape: expected YX, found {level.shape}")
            for length, short in zip(first.shape, level.shape, strict=True):
                right = abs(length / level.downsample - short) <= 1.5
                _hold(right, f"downsample {level.downsample} does not take {length} pixels to {short}")
        areas = [level.shape.y * level.shape.x for level in slide.levels]
        _hold(areas == sorted(areas, reverse=True), "levels: expected the largest first")
        mpp = [own for claim in slide.mpp_claims for own in claim.mpp_yx]
        _hold(all(math.isfinite(own) and own > 0 for own in mpp), f"mpp_claims: expected um/px, found {mpp}")
        _hold(not slide.scenes or slide.scene in [scene.index for scene in slide.scenes], "scene is none of the scenes")


def reads_the_same_in_any_cut(open_it: Open) -> None:
    """Check that boxes are parts of the whole level, wherever they are cut; on one thread and on two."""
    rng = np.random.default_rng(3)
    for threads in (1, 2):
        with open_it(Opening(threads)) as slide:
            for number, level in enumerate(slide.levels):
                pixels = whole(slide, number)
                _hold_picture(pixels, level.shape)
                for box in _boxes(level.shape, rng):
                    wanted = pixels[box.y0 : box.y1, box.x0 : box.x1]
                    _hold_equal(slide.read(number, box), wanted, f"level {number}: {box} is no part of the level")


def is_white_beyond_its_borders(open_it: Open) -> None:
    """Check boxes that reach beyond the level on every side, and that white there is no damage."""
    with open_it(Opening()) as slide:
        for number, (height, width) in enumerate(level.shape for level in slide.levels):
            padded = np.pad(whole(slide, number), ((40, 40), (40, 40), (0, 0)), constant_values=255)
            for y0, x0 in ((-40, -40), (-40, width - 20), (height - 20, -40), (height - 20, width - 20)):
                damaged: list[Box] = []
                found = slide.read(number, Box(y0, x0, y0 + 60, x0 + 60), damaged)
                wanted = padded[y0 + 40 : y0 + 100, x0 + 40 : x0 + 100]
                _hold_equal(found, wanted, f"level {number}: beyond the border of {height} x {width} it is not white")
                _hold(not damaged, f"level {number}: what lies beyond the border is told as damaged")
            outside = slide.read(number, Box(height + 10, 0, height + 20, 10))
            _hold_equal(outside, np.full((10, 10, 3), 255, np.uint8), "a box outside the slide is not white")


def gives_its_tiles_as_it_reads(open_it: Open) -> None:
    """Check a level's own tiles, where there are such, against the pixels of `read`."""
    with open_it(Opening()) as slide:
        for number, level in enumerate(slide.levels):
            tiles = slide.tiles(number)
            if tiles is None:
                continue
            _hold(level.tile == tiles.cut.tile, f"level {number}: tile {level.tile}, but tiles of {tiles.cut.tile}")
            for index in range(tiles.cut.grid.y * tiles.cut.grid.x):
                inside = tiles.cut.place(index).clipped(level.shape)
                height, width = inside.shape
                decoded = tiles.decode(index)
                wanted = slide.read(number, inside)
                found = np.full_like(wanted, 255) if decoded is None else tiles.coloured(decoded)[:height, :width]
                _hold_equal(found, wanted, f"level {number}: tile {index} is not what read gives")


def shows_one_picture_on_all_levels(open_it: Open) -> None:
    """Check that each level is level 0 made smaller: in place, in colour, neither flipped nor shifted."""
    with open_it(Opening()) as slide:
        finest = whole(slide)
        for number, level in enumerate(slide.levels[1:], 1):
            small = cv2.resize(finest, (level.shape.x, level.shape.y), interpolation=cv2.INTER_AREA)
            off = float(np.abs(small.astype(np.int16) - whole(slide, number)).mean())
            _hold(off < _ALIKE, f"level {number} is not level 0 made smaller: off by {off:.0f} grey levels in the mean")


def opens_again_the_same(open_it: Open) -> None:
    """Check that two that are open at once do not meet, that each closes itself alone, and that it opens anew."""
    with open_it(Opening()) as one:
        with open_it(Opening()) as other:
            before = whole(other)
            _hold(one.levels == other.levels and one.mpp_claims == other.mpp_claims, "opened twice, its facts differ")
        _hold_equal(whole(one), before, "opened twice, its pixels differ")
    with open_it(Opening()) as anew:
        _hold_equal(whole(anew), before, "opened anew, its pixels differ")


CHECKS: tuple[Callable[[Open], None], ...] = (
    tells_what_it_is,
    reads_the_same_in_any_cut,
    is_white_beyond_its_borders,
    gives_its_tiles_as_it_reads,
    shows_one_picture_on_all_levels,
    opens_again_the_same,
)


def refuses_what_it_cannot_read(opener: Opener, suffix: str) -> None:
    """Check that a file of the same ending that is no slide is refused with a reason, in one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"odd{suffix}"
        path.write_bytes(b"neither a slide nor anything else " * 40)
        try:
            opener(path, Opening()).close()
        except UnreadableSlideError as error:
            told = str(error)
            _hold(bool(told) and "\n" not in told, f"expected the reason in one line, found {told!r}")
        else:
            raise AssertionError("a file of words is taken for a slide")


def check_reader(opener: Opener, path: Path, pixels: RGB | None = None) -> None:
    """Hold a reader to all of them, on one slide file; ``pixels``: what its level 0 must be, where that is known."""
    for check in CHECKS:
        check(partial(opener, path))
    if pixels is not None:
        with opener(path, Opening()) as slide:
            _hold_equal(whole(slide), pixels, "level 0 is not what was written")
    if path.is_file():
        refuses_what_it_cannot_read(opener, path.suffix)


def _boxes(shape: YX, rng: np.random.Generator) -> list[Box]:
    """Return boxes inside a level: a pixel, rows and columns, corners, and some at random."""
    y, x = shape
    boxes = [Box(0, 0, 1, 1), Box(y - 1, x - 1, y, x), Box(0, x // 2, y, x // 2 + 1), Box(y // 2, 0, y // 2 + 1, x)]
    for _ in range(6):
        (y0, y1), (x0, x1) = (np.sort(rng.integers(0, length + 1, 2)).tolist() for length in shape)
        boxes.append(Box(y0, x0, max(y1, min(y0 + 1, y)), max(x1, min(x0 + 1, x))))
    return [box for box in boxes if min(box.shape) > 0]


def _hold_picture(pixels: RGB, shape: Sequence[int]) -> None:
    right = pixels.shape == (*shape, 3) and pixels.dtype == np.uint8
    _hold(right, f"expected pixels {(*shape, 3)} uint8, found {pixels.shape} {pixels.dtype}")


def _hold_equal(found: RGB, wanted: RGB, broken: str) -> None:
    _hold_picture(found, wanted.shape[:2])
    off = int(np.abs(found.astype(np.int16) - wanted).max(initial=0))
    _hold(off == 0, f"{broken} (off by up to {off} grey levels)")


def _hold(condition: bool, broken: str) -> None:
    if not condition:
        raise AssertionError(broken)
