"""The picture of one slide: overview, attention over it, the tiles looked at most, scale bar and legend."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from wsi.arrays import Floats, Ints
from wsi.files.atomic import write_bytes

STAMP = "gigamil-recipe"
COLORMAP = "viridis"
WIDTH, MARGIN, LEGEND, LINE = 1430, 24, 120, 22
"""Pixels of the picture: its width, the space around panels, the width of the legend, the height of a line of text."""
TALLEST = 1100
"""Largest height of a panel."""
INK, SOFT = (28, 32, 36), (91, 101, 112)
TILES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidePicture:
    """Everything that the picture of one slide shows."""

    image_id: str
    classes: tuple[str, ...]
    outputs_C: Floats
    shares: bool
    """Whether the outputs are probabilities."""
    label: str | None
    """Where the run's manifest gives one."""
    out_of_fold: bool
    """Whether the slide was in the training, so that only the models that have not seen it were asked."""
    models: int
    """Number of models averaged."""
    overview_HWC: NDArray[np.uint8]
    overview_mpp: float
    """um per overview pixel."""
    tiles_yx: NDArray[np.int32]
    tile_share: Floats
    """(2,) side of a tile as a share of the overview's height and width."""
    attention_N: Floats
    """Sums to 1."""
    percentile_N: Floats
    """0 to 1."""
    top_N: Ints
    """Positions of the tiles with the highest attention, highest first."""
    top_tiles_KHWC: NDArray[np.uint8]
    l0_yx: Ints


def paint(picture: SlidePicture) -> NDArray[np.uint8]:
    """Return the overview with the attention's percentile laid over it, (H, W, 3) uint8.

    The higher the rank the more opaque: tissue that was not looked at stays visible as it is.
    """
    shape = picture.overview_HWC.shape[:2]
    rank_HW = np.full(shape, np.nan)
    size = np.array(shape) * picture.tile_share
    starts = np.floor(picture.tiles_yx * size).astype(int)
    stops = np.maximum(np.floor((picture.tiles_yx + 1) * size).astype(int), starts + 1)
    for (y0, x0), (y1, x1), rank in zip(starts, stops, picture.percentile_N, strict=True):
        rank_HW[y0:y1, x0:x1] = rank
    covered = np.isfinite(rank_HW)
    painted = picture.overview_HWC.copy()
    painted[covered] = np.rint(_blend(picture.overview_HWC[covered].astype(np.float64), rank_HW[covered][:, None]))
    return painted


def _blend(rgb: Floats, rank: Floats) -> Floats:
    """Return colours (..., 3) with the percentile's colour over them; ``rank`` is (..., 1) in [0, 1]."""
    from matplotlib import colormaps

    colour = colormaps[COLORMAP](rank[..., 0])[..., :3] * 255
    under = 0.4 * rgb + 0.6 * rgb.mean(axis=-1, keepdims=True)
    alpha = 0.2 + 0.5 * rank**2
    return np.asarray(under * (1 - alpha) + colour * alpha)


def scale_bar(width_um: float) -> float:
    """Return the longest of 1, 2, 5 times a power of ten um that spans at most a quarter of the width."""
    limit = width_um / 4
    power = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit))


def tissue_window(picture: SlidePicture) -> tuple[slice, slice]:
    """Return the rows and columns of the overview that hold the listed tiles, with a margin of one tile."""
    shape = np.array(picture.overview_HWC.shape[:2])
    size = shape * picture.tile_share
    start = np.maximum(np.floor((picture.tiles_yx.min(axis=0) - 1) * size), 0).astype(int)
    stop = np.minimum(np.ceil((picture.tiles_yx.max(axis=0) + 2) * size), shape).astype(int)
    return slice(start[0], stop[0]), slice(start[1], stop[1])


def draw(picture: SlidePicture) -> Image.Image:
    """Return the picture: title, slide beside attention with legend, and the tiles looked at most beneath."""
    window = tissue_window(picture)
    slide = _panel(picture.overview_HWC[window])
    looked = _panel(paint(picture)[window])
    side = (WIDTH - 2 * MARGIN - (TILES - 1) * 8) // TILES
    top = MARGIN + 3 * LINE
    strip = top + slide.height + 3 * LINE
    canvas = Image.new("RGB", (WIDTH, strip + LINE + side + MARGIN), "white")
    pen = ImageDraw.Draw(canvas)
    title, source = _title(picture)
    pen.text((MARGIN, MARGIN), title, INK, _font(18, bold=True))
    pen.text((MARGIN, MARGIN + LINE + 6), source, SOFT, _font(14))
    canvas.paste(slide, (MARGIN, top))
    canvas.paste(looked, (2 * MARGIN + _panel_width(), top))
    um_per_px = picture.overview_mpp * (window[1].stop - window[1].start) / slide.width
    _draw_scale_bar(pen, (MARGIN, top + slide.height + 14), um_per_px, slide.width)
    _draw_legend(canvas, pen, top, max(slide.height, 160))
    _draw_tiles(canvas, pen, picture, strip, side)
    return canvas


def _panel_width() -> int:
    return (WIDTH - 3 * MARGIN - LEGEND) // 2


def _panel(pixels_HWC: NDArray[np.uint8]) -> Image.Image:
    """Return the pixels scaled to a panel, their aspect kept."""
    height, width = pixels_HWC.shape[:2]
    scale = min(_panel_width() / width, TALLEST / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(pixels_HWC)).resize(size, method)


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _title(picture: SlidePicture) -> tuple[str, str]:
    told = zip(picture.classes, picture.outputs_C.tolist(), strict=True)
    probs = ", ".join(f"{name} {value:.0%}" if picture.shares else f"{name} {value:.3g}" for name, value in told)
    label = f"labelled {picture.label}" if picture.label else "label not known"
    if picture.out_of_fold:
        models = "one model that has" if picture.models == 1 else f"{picture.models} models that have"
        source = f"Attention and prediction: {models} never seen this patient (out of fold)."
    else:
        source = (
            f"Attention and prediction: all {picture.models} models of the run; the slide was not in their training."
        )
    return f"Slide {picture.image_id}   |   predicted {probs}   |   {label}", source


def _draw_scale_bar(pen: ImageDraw.ImageDraw, place: tuple[int, int], um_per_px: float, width_px: int) -> None:
    length_um = scale_bar(um_per_px * width_px)
    name = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} \N{MICRO SIGN}m"
    x, y = place
    end = x + round(length_um / um_per_px)
    pen.line((x, y, end, y), INK, 4)
    pen.text((end + 10, y), name, INK, _font(14), anchor="lm")


def _draw_legend(canvas: Image.Image, pen: ImageDraw.ImageDraw, top: int, height: int) -> None:
    """Draw the colours of the percentiles, with the opacity they have over grey tissue."""
    height = min(height, 420)
    rank_H11 = np.linspace(1, 0, height)[:, None, None]
    bar = np.broadcast_to(_blend(np.full((height, 1, 3), 170.0), rank_H11), (height, 22, 3))
    x = WIDTH - LEGEND
    canvas.paste(Image.fromarray(np.ascontiguousarray(np.rint(bar).astype(np.uint8))), (x, top))
    for percent in (0, 25, 50, 75, 100):
        y = top + round((height - 1) * (1 - percent / 100))
        pen.line((x + 22, y, x + 27, y), INK, 1)
        pen.text((x + 32, y), f"{percent}", INK, _font(13), anchor="lm")
    pen.multiline_text((x, top + height + 10), "attention,\npercentile\nin this slide", SOFT, _font(13), spacing=3)


def _draw_tiles(canvas: Image.Image, pen: ImageDraw.ImageDraw, picture: SlidePicture, top: int, side: int) -> None:
    caption = "Tiles with the highest attention, and how many times the slide's mean it is"
    pen.text((MARGIN, top - LINE - 4), caption, INK, _font(15, bold=True))
    n_tiles = len(picture.attention_N)
    for i, (tile, position) in enumerate(zip(picture.top_tiles_KHWC, picture.top_N, strict=True)):
        x = MARGIN + i * (side + 8)
        row, column = picture.tiles_yx[position]
        text = f"{picture.attention_N[position] * n_tiles:.1f}\N{MULTIPLICATION SIGN}  row {row}, col {column}"
        pen.text((x, top), text, SOFT, _font(12))
        shown = Image.fromarray(np.ascontiguousarray(tile)).resize((side, side), Image.Resampling.BICUBIC)
        canvas.paste(shown, (x, top + LINE))


def save_picture(picture: SlidePicture, target: Path, stamp: str) -> None:
    """Write the PNG with its recipe hash inside."""
    buffer, notes = io.BytesIO(), PngImagePlugin.PngInfo()
    notes.add_text("Software", "gigamil")
    notes.add_text(STAMP, stamp)
    draw(picture).save(buffer, "PNG", pnginfo=notes, compress_level=4)
    write_bytes(target, buffer.getvalue())


def read_stamp(path: Path) -> str | None:
    """Return the recipe hash inside a PNG of ours, None in any other file."""
    try:
        with Image.open(path) as image:
            found = image.info.get(STAMP)
    except OSError:
        return None
    return found if isinstance(found, str) else None
