"""Which slide this is, told from its bytes and not from its name: of every file that it consists of."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from wsi.errors import UnreadableSlideError
from wsi.files.regular import first_bytes, open_regular

_WHOLE_BYTES = 4 << 20
"""A slide of at most so many bytes is read whole."""
_EDGE_BYTES = 1 << 20
"""Read from either end of a slide that is one file."""
_BLOCK, _BLOCKS, _MOST_BLOCKS = 4096, 64, 1 << 14
"""Blocks read of each file, evenly spaced, and of all files of a slide."""
_METADATA = frozenset({"zarr.json", ".zattrs", ".zarray", ".zgroup", "Slidedat.ini"})
"""Small files that are read whole."""


def fingerprint(path: Path) -> str:
    """Return a sha256 of the name inside the slide, the size and a sample of the bytes of each of its files.

    Another slide is noticed without reading the whole; where it lies, what the slide is called and when it was written
    does not matter. A small slide is read whole.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    digest = hashlib.sha256()
    files = slide_files(path)
    sizes = {name: _size(file) for name, file in files}
    whole = sum(sizes.values()) <= _WHOLE_BYTES
    blocks = max(2, min(_BLOCKS, _MOST_BLOCKS // max(1, len(files))))
    for name, file in files:
        size = sizes[name]
        digest.update(f"{name}\0{size}\0".encode())
        if size:
            everything = whole or name.rpartition("/")[2] in _METADATA
            _sample(file, size, digest, None if everything else blocks, _EDGE_BYTES if len(files) == 1 else _BLOCK)
    return digest.hexdigest()


def slide_bytes(path: Path) -> int:
    """Return the size of all files of a slide; what cannot be looked at counts nothing."""
    return sum(_size(file) for _, file in slide_files(path))


def slide_files(path: Path) -> list[tuple[str, Path]]:
    """List the files that a slide consists of, each with its name inside the slide, sorted.

    An OME-Zarr folder's; the instances of a DICOM series; the companions of MRXS, VSI, VMS, VMU; else the file alone.
    """
    if path.is_dir():
        return _instances(path) or _below(path, "")
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        return [("", path), *_below(path.with_suffix(""), "data/")]
    if path.suffix.lower() == ".vsi":
        return [("", path), *_below(path.with_name(f"_{path.stem}_"), "data/")]
    if path.suffix.lower() in {".vms", ".vmu"}:
        return [("", path), *_named_in(path)]
    found = _instances(path) if first_bytes(path, 132)[128:] == b"DICM" else []
    return found or [("", path)]


def _instances(path: Path) -> list[tuple[str, Path]]:
    """List the instances of a DICOM slide, that of a file or of a folder; none where it is no such slide."""
    from wsi.readers.dicom.layout import series_files

    with suppress(UnreadableSlideError):
        files = sorted(series_files(path), key=lambda file: (_size(file), file.name))  # parts of one image may be alike
        return [(str(number), file) for number, file in enumerate(files)]
    return []


def _below(folder: Path, prefix: str) -> list[tuple[str, Path]]:
    files = [Path(base, name) for base, _, names in os.walk(folder) for name in names]
    return sorted((f"{prefix}{file.relative_to(folder).as_posix()}", file) for file in files)


def _named_in(path: Path) -> list[tuple[str, Path]]:
    """List the files beside an index file of Hamamatsu that its lines (``ImageFile(1,0)=a.jpg``) name."""
    with open_regular(path) as file:
        lines = file.read(_EDGE_BYTES).decode(errors="replace").splitlines()
    names = {line.partition("=")[2].strip() for line in lines if "=" in line}
    return sorted((name, path.parent / name) for name in names if name and (path.parent / name).is_file())


def _size(path: Path) -> int:
    """Return a file's size; 0 for what a link leads to that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sample(path: Path, size: int, digest: "hashlib._Hash", blocks: int | None, edge: int) -> None:
    """Add a file's bytes to the digest: all of them, or both edges and blocks between them."""
    with open_regular(path) as file:
        if blocks is None or size <= 2 * edge:
            digest.update(file.read(size))
            return
        digest.update(file.read(edge))
        for number in range(blocks - 1):
            file.seek(edge + (size - 2 * edge) * number // (blocks - 1))
            digest.update(file.read(_BLOCK))
        file.seek(size - edge)
        digest.update(file.read(edge))
