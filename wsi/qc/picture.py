"""The contact sheet as one PNG."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from wsi.arrays import RGB
from wsi.errors import one_line
from wsi.pages import plural
from wsi.qc.rows import Column, SlideRow

_CELL_PX, _SMALL_CELL_PX = 280, 150
_SMALL_FROM = 150
"""Slides from which on the cells are small."""
_LINE_PX = 17
_INK, _SOFT, _WARN, _PAPER = (28, 32, 36), (95, 102, 110), (190, 80, 0), (255, 255, 255)


def contact_sheet(rows: Sequence[SlideRow], columns: Sequence[Column]) -> bytes:
    """Return a PNG with a cell for each slide: thumbnail, id, tiles, um/px; what is odd or warned of in orange."""
    side = _SMALL_CELL_PX if len(rows) >= _SMALL_FROM else _CELL_PX
    across = max(1, math.ceil(math.sqrt(len(rows) * 1.3)))
    cells = [_cell(row, columns, side) for row in rows] or [np.full((side, side, 3), _PAPER, np.uint8)]
    while len(cells) % across:
        cells.append(np.full_like(cells[0], _PAPER[0]))
    lines = [np.concatenate(cells[i : i + across], axis=1) for i in range(0, len(cells), across)]
    picture = np.concatenate(lines, axis=0)
    return bytes(cv2.imencode(".png", picture[..., ::-1])[1])


def _cell(row: SlideRow, columns: Sequence[Column], side: int) -> RGB:
    cell = np.full((side + 4 * _LINE_PX + 8, side, 3), _PAPER, np.uint8)
    room = side - 16
    scale = room / max(row.thumbnail.shape[:2])
    size = (max(1, round(row.thumbnail.shape[1] * scale)), max(1, round(row.thumbnail.shape[0] * scale)))
    small = cv2.resize(row.thumbnail, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = 8 + (room - small.shape[0]) // 2, 8 + (room - small.shape[1]) // 2
    cell[top : top + small.shape[0], left : left + small.shape[1]] = small
    mpp = row.numbers["mpp"]
    odd = ", ".join(column.title.split(",")[0] for column in columns if column.key in row.odd)
    lines = [
        (row.image_id, _INK),
        (f"{plural(int(row.numbers['tiles'] or 0), 'tile')}, {'?' if mpp is None else f'{mpp:.3f}'} um/px", _SOFT),
        (f"odd: {odd}" if odd else "", _WARN),
        (plural(len(row.warnings), "warning") if row.warnings else "", _SOFT),
    ]
    for i, (text, colour) in enumerate(lines):
        _write(cell, text, side + 8 + i * _LINE_PX, colour)
    edge = _WARN if row.odd else (225, 228, 232)
    cv2.rectangle(cell, (2, 2), (side - 3, cell.shape[0] - 3), edge, 2 if row.odd else 1)
    return cell


def _write(cell: RGB, text: str, y: int, colour: tuple[int, int, int]) -> None:
    """Write one line, cut to the cell; OpenCV's letters are ASCII."""
    plain = one_line(text).encode("ascii", "replace").decode()
    longest = max(4, int((cell.shape[1] - 16) / 7.6))
    plain = plain if len(plain) <= longest else plain[: longest - 2] + ".."
    cv2.putText(cell, plain, (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
