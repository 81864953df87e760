"""DICOM slides behind DICOMweb: what a study or series holds, and each instance fetched as the file it is (WADO-RS).

Instances come in the coding in which they are stored, and straight to the disk, whatever their size. Credentials come
from ``GIGAMIL_DICOMWEB_TOKEN`` (a bearer token) or ``~/.netrc``. Source: DICOM PS3.18, sections 8.7 and 10.4.
"""

import base64
import errno
import io
import netrc
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from wsi.errors import RemoteError, RequestError, described
from wsi.files.atomic import replacing
from wsi.files.documents import parse_json
from wsi.readers.dicom.layout import WSI_CLASS
from wsi.remote.patience import may_pass, patiently, timeout_s
from wsi.remote.place import Found

TOKEN = "GIGAMIL_DICOMWEB_TOKEN"
"""Environment variable: sent as a bearer token, to the server that is named and to no other."""
_STUDY_OR_SERIES = re.compile(r"(https?://.+?/studies/[\d.]+)(/series/[\d.]+)?/?")
_CLASS, _SOP, _SERIES, _TYPE, _ROWS, _COLUMNS = "00080016", "00080018", "0020000E", "00080008", "00480007", "00480006"
_UID = re.compile(r"[\d.]{1,64}")
_DICOM, _JSON = 'multipart/related; type="application/dicom"; transfer-syntax=*', "application/dicom+json"
_PIXEL_DATA = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
_CHUNK, _LONGEST_HEAD, _LONGEST_END, _LONGEST_JSON = 1 << 20, 1 << 16, 1 << 12, 1 << 30
_AGAIN = frozenset({408, 429})
_Answer = TypeVar("_Answer")


def is_dicomweb(url: str) -> bool:
    """Tell whether a URL is that of a study or a series of DICOMweb."""
    return _STUDY_OR_SERIES.fullmatch(url.partition("?")[0]) is not None


class DicomWeb:
    """A study or series behind DICOMweb. Keys are ``SERIES/INSTANCE``.

    Everything raises `RequestError` where there is no such thing or access is denied, and `RemoteError` where the
    network failed for too long.
    """

    def __init__(self, url: str) -> None:
        self.url = url.partition("?")[0].rstrip("/")
        match = _STUDY_OR_SERIES.fullmatch(self.url)
        assert match is not None
        self._study, self.is_study = match[1], match[2] is None
        self._instances: dict[str, Mapping[str, Any]] = {}

    def instances(self) -> dict[str, Found]:
        """Return the whole-slide instances; their size is the number of their pixels, for the server tells no bytes."""
        told = self._ask(f"{self.url}/metadata", _JSON, _json)
        found = {}
        for own in told if isinstance(told, list) else ():
            if not isinstance(own, dict):
                continue
            series, sop = str(_first(own, _SERIES)), str(_first(own, _SOP))
            if _first(own, _CLASS) == WSI_CLASS and _UID.fullmatch(series) and _UID.fullmatch(sop):
                self._instances[f"{series}/{sop}"] = own
                found[f"{series}/{sop}"] = Found(_count(own), sop)
        return found

    def header(self, key: str) -> bytes:
        """Return what a DICOM file begins with that says no more than what kind of instance it is."""
        import pydicom

        own, dataset = self._instances[key], pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(WSI_CLASS)
        dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(_first(own, _SOP))
        dataset.SOPClassUID, dataset.SOPInstanceUID = WSI_CLASS, _first(own, _SOP)
        dataset.SeriesInstanceUID = _first(own, _SERIES)
        dataset.ImageType = [str(kind) for kind in _values(own, _TYPE)]
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
        return buffer.getvalue() + _PIXEL_DATA

    def fetch(self, key: str, target: Path, found: Found) -> Found:
        """Download an instance to a file, which gets its name when it is whole."""
        series, _, sop = key.partition("/")
        with replacing(target) as temporary:

            def land(response: HTTPResponse) -> None:
                with open(temporary, "w+b") as file:
                    _land(response, file)

            self._ask(f"{self._study}/series/{series}/instances/{sop}", _DICOM, land)
        return found

    def _ask(self, url: str, accept: str, what: Callable[[HTTPResponse], _Answer]) -> _Answer:
        """Return what is made of an answer; asked again where the network failed."""

        def once() -> _Answer:
            request = urllib.request.Request(url, headers={"Accept": accept})
            if credentials := _credentials(url):
                request.add_unredirected_header("Authorization", credentials)
            try:
                with urllib.request.urlopen(request, timeout=timeout_s()) as response:
                    return what(response)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code < 500 and error.code not in _AGAIN:
                    raise RequestError(f"{url}: {_refusal(error.code)}") from None
                raise OSError(errno.EIO, f"HTTP {error.code}") from None

        try:
            return patiently(once)
        except (RequestError, RemoteError):
            raise
        except ValueError as error:
            raise RequestError(f"{url}: the answer is no DICOMweb ({described(error)})") from None
        except OSError as error:
            if error.filename or not may_pass(error):
                raise  # the disk of this machine
            told = f"the network failed again and again ({described(error)}): run the same command again"
            raise RemoteError(f"{url}: {told}") from None


def _json(response: HTTPResponse) -> Any:
    told = response.read(_LONGEST_JSON + 1)
    if len(told) > _LONGEST_JSON:
        raise ValueError(f"more than {_LONGEST_JSON >> 20} MiB of metadata")
    _check_end(response)
    return parse_json(told)


def _check_end(response: HTTPResponse) -> None:
    """Raise `OSError` where fewer bytes came than were announced: reading by pieces does not tell."""
    if response.length:
        raise OSError(errno.EIO, "the answer was cut")


def _land(response: HTTPResponse, file: BinaryIO) -> None:
    """Write the one part of an answer to a file; `OSError` where it is cut."""
    boundary = response.headers.get_param("boundary")
    if not response.headers.get_content_type().startswith("multipart/"):
        shutil.copyfileobj(response, file, _CHUNK)
        _check_end(response)
        end = file.tell()
    else:
        mark = f"--{boundary}".encode()
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _LONGEST_HEAD and (more := response.read(_CHUNK)):
            head += more
        before, _, rest = head.partition(b"\r\n\r\n")
        if mark not in before:
            raise OSError(errno.EIO, "the answer has no part")
        file.write(rest)
        shutil.copyfileobj(response, file, _CHUNK)
        start = max(0, file.tell() - _LONGEST_END)
        file.seek(start)
        at = file.read().rfind(b"\r\n" + mark + b"--")
        if at < 0:
            raise OSError(errno.EIO, "the answer was cut")
        end = start + at
    file.truncate(end)
    file.seek(128)
    if file.read(4) != b"DICM":
        raise ValueError("expected a DICOM file")


def _credentials(url: str) -> str:
    """Return what is sent as authorization, "" for nothing."""
    if token := os.environ.get(TOKEN):
        return f"Bearer {token}"
    try:
        found = netrc.netrc().authenticators(urlsplit(url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return ""
    return f"Basic {base64.b64encode(f'{found[0]}:{found[2]}'.encode()).decode()}" if found else ""


def _refusal(code: int) -> str:
    if code in {401, 403}:
        return f"access denied (HTTP {code}): set {TOKEN}, or name the server in ~/.netrc"
    return "not found" if code == 404 else f"refused (HTTP {code})"


def _values(own: Mapping[str, Any], tag: str) -> list[Any]:
    element = own.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _first(own: Mapping[str, Any], tag: str) -> Any:
    return next(iter(_values(own, tag)), None)


def _count(own: Mapping[str, Any]) -> int:
    """Return the number of pixels, 1 at least."""
    try:
        return max(1, int(_first(own, _ROWS)) * int(_first(own, _COLUMNS)))
    except (TypeError, ValueError):
        return 1
