"""A static page written by hand: what the front end is promised, without the code that writes pages for users."""

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from making import RGB, picture
from numpy.typing import NDArray
from PIL import Image

from wsi.viewing import frontend

TILE = 256
BACKGROUND = (236, 238, 237)
N_TOP = 4


def packed(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def tissue_tiles(pixels: RGB) -> NDArray[np.bool_]:
    """Which tiles of a picture hold tissue, bool (rows, columns)."""
    rows, columns = (-(-side // TILE) for side in pixels.shape[:2])
    dark: NDArray[np.bool_] = np.any(pixels < 200, axis=2)
    tiles = [
        [dark[TILE * y : TILE * (y + 1), TILE * x : TILE * (x + 1)].any() for x in range(columns)] for y in range(rows)
    ]
    return np.array(tiles)


def write_tiles(folder: Path, pixels: RGB) -> tuple[list[list[int]], list[str]]:
    """Write tiles as stores hold them: full size, white where no tile is; return levels and what is there."""
    there = tissue_tiles(pixels)
    rows, columns = there.shape
    level = np.full((rows * TILE, columns * TILE, 3), 255, np.uint8)
    kept = np.kron(there, np.ones((TILE, TILE), bool))[: pixels.shape[0], : pixels.shape[1]]
    level[: pixels.shape[0], : pixels.shape[1]][kept] = pixels[kept]
    height, width = pixels.shape[:2]
    levels, present = [], []
    while True:
        levels.append([height, width])
        rows, columns = -(-height // TILE), -(-width // TILE)
        padded = np.full((rows * TILE, columns * TILE, 3), 255, np.uint8)
        seen = level[: rows * TILE, : columns * TILE]
        padded[: seen.shape[0], : seen.shape[1]] = seen
        blocks = padded.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2)
        full = (blocks < 255).any(axis=(2, 3, 4))
        present.append(packed(np.packbits(full.ravel(), bitorder="little")))
        for row, column in np.argwhere(full):
            path = folder / "tiles" / str(len(levels) - 1) / f"{row}_{column}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(blocks[row, column]).save(path, quality=92, subsampling=0)
        if max(height, width) <= TILE:
            return levels, present
        height, width = -(-height // 2), -(-width // 2)
        level = cv2.resize(padded, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def layer(key: str, kind: str, values: NDArray[Any], **others: object) -> dict[str, object]:
    told = {
        "key": key,
        "kind": kind,
        "class": None,
        "centre": None,
        "scale": "linear",
        "how": f"How {key} is computed.",
    }
    low, high = float(values.min()), float(values.max())
    return told | {"low": low, "high": high, "values": packed(values.astype("<f4")), "name": key} | others


def slide_doc(folder: Path, image_id: str, pixels: RGB, mpp: float) -> dict[str, Any]:
    """Write a slide's tiles and thumbnail; return what ``slide.js`` says of it."""
    levels, present = write_tiles(folder, pixels)
    thumb = Image.fromarray(pixels)
    thumb.thumbnail((256, 256))
    thumb.save(folder / "thumb.jpg")
    places = np.argwhere(tissue_tiles(pixels)).astype("<i4")
    n = len(places)
    factor = np.exp(np.random.default_rng(n).normal(size=n)).astype(np.float32)
    order = np.argsort(-factor)
    push = np.linspace(-1, 1, n, dtype=np.float32)
    height, width = pixels.shape[:2]
    return {
        "version": 1, "id": image_id, "patient": image_id.split("_")[0], "title": f"Slide {image_id}",
        "width": width, "height": height, "levels": levels, "tile_px": TILE,
        "factors": [2**level for level in range(len(levels))], "mpp": mpp, "l0_per_px": 2.0,
        "background": list(BACKGROUND), "present": present,
        "outline": [[[0.1 * width, 0.1 * height], [0.5 * width, 0.1 * height], [0.5 * width, 0.6 * height]]],
        "places": packed(places), "n": n, "store_tile_px": TILE,
        "layers": [
            layer("factor", "factor", factor, name="Attention, times the slide's mean", scale="log"),
            layer("push-LAA", "push", push, name="Towards LAA", centre=0.0, **{"class": "LAA"}),
            layer("rank", "rank", np.argsort(np.argsort(factor)).astype(np.float32) / n, name="Rank of attention"),
        ],
        "top": order[:N_TOP].tolist(), "bottom": order[-N_TOP:][::-1].tolist(),
        "prediction": {
            "classes": ["CE", "LAA"], "values": [0.27, 0.73], "kind": "probabilities", "label": "CE", "right": False,
            "said": "Likely LAA: 73 %.", "uncertainty": {"name": "Entropy", "value": 0.58, "rank": 0.4},
            "out_of_fold": True, "cohort": [0.1, 0.2, 0.35, 0.5, 0.64, 0.8, 0.92], "cohort_class": "LAA",
        },
        "facts": [["Size", f"{width} x {height} px"], ["Scanner's um/px", "0.25"]],
        "warnings": ["Pen on the glass: 2 tiles."], "icc": {"applied": False}, "home": "../../index.html",
    }  # fmt: skip


def write_page(out: Path, n_slides: int = 3) -> dict[str, RGB]:
    """Write a page of small slides; return each slide's pixels by id."""
    (out / "assets").mkdir(parents=True)
    for name, data in frontend.assets().items():
        (out / "assets" / name).write_bytes(data)
    (out / "index.html").write_bytes(frontend.index_html())
    made, listed = {}, []
    for at in range(n_slides):
        image_id = f"{chr(97 + at)}{at}_{10 - at}"
        made[image_id] = pixels = picture(1500 - 100 * at, 1900, seed=at)
        folder = out / "slides" / image_id
        folder.mkdir(parents=True)
        (folder / "index.html").write_bytes(frontend.slide_html())
        doc = slide_doc(folder, image_id, pixels, 0.5 * 2**at)
        (folder / "slide.js").write_text(f"gigamil.slide({json.dumps(doc)});\n")
        values = {
            "share": 0.9 - 0.37 * at,
            "error": at == 1,
            "center": f"Center {11 - at}",
            "gone": None if at else 3.0,
        }
        href = f"slides/{image_id}/"
        links = {"href": f"{href}index.html", "thumb": f"{href}thumb.jpg"}
        listed.append({"id": image_id, "patient": doc["patient"], "values": values, **links})
    columns = [
        {"key": "share", "name": "Probability of LAA", "kind": "share", "sort": "down", "filter": False},
        {"key": "error", "name": "Wrong", "kind": "yesno", "sort": None, "filter": True},
        {"key": "center", "name": "Center", "kind": "text", "sort": None, "filter": True},
        {"key": "gone", "name": "Sometimes missing", "kind": "number", "sort": None, "filter": False},
    ]
    cohort = {"version": 1, "title": "Small cohort", "said": "Three slides.", "columns": columns, "slides": listed}
    (out / "cohort.js").write_text(f"gigamil.cohort({json.dumps(cohort)});\n")
    return made
