"""Small DICOM slides with known content, made by the tests."""

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from making import RGB
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

WSI_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
RAW, JPEG, JPEG_LS, JPEG_2000 = (f"1.2.840.10008.1.2{end}" for end in (".1", ".4.50", ".4.80", ".4.90"))
JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.91"
RLE = "1.2.840.10008.1.2.5"
SIDE = 64


def frames_of(pixels: RGB) -> list[RGB]:
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % SIDE), (0, -width % SIDE), (0, 0)), mode="edge")
    return [
        padded[y : y + SIDE, x : x + SIDE] for y in range(0, len(padded), SIDE) for x in range(0, padded.shape[1], SIDE)
    ]


def encode(frame: RGB, syntax: str) -> bytes:
    if syntax == JPEG:
        return bytes(imagecodecs.jpeg8_encode(frame, level=95, subsampling="444"))
    if syntax == JPEG_LS:
        return bytes(imagecodecs.jpegls_encode(frame))
    if syntax == JPEG_2000:
        return bytes(imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, mct=True))
    return _rle(frame) if syntax == RLE else frame.tobytes()


def _rle(frame: RGB) -> bytes:
    """Return a frame as PS3.5 annex G has it: a table of 64 bytes, then each sample's bytes by PackBits, row by row."""
    samples = np.moveaxis(frame.reshape(*frame.shape[:2], -1), -1, 0).copy()
    planes = [b"".join(map(imagecodecs.packbits_encode, plane)) for plane in samples]
    planes = [plane + b"\0" * (len(plane) % 2) for plane in planes]
    starts = [64 + sum(map(len, planes[:i])) for i in range(len(planes))]
    return struct.pack("<16I", len(planes), *starts, *[0] * (15 - len(planes))) + b"".join(planes)


def write_dicom(
    path: Path,
    pixels: RGB,
    syntax: str = JPEG_LS,
    flavour: str = "VOLUME",
    coder: Callable[[RGB, str], bytes] = encode,
    **changes: Any,
) -> Path:
    """Write one whole-slide instance with TILED_FULL frames of 64 px; ``None`` in changes removes an attribute."""
    frames = [coder(frame, syntax) for frame in frames_of(pixels)]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(WSI_CLASS)
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    values: dict[str, object] = {
        "SOPClassUID": WSI_CLASS,
        "SOPInstanceUID": dataset.file_meta.MediaStorageSOPInstanceUID,
        "ImageType": ["ORIGINAL", "PRIMARY", flavour, "NONE"],
        "SeriesInstanceUID": "1.2.3.4",
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "YBR_FULL_422" if syntax == JPEG else "RGB",
        "PlanarConfiguration": 0,
        "NumberOfFrames": len(frames),
        "Rows": SIDE,
        "Columns": SIDE,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "DimensionOrganizationType": "TILED_FULL",
        "TotalPixelMatrixRows": pixels.shape[0],
        "TotalPixelMatrixColumns": pixels.shape[1],
    } | changes
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    measures = Dataset()
    measures.PixelSpacing = [0.00025, 0.00025]
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PixelData = b"".join(frames) if syntax == RAW else encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = syntax != RAW
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())
    return path
