"""Slides behind URLs: first only their names and sizes lie on this machine, then each slide's bytes while it is needed.

Placeholders (sparse files of the right sizes, DICOM with its header) stand where the slides will lie, so that which
slides a request means is told by the code that tells it of local ones.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsi.cohort.fingerprint import fingerprint, slide_files
from wsi.errors import RequestError
from wsi.files.replace import discard
from wsi.readers.dicom.layout import DICOM_ENDINGS
from wsi.readers.dicom.web import DicomWeb, is_dicomweb
from wsi.remote.place import Found, Place, together
from wsi.remote.published import items_files
from wsi.remote.scratch import Scratch
from wsi.remote.staged import apart
from wsi.urls import is_web, url_of

_PIXEL_DATA = b"\xe0\x7f\x10\x00"
"""The tag at which a DICOM header ends, as little-endian bytes."""
_HEADER = 1 << 20
_READ_WHOLE = frozenset({"zarr.json", ".zattrs", ".zgroup", ".zarray"})
_INDEXES = frozenset({".vms", ".vmu"})
"""Endings of small files that name those beside them."""


@dataclass(slots=True)
class RemoteSlides:
    """The slides of a request that lie behind URLs."""

    scratch: Scratch
    _objects: dict[Path, tuple[Place | DicomWeb, str, Found]] = field(default_factory=dict)
    """What each placeholder stands for."""

    def local(self, slides: Sequence[Path]) -> tuple[Path, ...]:
        """Return where slides and folders lie, or will lie, on this machine."""
        return tuple(self._listed(url) if (url := url_of(path)) else path for path in slides)

    def _listed(self, url: str) -> Path:
        if is_dicomweb(url):
            return self._listed_dicom(url)
        place, name = apart(url)
        found = items_files(place, name)
        if not found:
            raise RequestError(f"{url} does not exist: expected a slide or a folder of slides")
        target = self.scratch.path(url)
        for key, own in {**self._beside(place, name, target.suffix.lower()), **found}.items():
            self._objects[target if key == name else target.parent / key] = (place, key, own)
        together(self._hold_place, [path for path in self._objects if not path.exists()])
        return target

    def _listed_dicom(self, url: str) -> Path:
        """List a study or series behind DICOMweb: a folder with one file for each instance."""
        served, folder = DicomWeb(url), self.scratch.path(url.partition("?")[0])
        if not (found := served.instances()):
            raise RequestError(f"{url} holds no whole-slide image")
        for key, own in found.items():
            file = folder / f"{key}.dcm" if served.is_study else folder / f"{key.partition('/')[2]}.dcm"
            self._objects[file] = (served, key, own)
        together(self._hold_place, [path for path in self._objects if not path.exists()])
        return folder

    def _beside(self, place: Place, name: str, ending: str) -> dict[str, Found]:
        """Return what belongs, or may belong, to a slide that is named outright."""
        if is_web(place.url):
            return {}
        if ending == ".mrxs":
            return place.files(name[: -len(ending)])
        if ending == ".vsi":
            return place.files(f"_{name[: -len(ending)]}_")
        if ending in _INDEXES | DICOM_ENDINGS:
            return {key: own for key, own in place.files().items() if "/" not in key}
        return {}

    def _hold_place(self, path: Path) -> None:
        place, key, found = self._objects[path]
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(place, DicomWeb):
            header = place.header(key)
            with open(path, "wb") as file:
                file.write(header)
                file.truncate(len(header) + found.size)
            return
        if path.name in _READ_WHOLE or path.suffix.lower() in _INDEXES:
            place.fetch(key, path, found)
            return
        with open(path, "wb") as file:
            if path.suffix.lower() in DICOM_ENDINGS:
                file.write(self._header(place, key, found.size))
            file.truncate(found.size)

    def _header(self, place: Place, key: str, size: int) -> bytes:
        """Return the beginning of a DICOM file, to where its pixels begin."""
        data, count = b"", _HEADER
        while len(data) < size and _PIXEL_DATA not in data:
            data += place.part(key, len(data), min(count, size))
            count *= 4
        return data

    def is_remote(self, path: Path) -> bool:
        """Tell whether a path of this machine stands for something behind a URL."""
        return path in self._objects or any(path in own.parents for own in self._objects)

    def fetch(self, path: Path) -> None:
        """Fetch the files that a slide consists of; those of a slide of this machine are there."""
        files = [file for _, file in slide_files(path) if file in self._objects]
        together(lambda file: self._objects[file][0].fetch(self._objects[file][1], file, self._objects[file][2]), files)

    def drop(self, path: Path) -> None:
        """Remove what was fetched of a slide."""
        for _, file in slide_files(path):
            if file in self._objects:
                discard(file)

    def identity(self, path: Path) -> str:
        """Return what changes when a slide does: by what the server says of it, or by its bytes."""
        if not self.is_remote(path):
            return fingerprint(path)
        told = [(name, *self._told(file)) for name, file in slide_files(path)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def _told(self, file: Path) -> tuple[int, str]:
        found = self._objects[file][2]
        return found.size, found.tag
