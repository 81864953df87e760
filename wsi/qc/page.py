"""The contact sheet as one self-contained HTML page."""

from collections.abc import Sequence

import cv2

from wsi.arrays import RGB
from wsi.pages import data_uri, fill
from wsi.qc.rows import Column, SlideRow

_JPEG_QUALITY = 82


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
    pictures = [(row, _data_uri(row.thumbnail)) for row in rows]
    return fill("wsi/qc/qc.html", rows=rows, pictures=pictures, columns=columns, failed=failed)


def _data_uri(picture: RGB) -> str:
    return data_uri(bytes(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]))
