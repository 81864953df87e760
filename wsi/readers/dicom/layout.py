"""What a DICOM whole-slide instance holds: its frames' places in the file and on the slide, parsed by pydicom.

Source: DICOM PS3.3 A.32.8 (VL Whole Slide Microscopy Image), PS3.5 A.4 (encapsulated frames).
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from wsi.errors import UnreadableSlideError, told_as
from wsi.files.regular import first_bytes, irregular
from wsi.pixels.colour import DICOM_SPACES
from wsi.readers.tiles import MAX_TILE_BYTES
from wsi.units import YX, ceil_div

WSI_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
RAW = frozenset(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"))
JPEG = frozenset(("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"))
JPEG_LS = frozenset(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"))
JPEG_2000 = frozenset(("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"))
RLE = frozenset(("1.2.840.10008.1.2.5",))
DICOM_ENDINGS = frozenset((".dcm", ".dicom"))
_ITEM, _UNDEFINED = b"\xfe\xff\x00\xe0", 0xFFFFFFFF


Piece = tuple[int, int, int]
"""Number of the file, offset and length."""


@dataclass(frozen=True, slots=True)
class ConcatenationPart:
    """A file that holds some frames of an image (PS3.3 C.7.6.16.2.2.4)."""

    uid: str
    """Of the concatenation."""
    number: int
    """From 1."""
    total: int
    """How many there are; 0 where the file does not say it."""
    first: int
    """Frames of the image before its own."""
    in_full: bool
    """Whether the image has a frame at every place, in order."""


@dataclass(frozen=True, slots=True)
class DicomInstance:
    """One resolution of the slide: one file, or the files of a concatenation."""

    paths: tuple[Path, ...]
    shape: YX
    """Total pixel matrix."""
    tile: YX
    frames: tuple[int | None, ...]
    """For each place of the grid, row by row, the frame that lies there; None where there is none."""
    spans: tuple[tuple[Piece, ...], ...]
    """For each frame, its pieces in the files."""
    transfer_syntax: str
    photometric: str
    samples: int
    planar: bool
    mpp_yx: tuple[float, float] | None
    """From PixelSpacing."""
    volume_mpp_yx: tuple[float, float] | None
    """From the imaged volume's size, less trustworthy."""
    objective_power: float | None
    icc: bytes | None
    """Of the first optical path."""
    part: ConcatenationPart | None
    """Which part of a concatenation the file is; None where it is whole, and of what was put together."""
    notes: tuple[str, ...]


@contextmanager
def _broken() -> Iterator[None]:
    """Tell what pydicom raises as a broken file; over-long values, of which it warns, are common and harmless.

    It makes room for as much as a value says, before it looks whether the file has it.
    """
    with told_as(UnreadableSlideError, "broken DICOM"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except MemoryError:
            raise UnreadableSlideError("broken DICOM (a value is longer than there is memory for)") from None


def header(path: Path) -> Any:
    """Return the pydicom dataset without pixels; `UnreadableSlideError` where it is no whole-slide image."""
    import pydicom

    with _broken():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        kind = str(dataset.get("SOPClassUID", "none"))
    if kind != WSI_CLASS:
        raise UnreadableSlideError(f"DICOM of class {kind}: expected a whole-slide image")
    return dataset


def flavour(dataset: Any) -> str:
    """Return ``VOLUME``, ``LABEL``, ``OVERVIEW``, ``THUMBNAIL``, or "" where ImageType does not say it."""
    kinds = list(dataset.get("ImageType") or ())
    return str(kinds[2]) if len(kinds) > 2 else ""


def series_of(path: Path) -> tuple[str, str]:
    """Return the series' UID ("" where it is missing) and the `flavour` of a whole-slide instance.

    A file is parsed once in a process, as long as it is not changed: its folder is looked at for each of its slides.

    Raises
    ------
    UnreadableSlideError
        Broken, or no whole-slide image.
    """
    try:
        stat = path.stat()
        if kind := irregular(path):
            raise UnreadableSlideError(f"{path.name} is {kind}, expected a regular file")
        found = _series_of(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UnreadableSlideError(f"{path.name} cannot be opened: {error.strerror or error}") from None
    if isinstance(found, str):
        raise UnreadableSlideError(found)
    return found


@lru_cache(maxsize=1 << 16)
def _series_of(path: Path, _size: int, _mtime_ns: int) -> tuple[str, str] | str:
    """Return series and flavour, or why there is none."""
    try:
        with _broken():
            dataset = header(path)
            return str(dataset.get("SeriesInstanceUID", "")), flavour(dataset)
    except UnreadableSlideError as error:
        return str(error)


def series_files(path: Path) -> list[Path]:
    """Return the instances of the slide itself that lie beside a file and are of its series, the file included.

    Of a folder, those of the one series in it.

    Raises
    ------
    UnreadableSlideError
        The file is broken, no whole-slide image, or a label without its slide.
    """
    if path.is_dir():
        path = _one_of(path)
    series, kind = series_of(path)
    named = path.suffix.lower() in DICOM_ENDINGS
    beside = [other for other in dicom_files(path.parent, named=named) if other != path] if series else []
    files = [other for other in beside if _belongs(other, series)]
    if kind in {"", "VOLUME"}:
        files.insert(0, path)
    if not files:
        raise UnreadableSlideError(f"a {kind.lower()} image, and no slide of its series lies beside it")
    return files


def dicom_files(folder: Path, *, named: bool = True) -> list[Path]:
    """Return a folder's files with DICOM's endings, sorted; if not ``named``, those too that begin as DICOM does."""

    def fits(file: Path) -> bool:
        return file.suffix.lower() in DICOM_ENDINGS or (not named and first_bytes(file, 132)[128:] == b"DICM")

    return sorted(file for file in folder.iterdir() if file.is_file() and fits(file))


def _one_of(folder: Path) -> Path:
    """Return a file of the one series that a folder holds: an instance of the slide itself, if there is one."""
    found: dict[str, list[Path]] = {}
    for file in dicom_files(folder, named=False):
        try:
            series, kind = series_of(file)
        except UnreadableSlideError:  # DICOMDIR, reports, other modalities
            continue
        found.setdefault(series or file.name, []).insert(0 if kind in {"", "VOLUME"} else 1, file)
    if len(found) != 1:
        told = f"{len(found)} series of DICOM slides" if found else "neither OME-Zarr nor a DICOM slide in it"
        raise UnreadableSlideError(
            f"{folder.name} is a folder with {told}: expected a slide file, or one slide's folder"
        )
    return next(iter(found.values()))[0]


def _belongs(path: Path, series: str) -> bool:
    try:
        return series_of(path) == (series, "VOLUME")
    except UnreadableSlideError:
        return False


def read_instance(path: Path) -> DicomInstance:
    """Parse and check one instance.

    Raises
    ------
    UnreadableSlideError
        Broken, or of a kind that cannot be read right; the message says which.
    """
    with _broken():  # pydicom parses values when they are asked for
        return _instance(path, header(path))


def _instance(path: Path, dataset: Any) -> DicomInstance:
    _refuse(dataset)
    shape = YX(int(dataset.TotalPixelMatrixRows), int(dataset.TotalPixelMatrixColumns))
    tile = YX(int(dataset.Rows), int(dataset.Columns))
    samples, syntax = int(dataset.SamplesPerPixel), str(dataset.file_meta.TransferSyntaxUID)
    if min(*shape, *tile) < 1 or tile.y * tile.x * samples > MAX_TILE_BYTES:
        raise UnreadableSlideError(f"{shape.x} x {shape.y} px in frames of {tile.x} x {tile.y} px")
    count = int(dataset.get("NumberOfFrames", 1))
    part = _part(dataset)
    frames = _places(dataset, shape, tile, count, part)
    with path.open("rb") as file:
        spans = _spans(file, dataset, count, tile.y * tile.x * samples, encapsulated=syntax not in RAW)
    notes = () if flavour(dataset) else ("ImageType does not say that this is the slide itself",)
    return DicomInstance(
        paths=(path,),
        shape=shape,
        tile=tile,
        frames=frames,
        spans=spans,
        transfer_syntax=syntax,
        photometric=str(dataset.PhotometricInterpretation),
        samples=samples,
        planar=int(dataset.get("PlanarConfiguration", 0)) == 1,
        mpp_yx=_spacing(dataset),
        volume_mpp_yx=_volume_mpp(dataset, shape),
        objective_power=_objective(dataset),
        icc=next((path.get("ICCProfile") for path in dataset.get("OpticalPathSequence") or ()), None),
        part=part,
        notes=notes,
    )


def _part(dataset: Any) -> ConcatenationPart | None:
    if "ConcatenationUID" not in dataset:
        return None
    return ConcatenationPart(
        uid=str(dataset.ConcatenationUID),
        number=int(dataset.InConcatenationNumber),
        total=int(dataset.get("InConcatenationTotalNumber") or 0),
        first=int(dataset.ConcatenationFrameOffsetNumber),
        in_full=_is_full(dataset),
    )


def _refuse(dataset: Any) -> None:
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if syntax not in RAW | JPEG | JPEG_LS | JPEG_2000 | RLE:
        raise UnreadableSlideError(f"transfer syntax {syntax}: expected raw, RLE, JPEG, JPEG-LS or JPEG 2000")
    bits, kind = int(dataset.BitsAllocated), str(dataset.PhotometricInterpretation)
    if bits != 8 or kind not in DICOM_SPACES or int(dataset.SamplesPerPixel) not in {1, 3}:
        raise UnreadableSlideError(f"{dataset.SamplesPerPixel} samples of {bits} bits, {kind}: expected 8-bit colour")
    if int(dataset.get("BitsStored", bits)) != bits:
        raise UnreadableSlideError(f"{dataset.BitsStored} of {bits} bits are used: expected 8-bit colour")
    if syntax in RAW and kind == "YBR_FULL_422":
        raise UnreadableSlideError(
            "YBR_FULL_422 that is not compressed: half its chroma is left out, expected all of it"
        )
    if int(dataset.get("TotalPixelMatrixFocalPlanes", 1)) > 1 or int(dataset.get("NumberOfOpticalPaths", 1)) > 1:
        raise UnreadableSlideError("several focal planes or optical paths: expected one")


def _is_full(dataset: Any) -> bool:
    return str(dataset.get("DimensionOrganizationType", "")) == "TILED_FULL"


def _places(dataset: Any, shape: YX, tile: YX, count: int, part: ConcatenationPart | None) -> tuple[int | None, ...]:
    """Return the frame at each place. Only TILED_FULL implies an order; some writers store column by column."""
    grid = YX(ceil_div(shape.y, tile.y), ceil_div(shape.x, tile.x))
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if not _is_full(dataset):
        if len(per_frame) != count:
            raise UnreadableSlideError(f"its {count} frames state no positions: their places on the slide are unknown")
        return _sparse_places(per_frame, grid, tile)
    places, before = grid.y * grid.x, part.first if part else 0
    if count != places if part is None else not 0 <= before <= places - count:
        raise UnreadableSlideError(f"{count} frames for a full grid of {grid.x} x {grid.y}")
    return (*[None] * before, *range(count), *[None] * (places - before - count))


def _sparse_places(per_frame: Any, grid: YX, tile: YX) -> tuple[int | None, ...]:
    frames: list[int | None] = [None] * (grid.y * grid.x)
    for frame, groups in enumerate(per_frame):
        if "PlanePositionSlideSequence" not in groups:
            raise UnreadableSlideError(f"frame {frame} states no position")
        position = groups.PlanePositionSlideSequence[0]
        row, off_y = divmod(int(position.RowPositionInTotalImagePixelMatrix) - 1, tile.y)
        column, off_x = divmod(int(position.ColumnPositionInTotalImagePixelMatrix) - 1, tile.x)
        if off_y or off_x or not (0 <= row < grid.y and 0 <= column < grid.x):
            raise UnreadableSlideError(f"frame {frame} lies beside the grid of tiles")
        if frames[row * grid.x + column] is not None:
            raise UnreadableSlideError(f"two frames lie at row {row}, column {column}: focal planes?")
        frames[row * grid.x + column] = frame
    return tuple(frames)


def _spans(
    file: BinaryIO, dataset: Any, count: int, frame_bytes: int, *, encapsulated: bool
) -> tuple[tuple[Piece, ...], ...]:
    """Walk the pixel data; return where each frame's pieces lie."""
    start = _find_pixel_data(file)
    if not encapsulated:
        return tuple(((0, start + i * frame_bytes, frame_bytes),) for i in range(count))
    table, pieces = _items(file, start)
    if len(pieces) == count:
        return tuple((piece,) for piece in pieces)
    extended = dataset.get("ExtendedOffsetTable")
    if extended:
        starts = struct.unpack(f"<{len(extended) // 8}Q", extended)
    else:
        starts = struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])
    if len(starts) != count or not pieces:
        raise UnreadableSlideError(f"{count} frames in {len(pieces)} pieces: their places in the file are not known")
    first = pieces[0][1] - 8
    edges = [*starts, 1 << 62]
    return tuple(
        tuple(piece for piece in pieces if edges[i] <= piece[1] - 8 - first < edges[i + 1]) for i in range(count)
    )


def _find_pixel_data(file: BinaryIO) -> int:
    """Return where the value of the Pixel Data element starts."""
    import pydicom

    pydicom.dcmread(file, stop_before_pixels=True)
    head = file.read(12)
    if head[:4] != b"\xe0\x7f\x10\x00":
        raise UnreadableSlideError("no pixel data")
    return file.tell() if head[4:6] in {b"OB", b"OW"} else file.tell() - 4


def _items(file: BinaryIO, start: int) -> tuple[bytes, list[Piece]]:
    """Return the basic offset table and each fragment."""
    size = file.seek(0, 2)
    file.seek(start)
    table, pieces, position = b"", list[Piece](), start
    while position + 8 <= size:
        tag, length = file.read(4), int.from_bytes(file.read(4), "little")
        if tag != _ITEM or length == _UNDEFINED:
            break
        if position == start:
            table = file.read(min(length, size - position))
        else:
            pieces.append((0, position + 8, length))
        position += 8 + length
        file.seek(position)
    return table, pieces


def _spacing(dataset: Any) -> tuple[float, float] | None:
    for groups in (*(dataset.get("SharedFunctionalGroupsSequence") or ()), dataset):
        for measures in groups.get("PixelMeasuresSequence") or ():
            if values := measures.get("PixelSpacing"):
                return float(values[0]) * 1e3, float(values[1]) * 1e3
    return None


def _volume_mpp(dataset: Any, shape: YX) -> tuple[float, float] | None:
    height, width = dataset.get("ImagedVolumeHeight"), dataset.get("ImagedVolumeWidth")
    if not height or not width:
        return None
    return float(height) * 1e3 / shape.y, float(width) * 1e3 / shape.x


def _objective(dataset: Any) -> float | None:
    for optical_path in dataset.get("OpticalPathSequence") or ():
        if power := optical_path.get("ObjectiveLensPower"):
            return float(power)
    return None
