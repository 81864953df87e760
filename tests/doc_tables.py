"""The tables of docs/ that are made of the code: the encoders and their arguments, and what each colour is read as.

python tests/doc_tables.py      writes them anew
"""

import re
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from colour_cells import J2K_CELLS, JPEG_CELLS, apart, j2k, jpeg, read, smooth, write_tiff

from features.encoders.presets import PRESETS, Preset
from features.encoders.published.preset import FEATURES

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMPRESSIONS = {33003: "Aperio 33003", 33005: "Aperio 33005", 34712: "TIFF 34712"}
FORMS = {
    "rgb": "RGB, the codestream's own transform",
    "plain": "RGB, no transform",
    "ycc": "YCbCr, no transform",
    "422": "YCbCr, 4:2:2",
    "420": "YCbCr, 4:2:0",
}
MARKERS = {"jfif": "JFIF", "adobe": "Adobe", "letters": "components R G B", "none": "none"}


def encoders() -> str:
    """Return the tables of the published encoders, in Markdown."""
    lines = [
        "| name | hub | features | input px | um/px | licence | account |", "|---|---|---|---|---|---|---|",
        *(_known(name, preset) for name, preset in PRESETS.items()),
        "", "## Exact arguments", "", "What `timm.create_model` is given; mean and deviation of RGB in [0, 1].", "",
        "| name | model of timm | arguments | feature | tile | mean; deviation | published in |",
        "|---|---|---|---|---|---|---|",
        *(_made(name, preset) for name, preset in PRESETS.items()),
    ]  # fmt: skip
    return "\n".join(lines)


def _known(name: str, preset: Preset) -> str:
    hub = f"[{preset.hub}](https://huggingface.co/{preset.hub})"
    mpps = ", ".join(f"{mpp:g}" for mpp in preset.mpps) or "none"
    return (
        f"| `{name}` | {hub} | {preset.dim} | {preset.input_px} | {mpps} | {preset.licence} "
        f"| {'yes' if preset.gated else 'no'} |"
    )


def _made(name: str, preset: Preset) -> str:
    given = {**preset.arguments, **{own: path.partition(":")[2] for own, path in preset.named_layers.items()}}
    arguments = ", ".join(f"`{own}={value!r}`" for own, value in given.items()) or "none"
    resized = f"{preset.resize_px} px, middle {preset.input_px}" if preset.resize_px else f"{preset.input_px} px"
    shown = "; ".join(" ".join(f"{own:.9g}" for own in three) for three in (preset.mean, preset.std))
    return (
        f"| `{name}` | `{preset.model}` | {arguments} | {FEATURES[preset.feature]} | {resized}, {preset.interpolation} "
        f"| {shown} | {preset.source} |"
    )


def colours() -> str:
    """Return the measured table of colours, in Markdown: cells that differ in the tag alone share a line."""
    lines = ["| codec | data | marker or compression | tag RGB | tag YCbCr |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        measured = sorted(_measured(Path(folder) / "a.tif"), key=lambda row: row[:3])
    for (codec, data, said), rows in groupby(measured, key=lambda row: row[:3]):
        errors = {tag: error for *_, tag, error in rows}
        cells = [f"{errors[tag]:.1f}" if tag in errors else "-" for tag in ("RGB", "YCBCR")]
        lines.append(f"| {codec} | {data} | {said} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _measured(path: Path) -> Iterator[tuple[str, str, str, str, float]]:
    for inside, subsampling, marker, tag in JPEG_CELLS:
        error = apart(read(write_tiff(path, jpeg(inside, subsampling, marker), 7, tag)), smooth())
        yield "JPEG", f"{inside.replace('YCBCR', 'YCbCr')}, {':'.join(subsampling)}", MARKERS[marker], tag, error
    for form, compression, tag in J2K_CELLS:
        error = apart(read(write_tiff(path, j2k(form), compression, tag)), smooth())
        yield "JPEG 2000", FORMS[form], COMPRESSIONS[compression], tag, error


def between(text: str, table: str | None = None) -> str:
    """Return what stands between the marks of a page; or the page with ``table`` in its place."""
    found = re.fullmatch(r"(.*<!-- made by tests/doc_tables\.py -->\n\n)(.*?)(\n\n<!-- end -->.*)", text, re.DOTALL)
    assert found, "expected the marks of a table that is made"
    return found[2] if table is None else found[1] + table + found[3]


if __name__ == "__main__":
    for name, table in (("encoders.md", encoders()), ("COLOUR.md", colours())):
        page = DOCS / name
        page.write_text(between(page.read_text("utf-8"), table), "utf-8")
