"""What a DICOM file says: every element, private ones, sequences; whether it shows a label or the whole glass."""

import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from wsi.sharing.phi.texts import Found, Place, Remark, binary_text
from wsi.sharing.phi.written import written_in

_SHOWN = frozenset({"LABEL", "OVERVIEW", "LOCALIZER"})
_FIELDS = {
    "PatientName": "a person's name",
    "PatientID": "a patient's id",
    "PatientBirthDate": "a date",
    "StudyDate": "a date",
    "ContentDate": "a date",
    "AcquisitionDateTime": "a date",
    "DeviceSerialNumber": "a serial number",
    "ContainerIdentifier": "a slide's id",
    "AccessionNumber": "a case number",
    "BarcodeValue": "a bar code",
    "LabelText": "what the label says",
}
"""Elements that tell of a person, a time or a device, whatever stands in them."""


def places(file: BinaryIO, name: str) -> Found:
    """Yield the texts of a DICOM file, and remarks on what it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are not as the standard wants them
        preamble = binary_text(file.read(128))
        file.seek(0)
        found = pydicom.dcmread(file, stop_before_pixels=True)
        yield Place("preamble", preamble)
        for where, value in elements(found):
            yield Place(where, value)
        for keyword, what in _FIELDS.items():
            if str(found.get(keyword, "") or "").strip():
                yield Remark(keyword, what)
        if _SHOWN & set(map(str, found.get("ImageType", ()) or ())):
            yield Remark("ImageType", "a picture of a label or of the whole glass")
            file.seek(0)
            yield from written_in(lambda: _pixels(pydicom.dcmread(file)), "ImageType")


def _pixels(dataset: Dataset) -> Any:
    """Return the picture, (h, w, 3) or (h, w), of frames that stand row by row."""
    frames = dataset.pixel_array
    if int(dataset.get("NumberOfFrames", 1) or 1) == 1:
        return frames
    across = -(-int(dataset.TotalPixelMatrixColumns) // int(dataset.Columns))
    rows = [np.concatenate(list(frames[i : i + across]), axis=1) for i in range(0, len(frames), across)]
    return np.concatenate(rows)[: int(dataset.TotalPixelMatrixRows), : int(dataset.TotalPixelMatrixColumns)]


def elements(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Yield name and text of every element but pixels, sequences walked."""
    for group in (getattr(dataset, "file_meta", None) or (), dataset):
        for element in group:
            name = element.keyword or str(element.tag)
            if element.VR == "SQ":
                for item in element.value or ():
                    yield from ((f"{name}: {where}", text) for where, text in elements(item))
            else:
                yield name, _text(element.value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return binary_text(value)
    if isinstance(value, str | PersonName) or not hasattr(value, "__iter__"):
        return str(value)
    return "\n".join(map(str, value))
