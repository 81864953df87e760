"""Damage of JPEG and JPEG 2000 data that their decoders do not tell, and whole data of many encoders that must pass."""

import io
import struct
import time
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from making import picture
from PIL import Image

from wsi.pixels.jpeg import check_jpeg, jpeg_header
from wsi.pixels.jpeg2000 import check_jpeg2000, jpeg2000_header
from wsi.units import YX

SIDE = 256
TILE = YX(SIDE, SIDE)


def tissue() -> np.ndarray:
    """Return a tile that is tissue all over."""
    return picture(4 * SIDE, 4 * SIDE)[SIDE : 2 * SIDE, SIDE : 2 * SIDE]


PICTURES = {"tissue": tissue(), "white": np.full((SIDE, SIDE, 3), 255, np.uint8), "edge": picture(SIDE, SIDE)}


def saved(pixels: np.ndarray, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


# Whole data


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 1},
        {"quality": 100, "subsampling": 0},
        {"optimize": True},
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"restart_marker_blocks": 7, "subsampling": 1},
        {"restart_marker_rows": 1},
    ],
)
def test_whole_jpeg_passes(name: str, options: dict[str, Any]) -> None:
    for pixels in (PICTURES[name], PICTURES[name][..., 0].copy(), PICTURES[name][:250, :243].copy()):
        data = saved(pixels, "JPEG", **options)
        assert check_jpeg(data, TILE).size == pixels.shape[:2]
        check_jpeg(data + bytes(100), TILE)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"irreversible": True, "quality_mode": "rates", "quality_layers": [200, 40, 10]},
        {"num_resolutions": 1},
        {"tile_size": (64, 100)},
        {"progression": "RPCL", "precinct_size": (64, 64), "codeblock_size": (16, 16)},
        {"progression": "CPRL", "no_jp2": True, "irreversible": True, "quality_layers": [1000]},
        {"plt": True, "mct": 0},
    ],
)
def test_whole_jpeg_2000_passes(name: str, options: dict[str, Any]) -> None:
    for pixels in (PICTURES[name], PICTURES[name][..., 0].copy(), PICTURES[name][:250, :243].copy()):
        data = saved(pixels, "JPEG2000", **options)
        assert check_jpeg2000(data, TILE).size == pixels.shape[:2]
        check_jpeg2000(data + bytes(100), TILE)


# Damaged data


def jpeg(**options: Any) -> bytes:
    return saved(tissue(), "JPEG", quality=90, subsampling=0, **options)


def j2k() -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(tissue(), level=60, codecformat="j2k"))


def holed(data: bytes, start: float, stop: float) -> bytes:
    first, last = int(start * len(data)), int(stop * len(data))
    return data[:first] + bytes(last - first) + data[last:]


@pytest.mark.parametrize("data", [jpeg(), jpeg(restart_marker_rows=1), jpeg(optimize=True)])
def test_half_of_a_jpeg_missing_is_told(data: bytes) -> None:
    for spoiled in (holed(data, 0.5, 1), holed(data, 0.4, 0.9), data[: len(data) // 2], data[:-200], holed(data, 0, 1)):
        with pytest.raises((EOFError, ValueError)):
            check_jpeg(spoiled, TILE)


@pytest.mark.parametrize("data", [jpeg(), jpeg(restart_marker_blocks=32)])
@pytest.mark.parametrize("marker", [b"\xff\xda", b"\xff\xc4", b"\xff\xd5", b"\xff\x01", b"\xff\xd9"])
def test_a_marker_amid_the_data_is_told(data: bytes, marker: bytes) -> None:
    middle = len(data) // 2
    with pytest.raises(EOFError, match=r"marker|ends after"):
        check_jpeg(data[:middle] + marker + data[middle + 2 :], TILE)


def test_restart_intervals_that_are_missing_or_out_of_turn_are_told() -> None:
    data = jpeg(restart_marker_blocks=32)
    places = [data.index(bytes([0xFF, 0xD0 + i]), len(data) // 4) for i in range(8)]
    for number in range(8):
        start = places[number]
        stop = data.index(bytes([0xFF, 0xD0 + (number + 1) % 8]), start)
        with pytest.raises(EOFError, match="marker"):
            check_jpeg(data[:start] + data[stop:], TILE)
    last = data.rindex(b"\xff\xd6")
    with pytest.raises(EOFError, match="expected 31 restart markers, found 30"):
        check_jpeg(data[:last] + b"\xff\xd9", TILE)


def test_half_of_a_jpeg_2000_tile_missing_is_told() -> None:
    data = j2k()
    assert imagecodecs.jpeg2k_decode(holed(data, 0.5, 1)).shape == (SIDE, SIDE, 3)  # which says nothing
    for spoiled in (holed(data, 0.5, 1), holed(data, 0.3, 0.8), data[: len(data) // 2], data[:-100], holed(data, 0, 1)):
        with pytest.raises((EOFError, ValueError)):
            check_jpeg2000(spoiled, TILE)


@pytest.mark.parametrize("change", [-100, -1, 1, 100, 1 << 20])
def test_a_tile_part_of_another_length_is_told(change: int) -> None:
    data = bytearray(j2k())
    start = jpeg2000_header(bytes(data)).body + 6
    (length,) = struct.unpack(">I", data[start : start + 4])
    assert length > 100
    data[start : start + 4] = struct.pack(">I", length + change)
    with pytest.raises(EOFError):
        check_jpeg2000(bytes(data), TILE)


@pytest.mark.parametrize(("numbers", "whole"), [([0, 1, 2], True), ([0, 1, 0, 1], True), ([0, 1, 3], False)])
def test_packets_that_are_numbered_and_missing_are_told(numbers: list[int], whole: bool) -> None:
    data = j2k()
    header = jpeg2000_header(data)
    part = data[header.body : -2]
    packets = b"".join(b"\xff\x91\0\x04" + struct.pack(">H", number) + b"\x01" * 9 for number in numbers)
    longer = part[:6] + struct.pack(">I", len(part) + len(packets)) + part[10:] + packets
    marked = data[: header.body] + longer + data[-2:]
    if whole:
        check_jpeg2000(marked, TILE)
    else:
        with pytest.raises(EOFError, match="packets are missing"):
            check_jpeg2000(marked, TILE)


def test_a_head_is_parsed_for_what_it_is_not_for_what_looks_alike() -> None:
    """Heads are remembered: another frame behind an equal start must not be mixed up, nor a scan inside a comment."""
    data = jpeg()
    other = saved(tissue()[:100], "JPEG", quality=90, subsampling=0)
    assert (jpeg_header(data).size, jpeg_header(other).size, jpeg_header(data).size) == (TILE, YX(100, SIDE), TILE)
    comment = b"\xff\xfe\0\x0a\xff\xda\0\x0c\3abc"
    commented = data[:2] + comment + data[2:]
    header = jpeg_header(commented)
    assert header.scan is not None
    assert header.scan.start == jpeg_header(data).scan.start + len(comment)  # type: ignore[union-attr]
    check_jpeg(commented, TILE)


def test_a_flipped_bit_that_makes_a_marker_is_told_and_others_may_not_be() -> None:
    """As docs/COLOUR.md says: nearly every bit means something, and only what makes a marker or no code is told."""
    data, rng = jpeg(), np.random.default_rng(3)
    told = changed = 0
    pixels = imagecodecs.jpeg8_decode(data)
    scan = jpeg_header(data).scan
    assert scan is not None
    for _ in range(200):
        spoiled = bytearray(data)
        spoiled[int(rng.integers(scan.stop, len(data) - 2))] ^= 1 << int(rng.integers(8))
        try:
            check_jpeg(bytes(spoiled), TILE)
            changed += bool((imagecodecs.jpeg8_decode(bytes(spoiled)) != pixels).any())
        except EOFError:
            told += 1
        except imagecodecs.Jpeg8Error:
            told += 1
    assert 0 < told < changed


def best(function: Callable[[], object]) -> float:
    def once() -> float:
        start = time.process_time()
        for _ in range(5):
            function()
        return time.process_time() - start

    return min(once() for _ in range(5))


def test_checks_cost_next_to_nothing_beside_decoding() -> None:
    data, coded = jpeg(), j2k()
    assert best(lambda: check_jpeg(data, TILE)) < 0.1 * best(lambda: imagecodecs.jpeg8_decode(data))
    assert best(lambda: check_jpeg2000(coded, TILE)) < 0.1 * best(lambda: imagecodecs.jpeg2k_decode(coded))
