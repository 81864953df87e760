"""Chunks of image levels as they are shared: as they lie in the store, unless something else lies with them.

A shard is copied as it is where its chunks are alone in it and hold pixels alone. A JPEG chunk with a comment,
application data or a thumbnail is written without them, undecoded. A coarse level that was copied from the slide shows
the glass around the tissue, too, with what somebody wrote there: what level 0 does not hold is made white in it.
"""

from collections.abc import Iterator

import numpy as np

from wsi.arrays import Bools
from wsi.errors import StoreError
from wsi.pixels.jpeg import ADOBE, END, JFIF, START, segments
from wsi.store.codecs import Jpeg
from wsi.store.layout import FILL, shard_key
from wsi.store.shards import ABSENT, shard_index
from wsi.store.tile_store import TileStore

_TABLES = frozenset({0xDB, 0xC4, 0xDD, 0xDA, *(set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC})})
"""Quantisation, Huffman tables, restart interval, frames, scan: what decoding needs."""
_PLAIN_SIZE = {JFIF: 18, ADOBE: 16}
"""Bytes of these segments where they hold no picture and no text, marker and length with them."""
_ZSTD = b"\x28\xb5\x2f\xfd"


class Chunks:
    """The chunks of one store's image levels."""

    def __init__(self, store: TileStore) -> None:
        self._store = store
        copied = store.recipe.get("effect", {}).get("copied", {})
        self._copied = {int(level) for level in copied if str(level).isdigit()} - {0}
        self._held = held_tiles(store) if self._copied else np.zeros((0, 0), bool)

    def shard(self, level: int, row: int, column: int) -> bytes | dict[int, bytes] | None:
        """Return a shard: its bytes where it can be copied, else its chunks by place; None where there is none.

        Raises
        ------
        StoreError
            The shard is damaged, or a chunk is not what its codec writes.
        """
        key, side = shard_key(level, row, column), self._store.grid.shard_tiles(level)
        (data,) = self._store.folder.read([key])
        if data is None:
            return None
        index = shard_index(data, side**2, key)
        chunks, plain = dict[int, bytes](), True
        for place in np.flatnonzero(index[:, 0] != ABSENT).tolist():
            offset, size = index[place].tolist()
            chunk = data[offset : offset + size]
            found = self._shared(level, row * side + place // side, column * side + place % side, chunk, key)
            plain &= found is chunk
            if found is not None:
                chunks[place] = found
        whole = sum(map(len, chunks.values())) + index.nbytes + 4 == len(data)
        return data if plain and whole else chunks

    def _shared(self, level: int, row: int, column: int, chunk: bytes, key: str) -> bytes | None:
        """Return the chunk itself where it can stay, else what stands in its place; None for nothing."""
        codec = self._store.codec_of(level)
        if not isinstance(codec, Jpeg):
            if not chunk.startswith(_ZSTD):
                raise StoreError(f"{self._store.path}: {key}: a chunk is not zstd's: tile the slide again")
            return chunk
        if level in self._copied:
            held = self._under(level, row, column)
            if not held.any():
                return None
            if not held.all():
                return self._whitened(level, held, chunk, key)
        try:
            file = bytes(codec.file(chunk))
            plain = plain_jpeg(file)
        except ValueError as error:
            raise StoreError(f"{self._store.path}: {key}: a chunk is damaged ({error}): tile it again") from None
        return chunk if plain == file else codec.chunk(plain)

    def _under(self, level: int, row: int, column: int) -> Bools:
        """Return which level-0 tiles under a chunk are stored, bool (rows, columns), of those that the grid has."""
        side = self._store.grid.factors()[level]
        return self._held[row * side : (row + 1) * side, column * side : (column + 1) * side]

    def _whitened(self, level: int, held: Bools, chunk: bytes, key: str) -> bytes:
        """Return a chunk whose parts that level 0 does not hold are white, encoded anew."""
        codec, tile_px, side = self._store.codec_of(level), self._store.tile_px, self._store.grid.factors()[level]
        try:
            pixels = codec.pixels(chunk, tile_px)
        except Exception as error:  # codecs raise nearly anything on damaged bytes
            raise StoreError(f"{self._store.path}: {key}: a chunk is damaged ({error}): tile it again") from None
        whole = np.zeros((side, side), bool)
        whole[: held.shape[0], : held.shape[1]] = held
        of_px = np.arange(tile_px) * side // tile_px
        pixels[~whole[of_px[:, None], of_px]] = FILL
        return codec.encode(pixels)


def plain_jpeg(file: bytes) -> bytes:
    """Return a JPEG file with what decoding needs and its colours' markers; `ValueError` where it is no JPEG file."""
    end = file.rfind(END)
    if file[:2] != START or end < 0:
        raise ValueError("not a whole JPEG")
    found = list(segments(file))
    if not found or found[-1].marker != 0xDA:
        raise ValueError("JPEG without a scan")
    kept = [file[s.start : s.stop] for s in found if s.marker in _TABLES or _is_plain(file, s.marker, s.start, s.stop)]
    return b"".join([START, *kept, file[found[-1].stop : end + 2]])


def _is_plain(file: bytes, marker: int, start: int, stop: int) -> bool:
    if _PLAIN_SIZE.get(marker) != stop - start:
        return False
    return file[start + 4 : start + 9] == (b"JFIF\0" if marker == JFIF else b"Adobe")


def held_tiles(store: TileStore) -> Bools:
    """Return which level-0 tiles are stored, bool (rows, columns)."""
    tiles, side = store.grid.tiles, store.grid.shard_tiles(0)
    held = np.zeros((tiles.y + side, tiles.x + side), bool)
    for row, column in shards_of(store, 0):
        index = store.folder.index(shard_key(0, row, column), side**2)
        if index is not None:
            part = (index[:, 0] != ABSENT).reshape(side, side)
            held[row * side : (row + 1) * side, column * side : (column + 1) * side] = part
    return held[: tiles.y, : tiles.x]


def shards_of(store: TileStore, level: int) -> Iterator[tuple[int, int]]:
    """Give row and column of each place for a shard of a level."""
    tiles, side = store.grid.level_tiles(level), store.grid.shard_tiles(level)
    for row in range(-(-tiles.y // side)):
        for column in range(-(-tiles.x // side)):
            yield row, column
