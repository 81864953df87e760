"""How a chunk becomes bytes, and what the store's metadata says of it.

A chunk is stored as (3, T, T), as viewers want it; a tile is handed over as (T, T, 3), as slides are read.
"""

import struct
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import cv2
import google_crc32c
import imagecodecs
import numpy as np
from numcodecs.zstd import compress
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.errors import RequestError

ZSTD_LEVEL = -5
"""Stained tissue hardly shrinks without loss: level 1 takes 2.4 times as long for 10 to 15 percent."""
JPEG_QUALITY = 90
SUBSAMPLING = "444"
"""Colours at the picture's own resolution; "420" halves theirs, each way."""
AUTO = "auto"
"""Copies JPEG tiles as they are where the slide has them at the target scale, else zstd: never loses a bit."""
_CRC_BYTES = 4


class ChunkCodec(Protocol):
    """Both directions, and the zarr v3 codec chain that other readers go by."""

    lossless: ClassVar[bool]
    """Whether decoding gives back what was encoded, bit by bit."""

    def encode(self, tile: RGB) -> bytes:
        """Compress uint8 (T, T, 3)."""

    def decode_into(self, data: Any, out: NDArray[np.uint8]) -> None:
        """Fill ``out``, contiguous uint8 (3, T, T), from bytes or a view of them; any error of a codec on damage."""

    def pixels(self, data: Any, tile_px: int) -> RGB:
        """Return uint8 (T, T, 3), contiguous and the caller's own; errors as in `decode_into`."""

    def metadata(self, jpeg_name: str) -> list[dict[str, Any]]:
        """Return the codec chain inside the shard, as zarr.json spells it; one of `ZARR_NAMES` is its JPEG codec."""


class Zstd:
    """Lossless, with a checksum in every chunk; every zarr v3 reader knows it."""

    lossless: ClassVar[bool] = True

    def encode(self, tile: RGB) -> bytes:
        planes = np.empty((3, *tile.shape[:2]), np.uint8)
        cv2.split(np.ascontiguousarray(tile), list(planes))  # rows of a longer strip take OpenCV many times as long
        return bytes(compress(planes, ZSTD_LEVEL, checksum=True))

    def decode_into(self, data: Any, out: NDArray[np.uint8]) -> None:
        pixels = imagecodecs.zstd_decode(data, out=out.reshape(-1).data)
        if len(pixels) != out.size:
            raise ValueError(f"expected {out.size} bytes, found {len(pixels)}")

    def pixels(self, data: Any, tile_px: int) -> RGB:
        planes = np.empty((3, tile_px, tile_px), np.uint8)
        self.decode_into(data, planes)
        return np.asarray(cv2.merge(list(planes)), np.uint8)

    def metadata(self, jpeg_name: str) -> list[dict[str, Any]]:
        return [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}}]


@dataclass(frozen=True, slots=True)
class Jpeg:
    """Each chunk is a complete JPEG file, copied from the slide or encoded at quality 90 without chroma subsampling.

    Behind it stands its CRC-32C (zarr's codec ``crc32c``): a JPEG with a flipped bit decodes without a word. Name and
    configuration are those of imagecodecs' zarr codecs, so that other readers open it.
    """

    lossless: ClassVar[bool] = False
    checked: bool = True
    """Whether chunks carry the checksum; those of earlier versions do not."""
    subsampling: str = SUBSAMPLING
    """Of what is encoded. Like the quality it is no matter of decoding: metadata tell the usual one, as of copies."""

    def encode(self, tile: RGB) -> bytes:
        file = imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), JPEG_QUALITY, subsampling=self.subsampling)
        return self.chunk(bytes(file))

    def chunk(self, file: bytes) -> bytes:
        """Return the chunk that holds a JPEG file."""
        return file + struct.pack("<I", google_crc32c.value(file)) if self.checked else file

    def file(self, data: Any) -> Any:
        """Return the JPEG file in a chunk, bytes or a view of them; `ValueError` where it is not what was written."""
        if not self.checked:
            return data
        file = data[:-_CRC_BYTES]
        if len(data) <= _CRC_BYTES or struct.unpack("<I", data[-_CRC_BYTES:])[0] != google_crc32c.value(bytes(file)):
            raise ValueError("its bytes do not match their checksum")
        return file

    def decode_into(self, data: Any, out: NDArray[np.uint8]) -> None:
        cv2.split(self.pixels(data, out.shape[1]), list(out))

    def pixels(self, data: Any, tile_px: int) -> RGB:
        # Given its place, the decoder refuses a picture of another size before it makes room for it.
        return imagecodecs.jpeg8_decode(self.file(data), out=np.empty((tile_px, tile_px, 3), np.uint8))

    def metadata(self, jpeg_name: str) -> list[dict[str, Any]]:
        transpose = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
        jpeg = {"name": jpeg_name, "configuration": {"level": JPEG_QUALITY, "subsampling": SUBSAMPLING}}
        return [transpose, jpeg, *([{"name": "crc32c"}] if self.checked else [])]


CODECS: dict[str, ChunkCodec] = {"zstd": Zstd(), "jpeg": Jpeg()}
"""By the name that the store's metadata uses."""
CODEC_CHOICES = (AUTO, *CODECS)
"""What ``--codec`` takes."""


def codec(name: str, *, checked: bool = True, subsampling: str = SUBSAMPLING) -> ChunkCodec:
    """Return the codec of that name, or raise `RequestError`; ``checked`` and ``subsampling`` as in `Jpeg`."""
    if name not in CODECS:
        raise RequestError(f"codec {name!r} is not known: expected one of {', '.join(CODECS)}")
    usual = checked and subsampling == SUBSAMPLING
    return CODECS[name] if usual or name != "jpeg" else Jpeg(checked, subsampling)
