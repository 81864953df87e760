"""Spoiled slides: only clear errors, no crash, no hang, no runaway memory."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from making import RGB, picture, write_deflate, write_pyramid
from making_czi import JPEG_XR, ZSTD, metadata, overlapping, tiled, write_czi
from making_dicom import JPEG, JPEG_2000, JPEG_LS, write_dicom
from making_ndpi import NdpiPage, halved, write_ndpi

CASES = 500
SEED = 7
FUZZING = Path(__file__).resolve().parents[2] / "fuzzing.py"


def write_kinds(folder: Path, pixels: RGB) -> None:
    """Write one small slide of each kind."""
    write_pyramid(folder / "jpeg.tif", pixels, levels=2, tile=(128, 128))
    write_deflate(folder / "deflate.tif", pixels)
    settings = {"photometric": "rgb", "tile": (128, 128), "metadata": None}
    flavours: dict[str, dict[str, Any]] = {
        "lzw": {"compression": "lzw", "predictor": True},
        "packbits": {"compression": "packbits"},
        "zstd_big": {"compression": "zstd", "bigtiff": True, "byteorder": ">"},
        "webp": {"compression": "webp"},
        "jpeg2000": {"compression": "jpeg2000"},
        "jpegxr": {"compression": "jpegxr"},
        "png": {"compression": "png"},
        "jpegxl": {"compression": "jpegxl"},
        "lerc": {"compression": "lerc", "compressionargs": {"compression": "deflate"}},
        "strips": {"compression": None, "tile": None},
        "deflate_strips": {"compression": "adobe_deflate", "tile": None, "rowsperstrip": 50},
        "turned": {"compression": "adobe_deflate", "extratags": [(274, 3, 1, 6, True)]},
    }
    for name, options in flavours.items():
        tifffile.imwrite(folder / f"{name}.tif", pixels, **(settings | options))
    description = "Aperio Image Library v11|AppMag = 20|MPP = 0.4990"
    tifffile.imwrite(folder / "aperio.svs", pixels, **(settings | {"compression": "jpeg", "description": description}))
    for name, syntax in (("jpegls", JPEG_LS), ("jpeg2000", JPEG_2000), ("jpeg", JPEG)):
        write_dicom(folder / f"{name}.dcm", pixels, syntax, SeriesInstanceUID=f"1.2.{len(name)}")
    for number, blocks in enumerate((tiled(pixels, compression=ZSTD), overlapping(pixels, compression=JPEG_XR)[0])):
        write_czi(folder / f"{number}.czi", blocks + tiled(pixels[::2, ::2], factor=2), metadata())
    group = zarr.create_group(folder / "picture.zarr", zarr_format=3)
    group.create_array("0", data=pixels.transpose(2, 0, 1), chunks=(3, 128, 128), shards=(3, 384, 512))
    axes = [{"name": "c"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5, 0.5]}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}


def run(folder: Path, cases: int, timeout: int = 200) -> dict[str, Any]:
    command = [sys.executable, str(FUZZING), str(folder), str(SEED), str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=FUZZING.parents[1])
    doing = (folder / "doing.txt").read_text() if (folder / "doing.txt").exists() else "nothing yet"
    assert done.returncode == 0, f"died at {doing}: {done.stderr[-2000:]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_spoiled_slides_give_clear_errors_only(tmp_path: Path) -> None:
    write_kinds(tmp_path, picture(310, 410))
    found = run(tmp_path, CASES)
    assert found["faults"] == []
    assert sum(found["ended"].values()) == CASES
    assert min(found["ended"][how] for how in ("read", "refused")) > CASES // 10
    assert found["slowest_s"] < 10
    assert found["peak_mib"] < 2000


def test_spoiled_restart_intervals_give_clear_errors_only(tmp_path: Path) -> None:
    pixels = np.ascontiguousarray(picture(304, 400))
    write_ndpi(tmp_path / "stripes.ndpi", [NdpiPage(pixels, 80), NdpiPage(halved(pixels), None, lens=10.0)])
    found = run(tmp_path, 120)
    assert found["faults"] == []
    assert min(found["ended"][how] for how in ("read", "refused")) > 5
    assert found["peak_mib"] < 2000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_spoiled_slides_give_clear_errors_only(tmp_path: Path) -> None:
    write_kinds(tmp_path, picture(310, 410))
    found = run(tmp_path, 20_000, timeout=3600)
    assert found["faults"] == []
    assert found["slowest_s"] < 10
    assert found["peak_mib"] < 2000


def test_spoiled_real_slides_give_clear_errors_only(tmp_path: Path, real_slides: Path) -> None:
    for name in (
        "edge/small.svs",
        "edge/boxes.tiff",
        "edge/tiff_tiled_cmyk_jpeg.tif",
        "edge/rgb.tiled.jpegxr.u1.tif",
        "edge/cells.ome.tif",
        "dicom/sm_jpegls/sm_image_jpegls.dcm",
        "dicom/camelyon_jpeg/multi_frame_jpeg_camelyon_challenge_image.dcm",
        "CMU-1-Small-Region.svs",
    ):
        shutil.copy(real_slides / name, tmp_path)
    found = run(tmp_path, 160)
    assert found["faults"] == []
    assert found["slowest_s"] < 10
    assert found["peak_mib"] < 2000
