"""What people drew on one slide, on disk: QuPath's GeoJSON beside the store, never overwritten by who has not seen it.

A version is known by its tag, the hash of the file's bytes. Who saves says which version the new one was made from; the
file is replaced, whole or not at all, only while it still is that version.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from wsi.annotations.geojson import annotations_bytes, parse_annotations
from wsi.errors import AnnotationError
from wsi.files.atomic import write_bytes
from wsi.files.claim import claim
from wsi.files.documents import read_document

MOST_BYTES = 32 << 20
"""Of one slide's annotations."""
ABSENT = "absent"
"""The tag where there is no file yet."""
ENDING = ".geojson"


@dataclass(frozen=True, slots=True)
class Version:
    """What stands in the file."""

    data: bytes
    """GeoJSON as we write it, UTF-8, whatever form the file has."""
    tag: str
    """Of the file's own bytes: hex, or `ABSENT`."""
    count: int
    """Objects, children not counted."""


class AnnotationFile:
    """One slide's annotations; may be used from several threads and processes.

    Parameters
    ----------
    path
        Of the file, which need not be there; its folder must.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._saving = Lock()

    @property
    def writable(self) -> bool:
        """Whether the file can be made or replaced."""
        return os.access(self.path.parent, os.W_OK)

    def read(self) -> Version:
        """Return what is there; an empty collection where nothing is.

        Raises
        ------
        AnnotationError
            The file is too large, is no annotations, or is a link that leads out of its folder.
        OSError
            The storage fails.
        """
        if not os.path.lexists(self.path):
            return Version(annotations_bytes([]), ABSENT, 0)
        data = self._bytes()
        items = parse_annotations(data, str(self.path))
        return Version(annotations_bytes(items), _tag(data), len(items))

    def save(self, data: bytes, known: str) -> Version | None:
        """Put annotations in the place of those whose tag is ``known``; None where the file is another by now.

        Raises
        ------
        AnnotationError
            ``data`` are too large or no annotations, or what is there cannot be read: nothing was written.
        ClaimedError
            Another program is writing the file.
        OSError
            The storage fails: nothing was written.
        """
        if len(data) > MOST_BYTES:
            raise AnnotationError(f"{len(data):,} bytes of annotations, expected at most {MOST_BYTES:,}")
        items = parse_annotations(data)
        whole = annotations_bytes(items)
        with self._saving, claim(self.path):
            if (_tag(self._bytes()) if os.path.lexists(self.path) else ABSENT) != known:
                return None
            write_bytes(self.path, whole)
        return Version(whole, _tag(whole), len(items))

    def _bytes(self) -> bytes:
        if Path(os.path.realpath(self.path)).parent != Path(os.path.realpath(self.path.parent)):
            raise AnnotationError(f"{self.path} is a link that leads out of its folder: put the file itself there")
        return read_document(self.path, AnnotationError, MOST_BYTES)


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
