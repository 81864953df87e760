"""The report's figures, as SVG data URIs: they print sharp and need no other file."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mil.targets.plot import Plot
from wsi.pages import data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0b5fa5", "#d1495b", "#7a9e3a", "#8a6bb1", "#c98a1b", "#5b5b5b")
GREY = "#8c8c8c"
_RC: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "gigamil",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.edgecolor": "#555555",
    "legend.frameon": False,
}


def svg_uri(figure: "Figure") -> str:
    """Return the figure as an SVG data URI; the same figure gives the same text."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(_RC):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return data_uri(buffer.getvalue(), "svg+xml")


def _square(size_in: float = 3.6) -> "tuple[Figure, Axes]":
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=(size_in, size_in), layout="constrained")
        return figure, figure.add_subplot()


def plot_figure(plot: Plot) -> str:
    """Draw what a target shows."""
    figure, axes = _square()
    if plot.diagonal:
        values = np.concatenate([own for line in plot.lines for own in (line.x_N, line.y_N)])
        ends = [0.0, 1.0] if plot.shares else [float(values.min()), float(values.max())]
        axes.plot(ends, ends, color=GREY, lw=0.8, ls="--")
    for line, colour in zip(plot.lines, COLOURS, strict=False):
        look: Any = {"color": colour, "label": line.name or None}
        if line.how == "bars":
            axes.errorbar(line.x_N, line.y_N, line.reach_2N, fmt="o-", ms=4, lw=1.4, capsize=2, **look)
        elif line.how == "dots":
            axes.plot(line.x_N, line.y_N, "o", ms=3.5, alpha=0.7, mew=0, **look)
        elif line.how == "steps":
            axes.step(line.x_N, line.y_N, where="post", **look)
        else:
            axes.plot(line.x_N, line.y_N, lw=2.2 if colour == COLOURS[0] else 1.2, **look)
    axes.set(xlabel=plot.x_label, ylabel=plot.y_label)
    if plot.shares:
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if plot.legend is not None:
        for text in axes.legend(loc=plot.legend, fontsize=8).get_texts():
            text.set_parse_math(False)
    return svg_uri(figure)


def history_figure(
    histories: Sequence[Sequence[Mapping[str, float]]], folds: Sequence[int], loss: str, n_classes: int
) -> str:
    """Draw training and inner validation loss of every model over the epochs, and of classes the loss of a guess."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=(7.4, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
    for rows, fold in zip(histories, folds, strict=True):
        colour = COLOURS[fold % len(COLOURS)]
        epochs = [row["epoch"] for row in rows]
        left.plot(epochs, [row["train_loss"] for row in rows], color=colour, lw=1.2, label=f"fold {fold}")
        right.plot(epochs, [row["val_loss"] for row in rows], color=colour, lw=1.2)
        best = min(rows, key=lambda row: row["val_loss"])
        right.plot(best["epoch"], best["val_loss"], "o", color=colour, ms=5)
    for axes in (left, right):
        if n_classes:
            axes.axhline(np.log(n_classes), color=GREY, lw=0.8, ls="--")
        axes.set(xlabel="epoch", ylim=(0, None))
    left.set(title="training", ylabel=loss)
    right.set(title="inner validation (dot: the epoch kept)")
    handles, names = left.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    left.legend(unique.values(), unique.keys(), fontsize=7)
    return svg_uri(figure)


def compare_figure(found: Mapping[str, Mapping[str, Any]], metric: str, chance: float) -> str:
    """Draw a metric of each run, name by name, with its interval: ``value``, ``low``, ``high``, which may be None."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=(6.4, 0.7 + 0.32 * len(found)), layout="constrained")
        axes = figure.add_subplot()
    axes.axvline(chance, color=GREY, lw=0.8, ls="--")
    for row, own in enumerate(found.values()):
        if own["low"] is not None and own["high"] is not None:
            axes.plot([own["low"], own["high"]], [row, row], color=COLOURS[0], lw=1.6)
        if own["value"] is not None:
            axes.plot(own["value"], row, "o", color=COLOURS[0], ms=5)
    axes.set_yticks(range(len(found)), list(found))
    axes.set(xlabel=metric, ylim=(len(found) - 0.5, -0.5))
    return svg_uri(figure)
