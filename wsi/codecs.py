"""How a chunk becomes bytes, and what the store's metadata says of it. A chunk is uint8 (3, T, T)."""

from typing import Any, Protocol

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi.errors import RequestError

ZSTD_LEVEL = 1
"""Tissue shrinks by a few percent more at level 3, at half the speed."""


class ChunkCodec(Protocol):
    """Both directions, and the zarr v3 codec chain that other readers go by."""

    def encode(self, chunk: NDArray[np.uint8]) -> bytes:
        """Compress uint8 (3, T, T)."""

    def decode(self, data: bytes, tile_px: int) -> NDArray[np.uint8]:
        """Return uint8 (3, T, T)."""

    def metadata(self) -> list[dict[str, Any]]:
        """Return the codec chain inside the shard, as zarr.json spells it."""


class Zstd:
    """Lossless; every zarr v3 reader knows it."""

    def encode(self, chunk: NDArray[np.uint8]) -> bytes:
        return bytes(imagecodecs.zstd_encode(chunk.tobytes(), ZSTD_LEVEL))

    def decode(self, data: bytes, tile_px: int) -> NDArray[np.uint8]:
        raw = imagecodecs.zstd_decode(data, out=3 * tile_px * tile_px)
        return np.frombuffer(raw, np.uint8).reshape(3, tile_px, tile_px)

    def metadata(self) -> list[dict[str, Any]]:
        return [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}]


CODECS: dict[str, ChunkCodec] = {"zstd": Zstd()}
"""By the name that ``--codec`` and the store's metadata use."""


def codec(name: str) -> ChunkCodec:
    """Return the codec of that name, or raise `RequestError`."""
    if name not in CODECS:
        raise RequestError(f"codec {name!r} is not known: expected one of {', '.join(CODECS)}")
    return CODECS[name]
