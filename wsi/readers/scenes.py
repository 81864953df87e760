"""Which of a file's pictures is the slide, where a file holds several.

A scene is one scan of tissue. Scenes are counted from 0 in the file's order, as Bio-Formats and tifffile count series:
a pyramid is one, and label and macro keep their numbers, though they are never read as the slide.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tifffile import TiffFile, TiffPage, TiffPageSeries

from wsi.errors import NotASlideError, UnreadableSlideError
from wsi.pages import plural
from wsi.readers.protocol import Scene
from wsi.units import YX

_MASK, _REDUCED = 4, 1
"""Bits of TIFF's NewSubfileType: a transparency mask, a smaller form of another picture."""
_BY_VENDOR = frozenset({"svs", "philips", "bif"})
"""Formats whose first series is the slide."""
_BESIDE = re.compile(r"\b(label|macro|thumbnail|overview|barcode)\b", re.IGNORECASE)
"""Names of pictures beside the slide."""
_LIKE = 16
"""A picture with fewer pixels than this part of the largest is taken for a thumbnail where its file gives no names."""


@dataclass(frozen=True, slots=True)
class TiffScene:
    """One picture of a TIFF with its levels."""

    scene: Scene
    pages: tuple[TiffPage, ...]
    """One per level, largest first."""
    kind: str
    """The file's format, as tifffile names it."""


def tiff_scenes(tiff: TiffFile) -> tuple[TiffScene, ...]:
    """Return the scenes of a TIFF, in the file's order.

    Raises
    ------
    UnreadableSlideError
        The file holds no picture.
    NotASlideError
        It holds a stack, or channels of their own: who reads its first plane alone reads something else.
    """
    if not tiff.series:
        raise UnreadableSlideError("the TIFF holds no image")
    if tiff.series[0].kind in _BY_VENDOR:
        return tuple(_of_series(tiff.series[0], 0))
    found: list[TiffScene] = []
    count = 0
    for series in tiff.series:
        of_it = _of_series(series, count)
        found += of_it
        count += max(1, len(of_it))
    if not found:
        main = max(tiff.series, key=lambda series: math.prod(series.shape))
        raise NotASlideError(
            f"holds {plural(len(main.pages), 'plane')}, {main.axes} {main.shape}: expected one RGB or grey image; "
            "write the plane or projection that is wanted as a TIFF of its own"
        )
    return tuple(_slides_of(found, named=bool(tiff.is_ome)))


def _of_series(series: TiffPageSeries, first: int) -> list[TiffScene]:
    """Return the pictures of one size that a series holds; none where it is a stack or has channels of its own."""
    if series.axes.replace("Q", "").replace("I", "") not in {"YXS", "YX", "SYX"}:
        return []
    levels = [[_page(level, i) for i in range(len(level.pages))] for level in series.levels]
    found = []
    for i, page in enumerate(levels[0]):
        if page.subfiletype & _MASK:
            continue
        shape = YX(page.imagelength, page.imagewidth)
        pages = tuple(level[i] if i < len(level) else level[0] for level in levels)
        found.append(TiffScene(Scene(first + i, " ".join(series.name.split()), shape), pages, series.kind))
    return found


def _page(level: TiffPageSeries, i: int) -> TiffPage:
    page = level.pages[i]
    return page if isinstance(page, TiffPage) else level.keyframe


def _slides_of(found: Sequence[TiffScene], *, named: bool) -> list[TiffScene]:
    """Leave out what is beside a slide: by its name, and in files without names what is like a smaller form of it."""
    kept = [each for each in found if not is_beside(each.scene.name)] or list(found)
    if named:
        return kept
    largest = max(kept, key=lambda each: math.prod(each.scene.shape))
    return [each for each in kept if each is largest or _is_like(each, largest)]


def _is_like(each: TiffScene, largest: TiffScene) -> bool:
    page, (height, width) = each.pages[0], each.scene.shape
    most = largest.scene.shape
    is_smaller_form = height < most.y and abs(height * most.x / (width * most.y) - 1) < 0.02
    return (
        page.is_tiled == largest.pages[0].is_tiled
        and not page.subfiletype & _REDUCED
        and not is_smaller_form
        and height * width * _LIKE >= math.prod(most)
    )


def is_beside(name: str) -> bool:
    """Tell whether a picture's name says that it lies beside the slide: its label, say."""
    return _BESIDE.search(name.replace("_", " ")) is not None


def choose_scene(scenes: Sequence[Scene], wanted: int | None) -> Scene:
    """Return the scene that is asked for; None: the one with the most pixels, the first of these.

    Raises
    ------
    NotASlideError
        There is no such scene.
    """
    if wanted is None:
        return max(scenes, key=lambda scene: scene.shape.y * scene.shape.x)
    for scene in scenes:
        if scene.index == wanted:
            return scene
    there = ", ".join(str(scene.index) for scene in scenes)
    raise NotASlideError(f"--scene {wanted}: the file has no such scene, only {there}")


def refuse_scene(wanted: int | None) -> None:
    """Raise `NotASlideError` where a scene is asked of a file whose format has but one."""
    if wanted:
        raise NotASlideError(f"--scene {wanted}: the file has one scene, 0")


def scene_notes(scenes: Sequence[Scene], chosen: Scene) -> tuple[str, ...]:
    """Say which of several scenes is read. Their names stay out: notes are kept in stores."""
    if len(scenes) < 2:
        return ()
    height, width = chosen.shape
    read = f"scene {chosen.index} ({width} x {height} px) of {len(scenes)} is read"
    return (f"{read}: `gigamil info` lists them, --scene chooses",)


def refuse_without_pixels(path: Path) -> None:
    """Refuse an Olympus VSI without its folder: it holds a thumbnail and points to where the pixels lie.

    Raises
    ------
    NotASlideError
        It is one; the message names the folder.
    """
    if path.suffix.lower() != ".vsi":
        return
    folder = path.with_name(f"_{path.stem}_")
    if folder.is_dir() and any(folder.rglob("*.ets")):
        return
    raise NotASlideError(
        f"{path.name} is an Olympus VSI with no more than a thumbnail in it: the slide lies in the .ets files of "
        f"{folder.name}/, and the folder {folder.name} is missing beside it, or holds none: copy it"
    )
