"""The report's figures, as SVG data URIs: they print sharp, need no other file, and are dark where the page is.

Lines differ by dash as well as by hue: nobody has to tell colours apart, and neither has a grey printer.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mil.targets.plot import Line, Plot
from wsi.pages import data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY = "#1c2025", "#767c83"
COLOURS = ("#0b5fa5", "#b8440d", "#00795b", "#9a4d81", "#806204", "#3c3c3d")
DASHES: Any = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (7, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 3)))
MARKERS = "osD^vP"
_ON_DARK = ("#e4e7ea", "#99a1a9", "#6cb2f2", "#ff9a62", "#3fcf9f", "#e39fcb", "#dcb84a", "#c9cdd1")
_DARK = dict(zip((INK, GREY, *COLOURS), _ON_DARK, strict=True))
"""What each colour becomes where the page is dark."""
PAD_PT = 3.0
"""Around what is drawn."""
_RC: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "gigamil",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
}


def svg_uri(figure: "Figure") -> str:
    """Return the figure as an SVG data URI; the same figure gives the same text."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(_RC):
        _make_room(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return data_uri(_with_dark(buffer.getvalue().decode()).encode(), "svg+xml")


def _make_room(figure: "Figure") -> None:
    """Give the labels the room they need: measured once, where matplotlib's layout engines draw all of it twice."""
    from matplotlib.transforms import Bbox

    (axes,), whole, pad = figure.axes, figure.bbox, PAD_PT / 72 * figure.dpi
    legend = axes.get_legend()
    beside = [] if legend is None else [legend]
    boxes = [artist.get_tightbbox() for artist in (axes.xaxis, axes.yaxis, *axes.texts, *beside)]
    inner, room = axes.bbox, Bbox.union([axes.bbox, *(box for box in boxes if box is not None)])
    figure.subplots_adjust(
        left=(inner.x0 - room.x0 + pad) / whole.width,
        right=1 - (room.x1 - inner.x1 + pad) / whole.width,
        bottom=(inner.y0 - room.y0 + pad) / whole.height,
        top=1 - (room.y1 - inner.y1 + pad) / whole.height,
    )


def _with_dark(svg: str) -> str:
    """Return the picture with its colours as variables, that are others on a dark screen."""
    names = {colour: f"--c{number}" for number, colour in enumerate(_DARK)}
    for colour, name in names.items():
        svg = svg.replace(colour, f"var({name})")
    light, dark = (
        ";".join(f"{name}:{of[colour]}" for colour, name in names.items()) for of in ({c: c for c in _DARK}, _DARK)
    )
    style = f"<style>:root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    return svg.replace("<defs>", f"{style}<defs>", 1)


def _axes(width_in: float, height_in: float) -> "tuple[Figure, Axes]":
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=(width_in, height_in))
        return figure, figure.add_subplot()


def _look(number: int) -> dict[str, Any]:
    """Return hue and dash of a line: no two of 36 have both."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[(number + number // len(COLOURS)) % len(DASHES)],
        "marker": "",
    }


def plot_figure(plot: Plot) -> str:
    """Draw what a target shows."""
    named = sum(bool(line.name) for line in plot.lines)
    over = plot.legend is not None and named > 1  # above the axes: beside few curves there is room, beside many none
    figure, axes = _axes(3.6, 3.6 + over * 0.165 * named)
    if plot.diagonal:
        values = np.concatenate([own for line in plot.lines for own in (line.x_N, line.y_N)])
        ends = [0.0, 1.0] if plot.shares else [float(values.min()), float(values.max())]
        axes.plot(ends, ends, color=GREY, lw=0.8, ls="--")
    for number, line in enumerate(plot.lines):
        _draw_line(axes, line, {**_look(number), "label": line.name or None, "lw": 1.4 if number else 2.2}, number)
    axes.set(xlabel=plot.x_label, ylabel=plot.y_label)
    if plot.shares:
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if plot.y_range is not None:
        axes.set(ylim=plot.y_range)
    if plot.legend is not None:
        place: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1)} if over else {"loc": plot.legend}
        for text in axes.legend(**place, fontsize=8, handlelength=3.4, frameon=False).get_texts():
            text.set_parse_math(False)
    _write_followed(axes, [line for line in plot.lines if line.until_P is not None])
    return svg_uri(figure)


def _draw_line(axes: "Axes", line: Line, look: dict[str, Any], number: int) -> None:
    if line.how == "bars":
        axes.errorbar(line.x_N, line.y_N, line.reach_2N, **{**look, "marker": MARKERS[number % 6], "ms": 4}, capsize=2)
    elif line.how == "dots":
        axes.plot(line.x_N, line.y_N, **{**look, "marker": "o", "linestyle": ""}, ms=3.5, alpha=0.7, mew=0)
    elif line.how == "steps":
        axes.step(line.x_N, line.y_N, where="post", **look)
        axes.set(xlim=(0, None), ylim=(0, 1.02))
    else:
        axes.plot(line.x_N, line.y_N, **look)
    if line.band_2N is not None:
        step: Any = "post" if line.how == "steps" else None
        low_N, high_N = line.band_2N
        axes.fill_between(line.x_N, low_N, high_N, step=step, color=look["color"], alpha=0.15, lw=0)
    if line.marks_P is not None:
        at = np.searchsorted(line.x_N, line.marks_P, side="right") - 1
        axes.plot(line.marks_P, line.y_N[at], "|", color=look["color"], ms=5, mew=0.8)


def _write_followed(axes: "Axes", lines: Sequence[Line]) -> None:
    """Write beneath the axis how many of each line's patients were still followed at its ticks."""
    if not lines:
        return
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    axes.set_xticks(ticks)

    def write(x: float, line_down: int, text: str, **look: Any) -> None:
        place: Any = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "va": "top", "fontsize": 8}
        axes.annotate(text, (x, 0), (0, -36 - 13 * line_down), **place, **look).set_parse_math(False)

    write(low, 0, "still followed", ha="left", style="italic")
    for row, line in enumerate(lines, 1):
        write(low - 0.05 * (high - low), row, line.name, ha="right")
        for tick in ticks:
            count = int((line.until_P >= tick).sum()) if line.until_P is not None else 0
            write(tick, row, str(count), ha="center")


def history_figures(
    histories: Sequence[Sequence[Mapping[str, float]]], folds: Sequence[int], loss: str, n_classes: int
) -> list[str]:
    """Draw training, then inner validation loss of every model over the epochs, and of classes the loss of a guess.

    Of models without inner validation patients the first alone.
    """
    keys = [key for key in ("train_loss", "val_loss") if all(key in row for rows in histories for row in rows)]
    highest = max(row[key] for rows in histories for row in rows for key in keys)
    drawn = []
    for key in keys:
        figure, axes = _axes(3.6, 2.9)
        for rows, fold in zip(histories, folds, strict=True):
            look, named = _look(fold), axes.get_legend_handles_labels()[1]
            label = None if f"fold {fold}" in named else f"fold {fold}"
            axes.plot([row["epoch"] for row in rows], [row[key] for row in rows], **look, lw=1.2, label=label)
            if key == "val_loss":
                best = min(rows, key=lambda row: row["val_loss"])
                axes.plot(best["epoch"], best[key], MARKERS[fold % len(MARKERS)], color=look["color"], ms=5)
        if n_classes:
            axes.axhline(np.log(n_classes), color=GREY, lw=0.8, ls="--")
        axes.set(xlabel="epoch", ylim=(0, 1.05 * highest), ylabel=loss)
        axes.legend(loc="upper right", fontsize=7, handlelength=3.4, frameon=False)
        drawn.append(svg_uri(figure))
    return drawn


def compare_figure(found: Mapping[str, Mapping[str, Any]], metric: str, chance: float) -> str:
    """Draw a metric of each run, name by name, with its interval: ``value``, ``low``, ``high``, which may be None."""
    figure, axes = _axes(6.4, 0.7 + 0.32 * len(found))
    axes.axvline(chance, color=GREY, lw=0.8, ls="--")
    for row, own in enumerate(found.values()):
        if own["low"] is not None and own["high"] is not None:
            axes.plot([own["low"], own["high"]], [row, row], color=COLOURS[0], lw=1.6)
        if own["value"] is not None:
            axes.plot(own["value"], row, "o", color=COLOURS[0], ms=5)
    axes.set_yticks(range(len(found)), list(found))
    axes.set(xlabel=metric, ylim=(len(found) - 0.5, -0.5))
    return svg_uri(figure)
