"""The report's figures, as SVG data URIs: they print sharp and need no other file."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mil.evaluation.bootstrap import percentile_interval
from mil.targets.metrics import Floats, Ints, one_hot, roc_curve

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


def data_uri(figure: "Figure") -> str:
    """Return the figure as an SVG data URI; the same figure gives the same text."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(_RC):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _square(size_in: float = 3.6) -> "tuple[Figure, Axes]":
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=(size_in, size_in), layout="constrained")
        return figure, figure.add_subplot()


def roc_figure(labels_P: Ints, models: Mapping[str, Floats], classes: Sequence[str]) -> str:
    """Draw the ROC curve of each model; with more than two classes one curve per class of the first model."""
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--")
    if len(classes) == 2:
        curves = {name: roc_curve(labels_P == 1, probs[:, 1]) for name, probs in models.items()}
    else:
        first = next(iter(models.values()))
        curves = {name: roc_curve(labels_P == c, first[:, c]) for c, name in enumerate(classes)}
    for (name, (false, true)), colour in zip(curves.items(), COLOURS, strict=False):
        axes.plot(false, true, color=colour, lw=2.2 if colour == COLOURS[0] else 1.2, label=name)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for text in axes.legend(loc="lower right", fontsize=8).get_texts():
        text.set_parse_math(False)
    return data_uri(figure)


def calibration_figure(labels_P: Ints, probs_PC: Floats, classes: Sequence[str], draws_BP: Floats) -> str:
    """Draw predicted against observed class probability in bins of equal counts, with 95 % intervals."""
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--")
    wanted = [1] if len(classes) == 2 else list(range(len(classes)))
    for c, colour in zip(wanted, COLOURS, strict=False):
        predicted, observed, low, high = reliability(labels_P, probs_PC, c, draws_BP)
        reach = np.abs(np.stack([observed - low, high - observed]))
        axes.errorbar(predicted, observed, reach, fmt="o-", color=colour, ms=4, lw=1.4, capsize=2, label=classes[c])
    axes.set(xlabel="predicted probability", ylabel="observed share (classes weighted equally)")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for text in axes.legend(loc="upper left", fontsize=8).get_texts():
        text.set_parse_math(False)
    return data_uri(figure)


def reliability(
    labels_P: Ints, probs_PC: Floats, positive: int, draws_BP: Floats, n_bins: int = 5
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return per bin of equal counts: mean prediction, observed share, and its 95 % interval over the draws.

    Patients are weighted so that classes count equally.
    """
    member_PC = one_hot(labels_P, probs_PC.shape[1])
    balanced_P = (member_PC / np.maximum(member_PC.sum(axis=0), 1)).sum(axis=1)
    scores, hits = probs_PC[:, positive], (labels_P == positive).astype(np.float64)
    bins = [part for part in np.array_split(np.argsort(scores, kind="stable"), n_bins) if len(part)]
    rows = []
    for part in bins:
        weights_BK = draws_BP[:, part] * balanced_P[part]
        total_B = weights_BK.sum(axis=1)
        shares = (weights_BK @ hits[part])[total_B > 0] / total_B[total_B > 0]
        low, high = percentile_interval(shares)
        rows.append([*(np.average(v[part], weights=balanced_P[part]) for v in (scores, hits)), low, high])
    table = np.array(rows)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def history_figure(histories: Sequence[Sequence[Mapping[str, float]]], folds: Sequence[int]) -> str:
    """Draw training and inner validation loss of every model over the epochs."""
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
        axes.axhline(np.log(2), color=GREY, lw=0.8, ls="--")
        axes.set(xlabel="epoch", ylim=(0, None))
    left.set(title="training", ylabel="weighted log loss")
    right.set(title="inner validation (dot: the epoch kept)")
    handles, names = left.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    left.legend(unique.values(), unique.keys(), fontsize=7)
    return data_uri(figure)


def compare_figure(areas: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw the area of each run, name by name, with its interval: ``value``, ``low``, ``high``, which may be None."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_RC):
        figure = Figure(figsize=(6.4, 0.7 + 0.32 * len(areas)), layout="constrained")
        axes = figure.add_subplot()
    axes.axvline(0.5, color=GREY, lw=0.8, ls="--")
    for row, found in enumerate(areas.values()):
        if found["low"] is not None and found["high"] is not None:
            axes.plot([found["low"], found["high"]], [row, row], color=COLOURS[0], lw=1.6)
        if found["value"] is not None:
            axes.plot(found["value"], row, "o", color=COLOURS[0], ms=5)
    axes.set_yticks(range(len(areas)), list(areas))
    axes.set(xlabel="AUC", ylim=(len(areas) - 0.5, -0.5))
    return data_uri(figure)


def value_figure(true_P: Floats, told_P: Floats) -> str:
    """Draw predicted against true values, a dot for each patient."""
    figure, axes = _square()
    ends = [float(min(true_P.min(), told_P.min())), float(max(true_P.max(), told_P.max()))]
    axes.plot(ends, ends, color=GREY, lw=0.8, ls="--")
    axes.plot(true_P, told_P, "o", color=COLOURS[0], ms=3.5, alpha=0.7, mew=0)
    axes.set(xlabel="true value", ylabel="predicted value")
    return data_uri(figure)


def survival_figure(times_P: Floats, events_P: Any, risks_P: Floats) -> str:
    """Draw Kaplan-Meier curves of the halves of higher and of lower risk."""
    figure, axes = _square()
    high_P = risks_P > np.median(risks_P)
    for chosen_P, name, colour in ((high_P, "higher risk", COLOURS[1]), (~high_P, "lower risk", COLOURS[0])):
        times, without = kaplan_meier(times_P[chosen_P], events_P[chosen_P])
        axes.step(times, without, where="post", color=colour, label=f"{name} ({int(chosen_P.sum())})")
    axes.set(xlabel="time", ylabel="share without the event", ylim=(0, 1.02))
    axes.legend(loc="upper right")
    return data_uri(figure)


def kaplan_meier(times_P: Floats, events_P: Any) -> tuple[Floats, Floats]:
    """Return times, from 0, and the share without the event from each on. Source: Kaplan and Meier 1958."""
    times = np.unique(times_P[events_P])
    left = [1 - (events_P & (times_P == time)).sum() / (times_P >= time).sum() for time in times]
    end = [float(times_P.max())] if len(times_P) else []
    shares = np.concatenate([[1.0], np.cumprod(left)])
    return np.concatenate([[0.0], times, end]), np.concatenate([shares, shares[-1:] if end else []])
