"""The contact sheet of a cohort: every slide with its mask's outline and its quality numbers, on one page.

``qc.html`` is one self-contained, sortable page; ``qc.png`` is the same as a picture. What stands far from the rest of
the cohort is marked and stands first, then slides with warnings that few others have, then the least and the most
tissue, so that one glance finds the odd slide. What most slides are warned of is told once.
"""

import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.errors import GigamilError
from wsi.files.atomic import make_folder, write_bytes, write_text
from wsi.files.claim import claim
from wsi.files.regular import first_bytes
from wsi.files.replace import refuse_foreign
from wsi.options import stage
from wsi.pages import data_uri, fill
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.qc.common import common_warnings, own_warnings, rare_warnings
from wsi.qc.options import QcOptions
from wsi.qc.picture import contact_sheet
from wsi.qc.rows import COLUMNS, Column, SlideRow
from wsi.store.tile_store import TileStore, find_stores

THUMBNAIL_PX = 360
"""Longest side of a thumbnail."""
_SILENT = Silent()
_LEAST_COHORT = 5
"""Slides from which on outliers can be told."""
_FAR = 4.0
"""Robust deviations from the cohort's median that are marked."""
_GREEN, _YELLOW = (0, 140, 0), (255, 225, 0)
_JPEG_QUALITY = 82
_MARK = b"gigamil qc"
"""Within the first bytes of the page and of the picture."""
_EARLIER_MARK = b"<title>Quality of "


@stage
def qc(options: QcOptions, progress: Progress = _SILENT) -> Summary:
    """Write qc.html and qc.png of a cohort of stores; a store that cannot be read is named and left out.

    Raises
    ------
    RequestError
        No store is found, or a qc.html or qc.png of somebody else is there.
    ClaimedError
        Another process is writing the same sheet.
    """
    started = time.perf_counter()
    stores = find_stores(options.stores)
    make_folder(options.out)
    rows: list[SlideRow] = []
    outcomes: list[Outcome] = []
    table, picture = options.out / "qc.html", options.out / "qc.png"
    for output in (table, picture):
        refuse_foreign(output, _is_ours)
    with claim(table):
        progress.begin("contact sheet", len(stores), "slides")
        for store in stores:
            try:
                rows.append(read_row(store))
                outcomes.append(Outcome(store.image_id, Status.DONE))
            except (GigamilError, OSError) as error:
                outcomes.append(Outcome(store.image_id, Status.FAILED, str(error)))
            progress.advance(1)
        progress.end()
        marked = oddest_first(mark_odd(rows))
        failed = [(o.item_id, o.reason) for o in outcomes if o.status is Status.FAILED]
        write_text(table, page(marked, COLUMNS, failed), _is_ours)
        write_bytes(picture, _with_mark(contact_sheet(marked, COLUMNS)), _is_ours)
    facts = {row.image_id: {"odd": list(row.odd), **row.numbers} for row in marked}
    outcomes = [Outcome(o.item_id, o.status, o.reason, facts.get(o.item_id, {})) for o in outcomes]
    return Summary("qc", outcomes, time.perf_counter() - started)


def _is_ours(path: Path) -> bool:
    """Tell whether a page or picture is a sheet; a picture without a mark (of earlier versions) is, beside a page."""
    start = first_bytes(path, 512)
    return _MARK in start or _EARLIER_MARK in start or (path.suffix == ".png" and _is_ours(path.with_suffix(".html")))


def _with_mark(png: bytes) -> bytes:
    """Return a PNG with our mark as a text chunk behind its header."""
    chunk, header = b"tEXtSoftware\0" + _MARK, 33
    return (
        png[:header] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[header:]
    )


def read_row(store: TileStore) -> SlideRow:
    """Read what the sheet shows of one store.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    provenance = store.provenance
    tissue: dict[str, Any] = provenance.get("tissue", {})
    mask, mask_mpp = store.tissue_mask()
    overview = np.ascontiguousarray(store.read_array("overview/0").astype(np.uint8).transpose(1, 2, 0))
    shares: dict[str, float] = tissue.get("artefact_shares", {})
    medians = {name: float(np.median(values)) for name, values in store.scores.items() if len(values)}
    sampled = {name: provenance.get("median_scores", {}).get(name) for name in ("focus", "texture")}
    red, green, blue = tissue.get("background", (255, 255, 255))
    numbers: dict[str, float | None] = {
        "tiles": store.n_tiles,
        "tissue_mm2": float(mask.sum()) * mask_mpp**2 / 1e6,
        "tissue_share": float(mask.mean()),
        "mpp": provenance.get("slide_mpp"),
        **{name: medians.get(name, sampled.get(name)) for name in ("darkness", "focus", "texture")},
        **{name: shares.get(name) for name in ("pen", "fold", "bubble")},
        "repeats": sum(len(group) - 1 for group in tissue.get("repeats", [])),
        "tint": max(red, green, blue) - min(red, green, blue),
    }
    return SlideRow(
        image_id=store.image_id,
        thumbnail=outlined(overview, mask, dark=bool(tissue.get("dark_background"))),
        numbers=numbers,
        source=str(provenance.get("mpp_source", "")),
        reader=str(provenance.get("reader", "")),
        background=(int(red), int(green), int(blue)),
        warnings=tuple(str(line) for line in provenance.get("warnings", ())),
    )


def outlined(overview: RGB, mask: NDArray[np.uint8], *, dark: bool) -> RGB:
    """Return a thumbnail with the mask's outline drawn in, uint8 (h, w, 3)."""
    scale = THUMBNAIL_PX / max(overview.shape[:2])
    size = (max(1, round(overview.shape[1] * scale)), max(1, round(overview.shape[0] * scale)))
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    thumbnail = np.ascontiguousarray(cv2.resize(overview, size, interpolation=shrink))
    covered = cv2.resize(mask * np.uint8(255), size, interpolation=shrink)
    contours, _ = cv2.findContours((covered >= 128).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(thumbnail, contours, -1, _YELLOW if dark else _GREEN, 2)
    return thumbnail


def mark_odd(rows: Sequence[SlideRow]) -> list[SlideRow]:
    """Mark the numbers that stand far from the cohort's: four robust deviations (median, 1.4826 MAD) and more."""
    odd: list[list[str]] = [[] for _ in rows]
    for column in COLUMNS:
        values = np.array([np.nan if (v := row.numbers[column.key]) is None else v for row in rows], np.float64)
        if column.logarithmic:
            values = np.log(np.maximum(values, 1e-9))
        known = values[~np.isnan(values)]
        if len(known) < _LEAST_COHORT:
            continue
        middle = np.median(known)
        spread = max(1.4826 * float(np.median(np.abs(known - middle))), column.least_spread / 4, 1e-12)
        for i in np.flatnonzero(np.abs(values - middle) > _FAR * spread):
            odd[int(i)].append(column.key)
    return [replace(row, odd=tuple(keys)) for row, keys in zip(rows, odd, strict=True)]


def oddest_first(rows: Sequence[SlideRow]) -> list[SlideRow]:
    """Return the rows by how much there is to look at: odd numbers, rare warnings, the least and the most tissue."""
    common = common_warnings(rows)
    rare = [len(rare_warnings(row, common)) for row in rows]
    area = [row.numbers["tissue_mm2"] or 0.0 for row in rows]
    extreme = {min(area), max(area)} if len(set(area)) > 1 else set()
    keys = [(-len(row.odd), -own, a not in extreme) for row, own, a in zip(rows, rare, area, strict=True)]
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: keys[i])]


def page(rows: Sequence[SlideRow], columns: Sequence[Column], failed: Sequence[tuple[str, str]]) -> str:
    """Return the page.

    Parameters
    ----------
    rows
        The slides, in the order in which they first stand.
    columns
        The numbers shown.
    failed
        Id and reason of each store that could not be read.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    encoded = (bytes(cv2.imencode(".jpg", row.thumbnail[..., ::-1], quality)[1]) for row in rows)
    common = common_warnings(rows)
    heads = [("Overview", None), ("Slide", "t"), *((column.title, "n") for column in columns), ("Warnings", "c")]
    return fill(
        "wsi/qc/qc.html",
        rows=rows,
        slides=[(row, data_uri(own), own_warnings(row, common)) for row, own in zip(rows, encoded, strict=True)],
        columns=columns,
        heads=heads,
        common=common,
        rare={row.image_id for row in rows if rare_warnings(row, common)},
        failed=failed,
    )
