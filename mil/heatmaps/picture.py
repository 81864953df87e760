"""The picture of one slide: overview, maps over it, the numbered tiles that stand out, scale bars and legends."""

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from mil.heatmaps.layers import TOP_TILES, Layer
from mil.heatmaps.tile_scores import TileScores
from wsi.arrays import RGB, FloatImage, Floats
from wsi.files.atomic import write_bytes
from wsi.store.tile_store import TileStore

STAMP = "gigamil-recipe"
PANEL, MARGIN, LEGEND, LINE = 619, 24, 120, 22
"""Pixels: the width of a panel, the space around, the width of a legend, the height of a line of text."""
TALLEST = 1100
"""Largest height of a panel."""
INK, SOFT = (28, 32, 36), (91, 101, 112)
_OVERVIEW_PX = 2048
_GAP = 8
_LEAST_MARK_PX = 9
_MOST_NAMED = 4
"""Outputs told in the title."""
_IN_TILE = 0.45
"""Most of a tile's width that its scale bar takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidePicture:
    """Everything that the picture of one slide shows."""

    scores: TileScores
    layers: tuple[Layer, ...]
    shares: bool
    """Whether the outputs are probabilities."""
    overview_HWC: RGB
    overview_mpp: float
    """um per overview pixel."""
    tile_um: float
    """Side of a tile."""
    tile_share: Floats
    """(2,) side of a tile as a share of the overview's height and width."""
    top_tiles: tuple[NDArray[np.uint8], ...]
    """Of each layer the pixels of the tiles that stand out, uint8 (k, T, T, 3)."""


def picture_of(scores: TileScores, layers: tuple[Layer, ...], store: TileStore, *, shares: bool) -> SlidePicture:
    """Return the picture of a slide, its pixels read from the store: the overview and the tiles that stand out."""
    overview_HWC = store.overview(_OVERVIEW_PX)
    tops = [store.read_tiles(scores.store_rows_N[layer.top_N]).transpose(0, 2, 3, 1) for layer in layers]
    return SlidePicture(
        scores=scores,
        layers=layers,
        shares=shares,
        overview_HWC=overview_HWC,
        overview_mpp=float(store.mpp * store.shape_yx[1] / overview_HWC.shape[1]),
        tile_um=store.tile_px * store.mpp,
        tile_share=store.tile_px / np.array(store.shape_yx, np.float64),
        top_tiles=tuple(tops),
    )


def paint(
    pixels_HWC: RGB, tiles_yx: NDArray[np.int32], layer: Layer, tile_yx: Floats, start_yx: Floats | None = None
) -> RGB:
    """Return the pixels with a layer over them, uint8 (H, W, 3); tiles that are not coloured stay as they are.

    Parameters
    ----------
    pixels_HWC
        A picture of the slide or a part of it, at any scale.
    tiles_yx
        (N, 2) row and column of each tile.
    layer
        What is laid over it.
    tile_yx
        (2,) sides of a tile in these pixels.
    start_yx
        (2,) where the part begins, in these pixels.
    """
    grid = np.full(tiles_yx.max(axis=0) + 2, np.nan)
    grid[tiles_yx[:, 0], tiles_yx[:, 1]] = layer.place_N
    begin = np.zeros(2) if start_yx is None else start_yx
    rows, columns = (
        np.minimum(((np.arange(side) + 0.5 + first) / tile).astype(int), last - 1)
        for side, first, tile, last in zip(pixels_HWC.shape[:2], begin, tile_yx, grid.shape, strict=True)
    )
    at = rows[:, None], columns
    colour, alpha = (part.astype(np.float32) for part in layer.palette(np.nan_to_num(grid)))  # of tiles, not of pixels
    painted = np.rint(_blend(pixels_HWC.astype(np.float32), colour[at], alpha[at])).astype(np.uint8)
    return np.where(np.isfinite(grid)[at][..., None], painted, pixels_HWC)


def _blend(rgb: FloatImage, colour: FloatImage, alpha: FloatImage) -> FloatImage:
    """Return colours (..., 3) with others over them, of an opacity (..., 1)."""
    under = np.float32(0.4) * rgb + np.float32(0.6) * rgb.mean(axis=-1, keepdims=True)
    return np.asarray(under * (1 - alpha) + colour * alpha)


def scale_bar(width_um: float, most: float = 0.25) -> float:
    """Return the longest of 1, 2, 5 times a power of ten um that spans at most this share of the width."""
    limit = width_um * most
    power = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit))


def tissue_window(picture: SlidePicture) -> tuple[slice, slice]:
    """Return the rows and columns of the overview that hold the listed tiles, with a margin of one tile."""
    shape, tiles_yx = np.array(picture.overview_HWC.shape[:2]), picture.scores.tiles_yx
    size = shape * picture.tile_share
    start = np.maximum(np.floor((tiles_yx.min(axis=0) - 1) * size), 0).astype(int)
    stop = np.minimum(np.ceil((tiles_yx.max(axis=0) + 2) * size), shape).astype(int)
    return slice(start[0], stop[0]), slice(start[1], stop[1])


def draw(picture: SlidePicture) -> Image.Image:
    """Return the picture: title, the slide and its maps two by two, and beneath the tiles that stand out."""
    window = tissue_window(picture)
    sheet = _Sheet(picture, window, _panel(picture.overview_HWC[window]))
    canvas = Image.new("RGB", sheet.size, "white")
    pen = ImageDraw.Draw(canvas)
    title, source = _title(picture)
    pen.text((MARGIN, MARGIN), title, INK, _font(18, bold=True))
    pen.text((MARGIN, MARGIN + LINE + 6), source, SOFT, _font(14))
    for number in range(len(picture.layers) + 1):
        _draw_panel(canvas, pen, sheet, number)
    top = sheet.top_of(sheet.rows) + 8
    for layer, tiles in zip(picture.layers, picture.top_tiles, strict=True):
        if len(tiles):
            _draw_tiles(canvas, pen, picture, layer, tiles, top, sheet)
            top += sheet.strip
    return canvas


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Where everything stands on a picture."""

    picture: SlidePicture
    window: tuple[slice, slice]
    slide: Image.Image
    """The window as it is shown, without anything over it."""

    @property
    def panel(self) -> tuple[int, int]:
        """Width and height of a panel's picture."""
        return self.slide.size

    @property
    def scale(self) -> float:
        """Pixels of a panel per overview pixel."""
        return self.slide.width / (self.window[1].stop - self.window[1].start)

    @property
    def tile_yx(self) -> Floats:
        """Sides of a tile in pixels of a panel."""
        shape = np.array(self.picture.overview_HWC.shape[:2])
        return np.asarray(shape * self.picture.tile_share * self.scale)

    @property
    def start_yx(self) -> Floats:
        """Where the panel begins on the slide, in its own pixels."""
        return np.array([part.start for part in self.window]) * self.scale

    @property
    def rows(self) -> int:
        return (len(self.picture.layers) + 2) // 2

    @property
    def width(self) -> int:
        return 3 * MARGIN + 2 * PANEL + LEGEND * min(2, len(self.picture.layers))

    @property
    def side(self) -> int:
        """Of a tile that stands out."""
        return (self.width - 2 * MARGIN - (TOP_TILES - 1) * _GAP) // TOP_TILES

    @property
    def strip(self) -> int:
        return self.side + 3 * LINE + 4

    def top_of(self, row: int) -> int:
        return MARGIN + 3 * LINE + row * (max(self.panel[1], 200) + 4 * LINE)

    @property
    def size(self) -> tuple[int, int]:
        strips = sum(len(tiles) > 0 for tiles in self.picture.top_tiles)
        return self.width, self.top_of(self.rows) + 8 + strips * self.strip + MARGIN

    def place(self, number: int) -> tuple[int, int]:
        """Return the left and upper edge of a panel's picture."""
        right = MARGIN + PANEL + MARGIN + LEGEND * (number > 1 or len(self.picture.layers) > 1)
        return (right if number % 2 else MARGIN), self.top_of(number // 2) + LINE

    @property
    def um_per_px(self) -> float:
        return self.picture.overview_mpp / self.scale


def _panel(pixels_HWC: RGB) -> Image.Image:
    """Return the pixels scaled to a panel, their aspect kept."""
    height, width = pixels_HWC.shape[:2]
    scale = min(PANEL / width, TALLEST / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(pixels_HWC)).resize(size, method)


def _draw_panel(canvas: Image.Image, pen: ImageDraw.ImageDraw, sheet: _Sheet, number: int) -> None:
    """Draw the slide (0) or a layer with its legend, each with the marks of the tiles that stand out in it."""
    picture, (x, y) = sheet.picture, sheet.place(number)
    layer = picture.layers[number - 1] if number else None
    shown = sheet.slide
    if layer is not None:
        tiles_yx = picture.scores.tiles_yx
        shown = Image.fromarray(paint(np.asarray(shown), tiles_yx, layer, sheet.tile_yx, sheet.start_yx))
    canvas.paste(shown, (x, y))
    pen.text((x, y - LINE), "Slide" if layer is None else layer.title, INK, _font(15, bold=True))
    _draw_marks(pen, sheet, picture.layers[0] if layer is None else layer, (x, y))
    if layer is None:
        length = scale_bar(sheet.um_per_px * sheet.panel[0])
        _draw_scale_bar(pen, (x, y + sheet.panel[1] + 14), length, sheet.um_per_px, INK)
        return
    _draw_legend(canvas, pen, layer, (x + PANEL + 8, y), min(max(sheet.panel[1], 160), 420))
    note = _wrapped(layer.note, _font(13), PANEL + LEGEND)
    pen.multiline_text((x, y + sheet.panel[1] + 6), note, SOFT, _font(13), spacing=3)


def _draw_marks(pen: ImageDraw.ImageDraw, sheet: _Sheet, layer: Layer, place: tuple[int, int]) -> None:
    """Frame the tiles that stand out, the first on top, each with its number."""
    scores, size_yx = sheet.picture.scores, sheet.tile_yx
    for rank in range(len(layer.top_N), 0, -1):
        y, x = scores.tiles_yx[layer.top_N[rank - 1]] * size_yx - sheet.start_yx + np.array(place[::-1])
        half_y, half_x = np.maximum(size_yx, _LEAST_MARK_PX) / 2
        centre_y, centre_x = y + size_yx[0] / 2, x + size_yx[1] / 2
        box = (centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y)
        pen.rectangle(box, outline="white", width=4)
        pen.rectangle(tuple(np.add(box, (1, 1, -1, -1)).tolist()), outline=INK, width=2)
        pen.text((box[0] + 5, box[1] + 3), str(rank), INK, _font(14, bold=True), stroke_width=2, stroke_fill="white")


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text in lines of at most this width."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width or not lines[-1] else [*lines, word]
    return "\n".join(lines)


def _title(picture: SlidePicture) -> tuple[str, str]:
    scores = picture.scores
    told = list(zip(scores.outputs, scores.outputs_C.tolist(), strict=True))
    if len(told) > _MOST_NAMED:
        told = sorted(told, key=lambda one: -one[1])[:_MOST_NAMED]
    said = ", ".join(f"{name} {value:.0%}" if picture.shares else f"{name} {value:.3g}" for name, value in told)
    label = f"labelled {scores.label}" if scores.label else "label not known"
    if scores.out_of_fold:
        models = "one model that has" if scores.models == 1 else f"{scores.models} models that have"
        source = f"By {models} never seen this patient (out of fold)."
    else:
        source = f"By all {scores.models} models of the run; the slide was not in their training."
    return f"Slide {scores.image_id}   |   predicted {said}   |   {label}", source


def _draw_scale_bar(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], length_um: float, um_per_px: float, ink: tuple[int, int, int]
) -> None:
    name = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} \N{MICRO SIGN}m"
    x, y = place
    end = x + round(length_um / um_per_px)
    pen.line((x, y, end, y), ink, 4)
    pen.text((end + 10, y), name, ink, _font(14), anchor="lm")


def _draw_legend(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, layer: Layer, place: tuple[int, int], height: int
) -> None:
    """Draw the colours, with the opacity they have over grey tissue."""
    (x, top), places = place, np.linspace(1, 0, height)[:, None]
    colour, alpha = (part.astype(np.float32) for part in layer.palette(places))
    bar = np.broadcast_to(_blend(np.full((height, 1, 3), 170, np.float32), colour, alpha), (height, 22, 3))
    canvas.paste(Image.fromarray(np.ascontiguousarray(np.rint(bar).astype(np.uint8))), (x, top))
    for at, name in layer.ticks:
        y = top + round((height - 1) * (1 - at))
        pen.line((x + 22, y, x + 27, y), INK, 1)
        pen.text((x + 32, y), name, INK, _font(13), anchor="lm")
    pen.multiline_text((x, top + height + 10), layer.legend, SOFT, _font(13), spacing=3)


def _draw_tiles(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    picture: SlidePicture,
    layer: Layer,
    tiles: NDArray[np.uint8],
    top: int,
    sheet: _Sheet,
) -> None:
    """Draw the tiles that stand out in a layer, each with its number, what it is, and a scale bar."""
    pen.text((MARGIN, top), layer.gallery, INK, _font(15, bold=True))
    side = sheet.side
    um_per_px = picture.tile_um / side
    for i, (tile, said) in enumerate(zip(tiles, layer.top_said, strict=True)):
        x, y = MARGIN + i * (side + _GAP), top + 2 * LINE
        pen.text((x, y - LINE + 4), f"{i + 1}", INK, _font(13, bold=True))
        pen.text((x + 16, y - LINE + 5), said, SOFT, _font(12))
        shown = Image.fromarray(np.ascontiguousarray(tile)).resize((side, side), Image.Resampling.BICUBIC)
        canvas.paste(shown, (x, y))
        pen.rectangle((x, y + side - 24, x + side, y + side), fill="white")
        _draw_scale_bar(pen, (x + 6, y + side - 12), scale_bar(picture.tile_um, _IN_TILE), um_per_px, INK)


def save_picture(picture: SlidePicture, target: Path, stamp: str) -> None:
    """Write the PNG with its recipe hash inside."""
    buffer, notes = io.BytesIO(), PngImagePlugin.PngInfo()
    notes.add_text("Software", "gigamil")
    notes.add_text(STAMP, stamp)
    draw(picture).save(buffer, "PNG", pnginfo=notes, compress_level=2)
    write_bytes(target, buffer.getvalue())


def read_stamp(path: Path) -> str | None:
    """Return the recipe hash inside a PNG of ours, None in any other file."""
    try:
        with Image.open(path) as image:
            found = image.info.get(STAMP)
    except OSError:
        return None
    return found if isinstance(found, str) else None
