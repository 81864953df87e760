"""The contact sheet as one self-contained HTML page. Every id and text from outside is escaped here."""

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

import cv2

from wsi.arrays import RGB
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
    template = Template(files("wsi.qc").joinpath("template.html").read_text("utf-8"))
    odd = sum(bool(row.odd) for row in rows)
    warned = sum(bool(row.warnings) for row in rows)
    head = "".join(f'<th class="n" data-sort="n" scope="col">{escape(column.title)}</th>' for column in columns)
    missing = "".join(f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in failed)
    return template.substitute(
        slides=f"{len(rows)} slide{'s' * (len(rows) != 1)}",
        lead=f"{odd} with a number far from the rest of the cohort, {warned} with warnings.",
        failed=f"<h2>Not readable</h2><ul>{missing}</ul>" if failed else "",
        head=head,
        rows="\n".join(_row(row, columns) for row in rows),
    )


def _row(row: SlideRow, columns: Sequence[Column]) -> str:
    numbers = "".join(_number(row, column) for column in columns)
    warnings = "".join(f"<li>{escape(line)}</li>" for line in row.warnings)
    swatch = "#{:02x}{:02x}{:02x}".format(*row.background)
    return (
        f'<tr{" class=odd" if row.odd else ""} data-flags="{len(row.odd) * 10 + len(row.warnings)}">'
        f'<td><img src="{_data_uri(row.thumbnail)}" alt="{escape(row.image_id)} with the tissue outlined"></td>'
        f'<th scope="row" data-value="{escape(row.image_id)}">{escape(row.image_id)}'
        f'<span class="sub">{escape(row.reader)} reader<br>um/px: {escape(row.source)}<br>'
        f'background <i style="background:{swatch}"></i></span></th>'
        f'{numbers}<td data-value="{len(row.warnings)}"><ul>{warnings}</ul></td></tr>'
    )


def _number(row: SlideRow, column: Column) -> str:
    value = row.numbers[column.key]
    text = "\N{EN DASH}" if value is None else f"{value:,.{column.digits}f}"
    mark = " far" if column.key in row.odd else ""
    return f'<td class="n{mark}" data-value="{"" if value is None else value}">{text}</td>'


def _data_uri(picture: RGB) -> str:
    encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(bytes(encoded)).decode()
