"""Files of every kind with a text planted in one of the places where a text can stand."""

import base64
import gzip
import io
import json
import struct
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import tifffile
from making import picture
from making_dicom import write_dicom
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset

Plant = Callable[[Path, str], None]
_PIXELS = picture(64, 64)


def _text(name: str, spelt: Callable[[str], str | bytes]) -> Plant:
    def write(folder: Path, text: str) -> None:
        data = spelt(text)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return write


def _tiff(**named: Callable[[str], object]) -> Plant:
    def write(folder: Path, text: str) -> None:
        made = {key: value(text) for key, value in named.items()}
        tifffile.imwrite(folder / "a.tif", _PIXELS, photometric="rgb", metadata=None, **made)

    return write


def _second_page(folder: Path, text: str) -> None:
    with tifffile.TiffWriter(folder / "a.tif") as tiff:
        tiff.write(_PIXELS, photometric="rgb", metadata=None, subifds=1)
        tiff.write(_PIXELS[::2, ::2], photometric="rgb", metadata=None, description=text.encode(), subfiletype=1)


def _between_tiles(folder: Path, text: str) -> None:
    tifffile.imwrite(folder / "a.tif", _PIXELS, photometric="rgb", metadata=None)
    with (folder / "a.tif").open("ab") as file:
        file.write(b"\0\xff" * 9 + text.encode() + b"\0\xff" * 9)


def _png(folder: Path, text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("note", text)
    buffer = io.BytesIO()
    Image.fromarray(_PIXELS).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _png_chunk(kind: bytes, body: Callable[[bytes], bytes]) -> Plant:
    def write(folder: Path, text: str) -> None:
        data = bytes(cv2.imencode(".png", _PIXELS)[1])
        own = body(text.encode())
        chunk = struct.pack(">I", len(own)) + kind + own + struct.pack(">I", zlib.crc32(kind + own))
        (folder / "a.png").write_bytes(data[:33] + chunk + data[33:])

    return write


def _jpeg_bytes(marker: int, text: str, before: bytes = b"") -> bytes:
    data, body = bytes(cv2.imencode(".jpg", _PIXELS)[1]), before + text.encode()
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body + data[2:]


def _jpeg(marker: int, before: bytes = b"") -> Plant:
    return _text("a.jpg", lambda text: _jpeg_bytes(marker, text, before))


def _hdf5(write_into: Callable[[h5py.File, str], object]) -> Plant:
    def write(folder: Path, text: str) -> None:
        with h5py.File(folder / "a.h5", "w") as file:
            file["features"] = np.zeros((3, 4), np.float16)
            write_into(file, text)

    return write


def _dicom(change: Callable[[str], dict[str, Any]]) -> Plant:
    def write(folder: Path, text: str) -> None:
        write_dicom(folder / "a.dcm", picture(128, 128), **change(text))

    return write


def _code(text: str) -> Dataset:
    item = Dataset()
    item.TextValue = text
    return item


def _icc(folder: Path, text: str) -> None:
    words = text.encode("utf-16-be")
    body = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(words), 28) + words
    head = bytearray(128)
    head[36:40] = b"acsp"
    (folder / "icc.icc").write_bytes(bytes(head) + struct.pack(">I4sII", 1, b"desc", 144, len(body)) + body)


def _npz(folder: Path, text: str) -> None:
    np.savez_compressed(folder / "a.npz", names=np.array([text, "x"]))


def _zip(folder: Path, text: str) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inner/notes.txt", f"seen: {text}")


def _shard(folder: Path, text: str) -> None:
    """Chunks of JPEG one after the other, the comment in the third."""
    (folder / "0").mkdir()
    plain = bytes(cv2.imencode(".jpg", _PIXELS)[1])
    (folder / "0" / "0").write_bytes(plain + plain + _jpeg_bytes(0xFE, text) + plain + bytes(64))


def _named_file(folder: Path, text: str) -> None:
    (folder / f"x {text.replace('/', '_')}.bin").write_bytes(b"\0")


def _named_folder(folder: Path, text: str) -> None:
    (folder / text.replace("/", "_")).mkdir()


def _safetensors(folder: Path, text: str) -> None:
    header = json.dumps({"__metadata__": {"note": text}}).encode()
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def _escaped(text: str) -> str:
    return "".join(f"\\u{ord(own):04x}" for own in text)


PLANTS: dict[str, Plant] = {
    "file name": _named_file,
    "folder name": _named_folder,
    "CSV": _text("a.csv", lambda t: f'n,who\n1,"{t}"\n'),
    "JSON": _text("zarr.json", lambda t: json.dumps({"attributes": {"a": [{"b": t}]}})),
    "JSON, every letter escaped": _text("zarr.json", lambda t: f'{{"a": "{_escaped(t)}"}}'),
    "JSON key": _text(".zattrs", lambda t: json.dumps({t: 1})),
    "GeoJSON": _text("a.geojson", lambda t: json.dumps({"type": "Feature", "properties": {"name": t}})),
    "gzip": _text("a.geojson.gz", lambda t: gzip.compress(json.dumps({"name": t}).encode())),
    "script": _text("slide.js", lambda t: f"gigamil.slide({{title: {json.dumps(t)}}});"),
    "HTML": _text("index.html", lambda t: f"<p title='x'>{t}</p>"),
    "HTML entities": _text("index.html", lambda t: "<p>" + "".join(f"&#{ord(own)};" for own in t) + "</p>"),
    "link": _text("index.html", lambda t: f"<a href='x/{urllib.parse.quote(t)}/y'>z</a>"),
    "base64 in JSON": _text("a.json", lambda t: json.dumps({"a": base64.b64encode(f"who: {t}.".encode()).decode()})),
    "picture in HTML": _text(
        "i.html", lambda t: f"<img src='data:image/png;base64,{base64.b64encode(_png(Path(), t)).decode()}'>"
    ),
    "UTF-16 text": _text("a.txt", lambda t: f"who: {t}".encode("utf-16")),
    "Latin-1 text": _text("a.txt", lambda t: f"wér: {t}".encode("latin-1")),
    "XML": _text("METADATA.ome.xml", lambda t: f"<OME><Image Name={json.dumps(t)}/></OME>"),
    "TOML": _text("config.toml", lambda t: f"a = {json.dumps(t)}\n"),
    "TIFF description": _tiff(description=lambda t: t.encode()),
    "TIFF software": _tiff(software=lambda t: t.encode()),
    "TIFF private text": _tiff(extratags=lambda t: [(65001, 2, None, t.encode(), True)]),
    "TIFF private bytes": _tiff(extratags=lambda t: [(65002, 7, None, t.encode("utf-16-le"), True)]),
    "TIFF profile": _tiff(iccprofile=lambda t: bytes(128) + t.encode("utf-16-be")),
    "TIFF level": _second_page,
    "TIFF, behind everything": _between_tiles,
    "PNG text": _text("a.png", lambda t: _png(Path(), t)),
    "PNG packed text": _png_chunk(b"zTXt", lambda t: b"note\0\0" + zlib.compress(t)),
    "PNG international text": _png_chunk(b"iTXt", lambda t: b"note\0\1\0\0\0" + zlib.compress(t)),
    "PNG Exif": _png_chunk(b"eXIf", lambda t: b"II*\0" + bytes(4) + t),
    "PNG profile": _png_chunk(b"iCCP", lambda t: b"icc\0\0" + zlib.compress(bytes(128) + t)),
    "PNG private chunk": _png_chunk(b"prVt", lambda t: t),
    "PNG, behind its end": _text("a.png", lambda t: bytes(cv2.imencode(".png", _PIXELS)[1]) + t.encode()),
    "JPEG comment": _jpeg(0xFE),
    "JPEG Exif": _jpeg(0xE1, b"Exif\0\0II*\0"),
    "JPEG APP13": _jpeg(0xED, b"Photoshop 3.0\0"),
    "JPEG, behind its end": _text("a.jpg", lambda t: bytes(cv2.imencode(".jpg", _PIXELS)[1]) + t.encode()),
    "JPEG in a shard": _shard,
    "HDF5 attribute": _hdf5(lambda f, t: f.attrs.__setitem__("note", t)),
    "HDF5 attribute of bytes": _hdf5(lambda f, t: f["features"].attrs.__setitem__("note", np.bytes_(t.encode()))),
    "HDF5 list of texts": _hdf5(lambda f, t: f.attrs.__setitem__("notes", ["x", t])),
    "HDF5 name of an attribute": _hdf5(lambda f, t: f.attrs.__setitem__(t, 1)),
    "HDF5 name": _hdf5(lambda f, t: f.create_group(t.replace("/", "_"))),
    "HDF5 texts": _hdf5(lambda f, t: f.create_dataset("names", data=["x", t])),
    "HDF5 external link": _hdf5(lambda f, t: f.__setitem__("l", h5py.ExternalLink(f"{t}.h5", "/x"))),
    "DICOM element": _dicom(lambda t: {"StudyDescription": t}),
    "DICOM sequence": _dicom(lambda t: {"SpecimenDescriptionSequence": [_code(t)]}),
    "ICC file": _icc,
    "NumPy texts": _npz,
    "zip": _zip,
    "safetensors": _safetensors,
}
"""By the place where the text is planted."""
