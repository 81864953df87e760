"""The cells of the table of colours: pictures that are written in a known way, and what they ought to be read as.

JPEG: what the data are, which markers say so, what the container's tag says. JPEG 2000: what the components are,
whether the codestream transforms or subsamples them, what the container's tag and compression say.
"""

import base64
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from wsi.pixels.jpeg import SCAN, segments
from wsi.slide import open_slide
from wsi.units import Box

SIDE = 64
LOSS = 2.0
"""Grey levels, mean, that the compressions of these tests cost; another colour space costs 20 and more."""
SUBSAMPLED_J2K = {
    # opj_compress -F 64,64,3,8,u@1x1:2x1:2x1 (2x2) -r 8 -mct 0, from the YCbCr samples of `smooth`
    "422": base64.b64decode(
        "/0//UQAvAAAAAABAAAAAQAAAAAAAAAAAAAAAQAAAAEAAAAAAAAAAAAADBwEBBwIBBwIB/1IADAAAAAEABQQEAAH/XAATQEBISFBI"
        "SFBISFBISFBISFD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjD/kAAKAAAAAASTAAH/k8fSEA1KICjD5gQF"
        "asfSCAcjwPiBwfMDgBEADPlXDBfLCk/AfAFB8YKAEIABbwtlB8PpBQPjBAJ0Cw/AfCLA+MRACYAiGGkTiADPoz1Bo/l/EFX2n59/"
        "wHwCQPkBwBhgGhz/fAN2lxUPL8HzBID4Q4AQgBfX5zoDcA8ZwHwpwHwpQBymNqbQD9it+y3VL5pOpIZ0vLcgzz5ioc3Jx7qc+L2x"
        "epTYTQsMHxUAs73XmR7oh5ClIAwS4NUbvI/AOlwHwkQB0oAgyBbhvxE/2yrV2SkgqLWoB2RlAtWXGi6R9XssTcD5BMB8JUAcUCIc"
        "7WbGd4n3fy44Se9pNQrj9IoYeBxJzQ8YvdQlwDtbAOvQAtdBBfGycwgkQp7L1Y6tnEDjqoB7IOlbDNa8NBTnov0gpc13L6IGAezc"
        "/EAmiX+dlqoJte482tFG1afjWJdvN41nb2JNpzYfFsmeB58VDkZXZc0DgMhc8PJXcngXy8W/uAN+F8AWzAfCpAHVQBOLIVBbegyh"
        "JNnYae9JW6pV+JHBRblc7DyFMPtLfRBjrB/i9uqkabjquhNvS4ZDWZGx6m7Auxn9/rikGK47sQpTX8B8NHAOuQB2nDafPnYXtT4o"
        "bNdfeJyckFU97wQcAdwjKAJCTEhGgld0CJqIg+7JOfx2ubI3Xf1B5C5wwka5AVLqTLHaL2pyPRunUlw8a3d+TNq+PaE7POE5zEMX"
        "xICyD7khHPj8U3+MGjo70U7vf8A7scAXawAuzCJJeNAbp61xh4e7TAeNACmRZlMaPVqj0t/VU5P9IX0oQU5HeqFvz+QXm+eprAYN"
        "30856l5Dyf6SWsZp/1PeHeWjHm4HuMgeRapjILhqNrHyTOzestSbEMPwLwos44X41avmbxSq56RHkbnGqgQ39QwV9d6+C2Y1eJ8z"
        "/O9t4VOqyN205Pdcueddnjl109WgsY2cq0bAFqSfFpva0hd6eAAKjuWmkLeuqWODTPSs1z9bymiqRK933m4hoJYt9Gy341R10YjB"
        "PY5WLnW/wBdVAO2sALqAFDdtvCdFE3yID1eNUBPCIXsXYMdAE1hkoIanznhPxO8ETYrvAzUUY47vy2kSFPTS6n/Ppqzkl4V2ubgT"
        "Qb2NLqEslP3+r2XfvyFbzLxq8UEN6aRfdIrZ8BuQw0EK1L8Jcb/VVSruNrgJfoCSZQwv+zBXrdIv5HBOWFQRHpHN5Kyjx5XbFyeg"
        "wDunQDutwB3QwF+UmGJ94uLpzJgehND/TJvm6lJ9ZMKpA93zjrBzcJ2aPJ94LeiZpwTsr/W3pkZGxa2nyDSy3sLEDbI1HEXr1S7H"
        "QEo4Hcxc9hlrDz5ayWZLkAIgDJ9eGkaJluj5N/ltjTVyxjId+SnjCc28zWdhoJeOEOaEbPD5hloCRk9vo7Nt1j3SgVNiR16Adq08"
        "bZlI+qrFeFHaMYEiQ9ABoNuhaLfpKsqHS83SlnHIDX3b+NJxLhxbEjFBLHVEhzh+ecp1RiwR2wBUiIxiUp/zZWaj0irkxs195e+Y"
        "kcHVjZVhZWHzLSEaxrDPX41NBDN//9k="
    ),
    "420": base64.b64decode(
        "/0//UQAvAAAAAABAAAAAQAAAAAAAAAAAAAAAQAAAAEAAAAAAAAAAAAADBwEBBwICBwIC/1IADAAAAAEABQQEAAH/XAATQEBISFBI"
        "SFBISFBISFBISFD/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjD/kAAKAAAAAANZAAH/k8fSEA1KICjB8AIG"
        "w+MEBy/A+IHB8wOAEQAM+VcMF8sKT8B8AMPpBAEC38PmBQfGCASfAX/AfCLA+MRACYAiGGkTiADPoz1Bo/l/EFX2n59/wCKD5gcA"
        "IQz3CzxvD8HzBIHwBwAiDQLYfws4fws/wHwpwHwpQBymNqbQD9it+y3VL5pOpIZ0vLcgzz5ioc3Jx7qc+L2xepTYTQsMHxUAs73X"
        "mR7oh5ClIAwS4NUbvI/AOiwPkDwBwwAiCKwRhwN/BJZe9tcRevpF2lvA+QNA+MLACEAiGgYIDA8ECtljryLAO1sA69AC10EF8bJz"
        "CCRCnsvVjq2cQOOqgHsg6VsM1rw0FOei/SClzXcvogYB7Nz8QCaJf52Wqgm17jza0UbVp+NYl283jWdvYk2nNh8WyZ4HnxUORldl"
        "zQOAyFzw8ldyeBfLxb+4A34XwDpsB8KMAdOAYVBwr/P1wbV3RA4Njz2mNt7LJT37JSzAVXm4V/q3FW5tU0NA/JXrhrRSmxTAfCXA"
        "fCZACpA2oZQ9p949UwJpbz3HfrgYj6wWtYR/HwcrXtTDLmRZqcA7scAXawAuzCJJeNAbp61xh4e7TAeNACmRZlMaPVqj0t/VU5P9"
        "IX0oQU5HeqFvz+QXm+eprAYN30856l5Dyf6SWsZp/1PeHeWjHm4HuMgeRapjILhqNrHyTOzestSbEMPwLwos44X41avmbxSq56RH"
        "kbnGqgQ39QwV9d6+C2Y1eJ8z/O9t4VOqyN205Pdcueddnjl109WgsY2cq0bAFqSfFpva0hd6eAAKjuWmkLeuqWODTPSs1z9bymiq"
        "RK933m4hoJYt9Gy341R10YjBPY5WLnW/wBbUA7QwArQX958rqol7ganfynKpf+JeoauDOK2xfW2Pap2sKWP+lNuDdmgd1WM+xzRE"
        "QNzMtfQO9k+Lsqz5ZxYAfw/1+rjyCRWLRUcxa4fAO1cA7TwAulBfp4TfhqBxvT0AgtEvbudEbK1b8A/nODk+buA6OvGPcLGX52Mo"
        "WCgaTh8XG6b1RSo7eiYv6bONOZF3yJlm6o3WIJDui2FuyMYF7g4BphlgYb4/F9o4YSq2aGE8k9EtcoSIc7WaVw3tBZEOZNRGsmna"
        "AHiN/x4Tt//Z"
    ),
}


def smooth() -> np.ndarray:
    """A picture whose colours would show any mix-up, and which subsampling hardly hurts."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.stack([80 + 2 * x, 200 - 2 * y, 90 + x + y], -1).clip(0, 255).astype(np.uint8)


def to_ycbcr(rgb: np.ndarray) -> np.ndarray:
    """By the matrix of JFIF."""
    r, g, b = np.moveaxis(rgb.astype(float), -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cb, cr = 128 - 0.168736 * r - 0.331264 * g + 0.5 * b, 128 + 0.5 * r - 0.418688 * g - 0.081312 * b
    return np.stack([y, cb, cr], -1).round().clip(0, 255).astype(np.uint8)


def jpeg(inside: str, subsampling: str, marker: str) -> bytes:
    """Return a JPEG of `smooth`, in RGB or YCbCr, with a JFIF or Adobe marker, or with none."""
    data = bytes(
        imagecodecs.jpeg8_encode(smooth(), 98, colorspace="RGB", outcolorspace=inside, subsampling=subsampling)
    )
    kept = [data[:2]]
    if marker == "jfif":
        kept.append(bytes.fromhex("ffe000104a46494600010100000100010000"))
    if marker == "adobe":
        kept.append(bytes.fromhex("ffee000e41646f626500640000000000")[:15] + bytes([inside == "YCBCR"]))
    stop = 2
    for each in segments(data):
        segment = bytearray(data[each.start : each.stop])
        if each.marker in {0xC0, 0xC1, 0xC2}:
            segment[10:19:3] = b"\1\2\3" if marker != "letters" else b"RGB"
        if each.marker == SCAN:
            segment[5:11:2] = b"\1\2\3" if marker != "letters" else b"RGB"
        if each.marker not in {0xE0, 0xEE}:
            kept.append(bytes(segment))
        stop = each.stop
    return b"".join([*kept, data[stop:]])


def write_tiff(path: Path, payload: bytes, compression: int, tag: str, **more: object) -> Path:
    """Write a TIFF of one tile as it is, whatever its tags say of it."""
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter([payload]), shape=(SIDE, SIDE, 3), dtype="uint8", tile=(SIDE, SIDE), photometric="rgb",
            compression="zstd", **more,
        )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages.first.tags
        tags["Compression"].overwrite(compression)
        tags["PhotometricInterpretation"].overwrite({"RGB": 2, "YCBCR": 6}[tag])
    return path


def read(path: Path) -> np.ndarray:
    slide = open_slide(path, "tiff")
    try:
        return slide.read(0, Box(0, 0, SIDE, SIDE))
    finally:
        slide.close()


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


# Data, subsampling, marker, tag: where there is a marker the tag may lie; without one it is all there is.
JPEG_CELLS = [
    *[("YCBCR", sub, "jfif", tag) for sub in ("444", "422", "420") for tag in ("RGB", "YCBCR")],
    *[("YCBCR", sub, "adobe", tag) for sub in ("444", "422", "420") for tag in ("RGB", "YCBCR")],
    *[("RGB", "444", "adobe", tag) for tag in ("RGB", "YCBCR")],
    *[("RGB", "444", "letters", tag) for tag in ("RGB", "YCBCR")],
    *[("YCBCR", sub, "none", "YCBCR") for sub in ("444", "422", "420")],
    *[("YCBCR", sub, "none", "RGB") for sub in ("422", "420")],
    ("RGB", "444", "none", "RGB"),
]


def j2k(form: str) -> bytes:
    """Return `smooth` as JPEG 2000: ``rgb`` with the codestream's own transform or ``plain``, ``ycc`` without it."""
    if form in SUBSAMPLED_J2K:
        return SUBSAMPLED_J2K[form]
    picture = to_ycbcr(smooth()) if form == "ycc" else smooth()
    return bytes(imagecodecs.jpeg2k_encode(picture, level=0, mct=form == "rgb", codecformat="j2k", reversible=True))


J2K_CELLS = [
    *[("rgb", compression, tag) for compression in (33003, 33005, 34712) for tag in ("RGB", "YCBCR")],
    *[("plain", compression, "RGB") for compression in (33003, 33005, 34712)],
    *[("ycc", compression, "YCBCR") for compression in (33003, 34712)],
    *[
        (form, compression, tag)
        for form in ("422", "420")
        for compression in (33003, 34712)
        for tag in ("RGB", "YCBCR")
    ],
]
