"""`open_slide`, which picks the reader.

Readers stand in `wsi.readers`. `TiffReader` decodes TIFF tiles itself, `DicomReader` DICOM frames, `CziReader` Zeiss's
subblocks, `VsiReader` Olympus' tiles; `OpenSlideReader` takes each format that OpenSlide alone knows; `OmeZarrReader`
takes folders. The first reader that can read a file right takes it; `Slide.chosen_because` says why.
"""

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TypeGuard

from wsi.errors import NotASlideError, RequestError, UnreadableSlideError
from wsi.files.regular import irregular_below, open_regular
from wsi.plugins import load_plugin, plugins
from wsi.readers.protocol import Opener, Opening, Slide

_OPENERS = {
    "tiff": "wsi.readers.tiff.reader:open_with_tiff",
    "ndpi": "wsi.readers.ndpi.reader:open_with_ndpi",
    "mirax": "wsi.readers.mirax.reader:open_with_mirax",
    "openslide": "wsi.readers.openslide_reader:open_with_openslide",
    "dicom": "wsi.readers.dicom.reader:open_with_dicom",
    "ome-zarr": "wsi.readers.ome_zarr_reader:open_with_ome_zarr",
    "czi": "wsi.readers.czi.reader:open_with_czi",
    "vsi": "wsi.readers.vsi.reader:open_with_vsi",
}
"""Ours; a reader's libraries are imported when it is asked."""


def _opener(name: str) -> Opener:
    module, _, function = _OPENERS[name].partition(":")
    opener: Opener = getattr(import_module(module), function)
    return opener


ENTRY_POINTS = "gigamil.readers"
"""Of other packages' readers."""
READERS = tuple(_OPENERS)
"""In the order in which they are asked."""


def open_slide(
    path: Path | str, reader: str | None = None, *, threads: int = 1, scene: int | None = None, srgb: bool = False
) -> Slide:
    """Open a slide with the first reader that can read it right, or with the one that is named.

    Parameters
    ----------
    path
        A slide file, the folder of an OME-Zarr picture, or one with the instances of one DICOM series.
    reader
        One of `READERS`, or of another package; None asks each that suits the kind of file, others' last.
    threads
        Tiles of one box decoded at once. OpenSlide decodes one after the other whatever is asked.
    scene
        Which of the file's scenes is read, from 0; None: the largest.
    srgb
        Apply the slide's ICC profile, where it has one.

    Raises
    ------
    UnreadableSlideError
        The file is missing or empty, or no reader can read it right; the message gives each reader's reason.
    RequestError
        ``reader`` is not the name of a reader.
    """
    if reader is not None and reader not in READERS and reader not in plugins(ENTRY_POINTS):
        known = ", ".join([*READERS, *plugins(ENTRY_POINTS)])
        raise RequestError(f"reader {reader!r} is not known: expected one of {known}")
    from wsi.readers.scenes import refuse_without_pixels

    path = Path(path)
    refuse_without_pixels(path)
    reasons: list[str] = []
    for name, opener in _asked(path, reader):
        try:
            _check_kind(path, name)
            slide = opener(path, Opening(threads, scene, srgb))
        except NotASlideError as error:
            raise NotASlideError(f"{path.name} cannot be read: {_short(str(error))}") from None
        except UnreadableSlideError as error:
            reasons.append(f"{name}: {_short(str(error))}")
            continue
        slide.chosen_because = "named by --reader" if reader else "; ".join([*reasons, slide.chosen_because])
        return slide
    raise UnreadableSlideError(f"{path.name} cannot be read ({'; '.join(reasons)})")


def _asked(path: Path, reader: str | None) -> Iterator[tuple[str, Opener]]:
    """Give the readers to be asked; those of other packages are looked for where none of ours can read the file."""
    for name in _suitable(path) if reader is None else (reader,):
        if name in _OPENERS:
            yield name, _opener(name)
    if reader not in _OPENERS:
        for name, point in plugins(ENTRY_POINTS).items():
            if reader in (None, name):
                yield name, partial(_open_with_plugin, point)


def _open_with_plugin(point: EntryPoint, path: Path, opening: Opening) -> Slide:
    try:
        opener = load_plugin(point, _is_opener, "a function from a path and an Opening to a Slide")
    except RequestError as error:
        raise UnreadableSlideError(str(error)) from None
    return opener(path, opening)


def _is_opener(found: object) -> TypeGuard[Opener]:
    return callable(found)


def _short(text: str) -> str:
    """Keep what a broken file says about itself to one line of at most 300 printable characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _check_kind(path: Path, reader: str) -> None:
    if path.is_dir() and reader not in _OF_FOLDERS:
        raise UnreadableSlideError("a folder: expected a slide file")
    if reader == "ome-zarr" and not path.is_dir():
        raise UnreadableSlideError("expected a folder")
    if path.suffix.lower() == _VSI and reader in set(READERS) - {"vsi"}:
        raise NotASlideError(
            f"the pixels of a VSI lie in .ets files of _{path.stem}_/, which the reader vsi alone knows"
        )


def _suitable(path: Path) -> tuple[str, ...]:
    """Return the readers to be asked; refuse what is no slide whoever reads it."""
    if path.is_dir():
        if not any((path / name).is_file() for name in _ZARR_MARKERS):
            return ("dicom",)
        if odd := irregular_below(path):
            raise UnreadableSlideError(f"{path.name}: {odd}")
        return ("ome-zarr",)
    try:
        size = path.stat().st_size
        with open_regular(path) as file:
            head = file.read(132)
    except OSError as error:
        raise UnreadableSlideError(f"{path.name} cannot be opened: {error.strerror or error}") from None
    if size == 0:
        raise UnreadableSlideError(f"{path.name} is empty (0 bytes): copy it again")
    if head.startswith(b"version https://git-lfs"):
        raise UnreadableSlideError(f"{path.name} is a Git LFS pointer, not the slide: fetch it with `git lfs pull`")
    kind = next((kind for start, kind in _PICTURES.items() if head.startswith(start)), "")
    if kind and path.suffix.lower() != ".mrxs":
        raise NotASlideError(
            f"{path.name} is a {kind} picture: expected a slide; write it as a tiled TIFF (libvips: vips tiffsave "
            "PICTURE SLIDE.tif --tile)"
        )
    # OpenSlide can end the whole process on a damaged DICOM file, and reads none that DicomReader does not.
    if head[128:] == b"DICM":
        return ("dicom",)
    if head.startswith(b"ZISRAWFILE"):
        return ("czi",)
    if path.suffix.lower() == _VSI:
        return ("vsi",)
    if path.suffix.lower() == ".isyntax":
        raise NotASlideError(f"{path.name}: Philips iSyntax is not read: export the slide as TIFF, or convert it")
    return (*_BY_SUFFIX.get(path.suffix.lower(), ("tiff",)), "openslide")


_BY_SUFFIX = {".ndpi": ("ndpi", "tiff"), ".mrxs": ("mirax",)}
"""The readers that are asked before OpenSlide, where that is not the one of TIFF alone."""
_PICTURES = {b"\x89PNG\r\n": "PNG", b"\xff\xd8\xff": "JPEG", b"\0\0\0\x0cjP  ": "JP2", b"BM": "BMP"}
"""What files of one picture begin with, as MIRAX's ``.mrxs`` does."""
_ZARR_MARKERS = ("zarr.json", ".zgroup")
_VSI = ".vsi"
_OF_FOLDERS = frozenset({"ome-zarr", "dicom"})
