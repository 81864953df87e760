"""What a TIFF says: every tag of every page, private ones too; pages that show a label or the whole glass."""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import tifffile

from wsi.sharing.phi.pictures import icc_places, shows_label
from wsi.sharing.phi.texts import Found, Place, Remark, binary_text
from wsi.sharing.phi.written import written_in

_FIELDS = {306: "a date", 315: "a person's name", 316: "a computer's name", 36867: "a date", 36868: "a date"}
"""Tags that tell of a person, a time or a computer, whatever stands in them."""
_ICC, _NDPI_LENS = 34675, 65421
_PRIVATE = 32768
"""The first of the tags whose numbers may be somebody's."""
_PIXELS = frozenset({273, 279, 324, 325, 347, 322, 323, 256, 257})
"""Tags of offsets, sizes and coding tables."""
_WHAT = "a picture of a label or of the whole glass"


def places(file: BinaryIO, name: str) -> Found:
    """Yield the texts of a TIFF, and remarks on its pages."""
    with tifffile.TiffFile(file, _multifile=False) as tiff:
        named = {id(level.keyframe): series.name for series in _series(tiff) for level in series.levels}
        for number, page in enumerate(_pages(list(tiff.pages)), start=1):
            where = f"page {number}"
            for tag in page.tags:
                yield from _of_tag(tag, f"tag {tag.name} of {where}")
            head = "\n".join(str(page.description).splitlines()[:3])
            if shows_label(head) or shows_label(named.get(id(page), "")) or _is_macro_of_ndpi(page):
                yield Remark(where, _WHAT)
                yield from written_in(page.asarray, where)


def _series(tiff: Any) -> list[Any]:
    try:
        return list(tiff.series)
    except Exception:  # tifffile raises nearly anything on unusual files; pages are looked at all the same
        return []


def _pages(pages: list[Any]) -> Iterator[Any]:
    for page in pages:
        whole = page.aspage() if hasattr(page, "aspage") else page
        yield whole
        yield from _pages(list(whole.pages or ()))


def _is_macro_of_ndpi(page: Any) -> bool:
    tag = page.tags.get(_NDPI_LENS)
    return tag is not None and isinstance(tag.value, int | float) and tag.value < 0


def _of_tag(tag: Any, where: str) -> Found:
    if tag.code in _PIXELS:
        return
    value = tag.value
    if tag.code in _FIELDS and str(value).strip("\0 :0"):
        yield Remark(where, _FIELDS[tag.code])
    if tag.code == _ICC:
        yield from icc_places(io.BytesIO(value), "")
    for text in _texts(value if tag.code >= _PRIVATE or not isinstance(value, int | float) else ""):
        yield Place(where, text)
        if "labelimage" in text.lower() or "macroimage" in text.lower():
            yield Remark(where, _WHAT)
        if text.lstrip().startswith("<") and (
            shows := [w for w in ("label image", "macro image") if w in text.lower()]
        ):
            yield Remark(f"{where}: {shows[0]}", _WHAT)
    if isinstance(value, dict):
        for key in ("DateTimeOriginal", "DateTimeDigitized", "DateTime"):
            if value.get(key):
                yield Remark(f"{where}: {key}", "a date")


def _texts(value: Any) -> Iterator[str]:
    """Yield what can be read in a tag's value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield binary_text(value)
    elif isinstance(value, np.ndarray):
        yield binary_text(value.tobytes())
    elif isinstance(value, dict):
        for key, own in value.items():
            yield str(key)
            yield from _texts(own)
    elif isinstance(value, tuple | list):
        if value and all(isinstance(own, int) and 0 <= own < 256 for own in value):
            yield binary_text(bytes(value))
        for own in value:
            if not isinstance(own, int | float):
                yield from _texts(own)
    elif isinstance(value, int | float):
        yield str(value)
