"""JPEG chunks for zarr-python: the codec behind the entry points of the group ``zarr.codecs`` that gigamil installs.

So whatever opens a store with zarr-python, napari for one, reads our JPEG chunks where gigamil is installed. The codec
is imagecodecs' own where that brings one (on Python 3.12 and later, the package imagecodecs-zarr registers the same
class under the same name), and ours where it does not. Importing this module registers it, too, for programs
that run from a copy of the code that is not installed.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import imagecodecs
import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import get_codec_class, register_codec

from wsi.pixels.jpeg import ZARR_NAMES, jpeg_header


@dataclass(frozen=True)
class ZarrJpeg(ArrayBytesCodec):  # type: ignore[misc]
    """The chunk (rows, columns, 3) as one JPEG file; configuration as in imagecodecs' own zarr codec."""

    level: int | None = None
    subsampling: str | None = None
    name: str = ZARR_NAMES[0]
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Take the codec's entry in zarr.json."""
        return cls(**data.get("configuration", {}), name=data["name"])

    def to_dict(self) -> dict[str, Any]:
        """Return the codec's entry for zarr.json."""
        given = {"level": self.level, "subsampling": self.subsampling}
        return {"name": self.name, "configuration": {key: value for key, value in given.items() if value is not None}}

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        data = chunk_bytes.to_bytes()
        header = jpeg_header(data)
        if (*header.size, len(header.ids)) != tuple(chunk_spec.shape):
            raise ValueError(f"expected a JPEG of {chunk_spec.shape}, found {(*header.size, len(header.ids))}")
        pixels = await asyncio.to_thread(imagecodecs.jpeg8_decode, data)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        pixels = np.ascontiguousarray(chunk_array.as_numpy_array())
        data = await asyncio.to_thread(imagecodecs.jpeg8_encode, pixels, self.level, subsampling=self.subsampling)
        return chunk_spec.prototype.buffer.from_bytes(bytes(data))

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Refuse: a JPEG's size is not known beforehand, and zarr asks only codecs of fixed size."""
        raise ValueError(f"the size of a JPEG of {input_byte_length} bytes of pixels is not known beforehand")


def _imagecodecs() -> type[ArrayBytesCodec] | None:
    try:
        from imagecodecs.zarr import Jpeg
    except ImportError:
        return None
    return Jpeg


JpegCodec = _imagecodecs() or ZarrJpeg
"""What the entry points name: one class, so that zarr sees no two to choose from."""


def _register() -> None:
    for name in ZARR_NAMES:
        try:
            get_codec_class(name)
        except (KeyError, ValueError):  # as zarr says it before and since 3.2
            register_codec(name, JpegCodec)


_register()
