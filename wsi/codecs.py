"""How a chunk becomes bytes, and what the store's metadata says of it.

A chunk is stored as (3, T, T), as viewers want it; a tile is handed over as (T, T, 3), as slides are read.
"""

from typing import Any, Protocol

import cv2
import imagecodecs
import numpy as np
from numcodecs.zstd import compress
from numpy.typing import NDArray

from wsi.errors import RequestError
from wsi.slide import RGB

ZSTD_LEVEL = -5
"""Stained tissue hardly shrinks without loss: level 1 takes 2.4 times as long for 10 to 15 percent."""
JPEG_QUALITY = 90
AUTO = "auto"
"""Copies JPEG tiles as they are where the slide has them at the target scale, else zstd: never loses a bit."""


class ChunkCodec(Protocol):
    """Both directions, and the zarr v3 codec chain that other readers go by."""

    def encode(self, tile: RGB) -> bytes:
        """Compress uint8 (T, T, 3)."""

    def decode(self, data: bytes, tile_px: int) -> NDArray[np.uint8]:
        """Return uint8 (3, T, T); any codec's error or `ValueError` on damage."""

    def decode_into(self, data: Any, out: NDArray[np.uint8]) -> None:
        """Fill ``out``, contiguous uint8 (3, T, T), from bytes or a view of them; errors as in `decode`."""

    def metadata(self) -> list[dict[str, Any]]:
        """Return the codec chain inside the shard, as zarr.json spells it."""


class Zstd:
    """Lossless, with a checksum in every chunk; every zarr v3 reader knows it."""

    def encode(self, tile: RGB) -> bytes:
        return bytes(compress(planar(tile), ZSTD_LEVEL, checksum=True))

    def decode(self, data: bytes, tile_px: int) -> NDArray[np.uint8]:
        raw = imagecodecs.zstd_decode(data, out=3 * tile_px * tile_px)
        return np.frombuffer(raw, np.uint8).reshape(3, tile_px, tile_px)

    def decode_into(self, data: Any, out: NDArray[np.uint8]) -> None:
        pixels = imagecodecs.zstd_decode(data, out=out.reshape(-1).data)
        if len(pixels) != out.size:
            raise ValueError(f"expected {out.size} bytes, found {len(pixels)}")

    def metadata(self) -> list[dict[str, Any]]:
        return [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}}]


class Jpeg:
    """Each chunk is a complete JPEG file, copied from the slide or encoded at quality 90 without chroma subsampling.

    Name and configuration are those of imagecodecs' zarr codecs, so that other readers open it.
    """

    def encode(self, tile: RGB) -> bytes:
        return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), JPEG_QUALITY, subsampling="444"))

    def decode(self, data: bytes, tile_px: int) -> NDArray[np.uint8]:
        return planar(jpeg_pixels(data, tile_px))

    def decode_into(self, data: Any, out: NDArray[np.uint8]) -> None:
        cv2.split(jpeg_pixels(data, out.shape[1]), list(out))

    def metadata(self) -> list[dict[str, Any]]:
        transpose = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
        return [transpose, {"name": "imagecodecs_jpeg", "configuration": {"level": JPEG_QUALITY, "subsampling": "444"}}]


def jpeg_pixels(data: Any, tile_px: int) -> RGB:
    """Return a JPEG chunk's pixels, uint8 (T, T, 3), contiguous."""
    # Given its place, the decoder refuses a picture of another size before it makes room for it.
    return imagecodecs.jpeg8_decode(data, out=np.empty((tile_px, tile_px, 3), np.uint8))


def planar(tile: RGB) -> NDArray[np.uint8]:
    """Turn uint8 (T, T, 3) into contiguous (3, T, T)."""
    out = np.empty((3, *tile.shape[:2]), np.uint8)
    cv2.split(np.ascontiguousarray(tile), list(out))  # rows of a longer strip take OpenCV many times as long
    return out


CODECS: dict[str, ChunkCodec] = {"zstd": Zstd(), "jpeg": Jpeg()}
"""By the name that the store's metadata uses."""
CODEC_CHOICES = (AUTO, *CODECS)
"""What ``--codec`` takes."""


def codec(name: str) -> ChunkCodec:
    """Return the codec of that name, or raise `RequestError`."""
    if name not in CODECS:
        raise RequestError(f"codec {name!r} is not known: expected one of {', '.join(CODECS)}")
    return CODECS[name]
