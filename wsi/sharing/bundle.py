"""The bundle's folder: its checksums, its times and modes, and how a bundle of ours is told from other folders."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from wsi.files.atomic import write_text
from wsi.files.documents import parse_json
from wsi.files.regular import file_sha256, read_regular
from wsi.recipe import Json

ABOUT, SUMS, README = "bundle.json", "SHA256SUMS", "README.txt"
FORMAT = "gigamil-bundle-1"
TIME = 946_684_800
"""Modification time of every file and folder: 2000-01-01, 00:00 UTC."""
_TEXT = """De-identified slides, made by gigamil.

{parts}
bundle.json   what is in here
SHA256SUMS    the checksum of every file: sha256sum -c SHA256SUMS

Ids are random. Labels, macro images, names, dates, serial numbers and texts of the originals were left out by a list of
what may stay. The pixels themselves are as they were: who has the original can tell that it is the same slide. When you
pack the folder: tar --owner=0 --group=0 --numeric-owner, so that your user's name does not travel with it.
"""


def is_bundle(path: Path) -> bool:
    """Tell whether a folder is a bundle of ours."""
    try:
        return bool(parse_json(read_regular(path / ABOUT, 1 << 20))["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def finish_bundle(folder: Path, about: Json, parts: dict[str, str]) -> None:
    """Write what the bundle says of itself and the checksums; make times and modes alike everywhere.

    Parameters
    ----------
    folder
        With everything else in it.
    about
        JSON values that tell what is in it, without names.
    parts
        Name of a file or folder at the top, and what it holds, for README.txt.
    """
    write_text(folder / ABOUT, json.dumps({"format": FORMAT, **about}, indent=1) + "\n")
    width = max(map(len, parts), default=0)
    listed = "\n".join(f"{name:<{max(12, width)}}  {what}" for name, what in parts.items())
    write_text(folder / README, _TEXT.format(parts=listed))
    sums = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}" for path in _files(folder)]
    write_text(folder / SUMS, "\n".join(sums) + "\n")
    for base, _, names in os.walk(folder, topdown=False):
        for name in names:
            os.chmod(Path(base, name), 0o644)
            os.utime(Path(base, name), (TIME, TIME))
        os.chmod(base, 0o755)
        os.utime(base, (TIME, TIME))


def _files(folder: Path) -> Iterator[Path]:
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(base, name)
