"""What a figure of the report shows, as numbers: `mil.report.figures` draws it, whatever the target."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mil.targets.metrics import one_hot, percentile_interval, roc_curve
from wsi.arrays import Bools, Floats, Ints

BINS = 5
"""Of equal counts, in a calibration curve."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of a figure."""

    name: str
    """In the legend; empty: not there."""
    x_N: Floats
    y_N: Floats
    how: Literal["line", "steps", "dots", "bars"] = "line"
    reach_2N: Floats | None = None
    """Of bars: how far they go down and up."""
    until_P: Floats | None = None
    """Of patients followed over time, when each was last seen: how many still are stands beneath the figure."""
    marks_P: Floats | None = None
    """Where a small stroke stands on steps."""
    band_2N: Floats | None = None
    """Of a line: the lower and the upper end of its interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure, square."""

    lines: tuple[Line, ...]
    x_label: str
    y_label: str
    alt: str
    """What it shows, for who cannot see it."""
    caption: str
    legend: Literal["lower right", "upper left", "upper right"] | None = None
    """In which corner it stands."""
    diagonal: bool = False
    """A dashed line from end to end, on which the two axes are equal."""
    shares: bool = False
    """Both axes are shares from 0 to 1."""
    y_range: tuple[float, float] | None = None
    """Ends of the y axis, where what lies beyond them says nothing."""


def roc_plot(curves: Mapping[str, tuple[Bools, Floats]], area: str, folds_P: Ints, of_one: bool) -> Plot:
    """Return a ROC curve of each name's truth and scores, patients of all folds together.

    ``area`` tells the run's AUC, which compares patients of one fold; ``of_one``: the first curve is the run's own,
    else each is one of its outputs.
    """
    lines = tuple(Line(name, *roc_curve(*own)) for name, own in curves.items())
    areas = [float(np.trapezoid(line.y_N, line.x_N)) for line in lines]
    defined = all(0 < np.sum(true_N) < len(true_N) for true_N, _ in [*curves.values()][: 1 if of_one else None])
    drawn = f"{areas[0] if of_one else np.mean(areas):.2f}" if defined else "not defined"
    whose = "of this run's model is" if of_one else "has a mean over the curves of" if defined else "is"
    folds = f", patients of all folds together; the AUC within folds is {area}" if len(np.unique(folds_P)) > 1 else ""
    return Plot(
        lines=lines,
        x_label="false positive rate",
        y_label="true positive rate",
        alt=f"ROC curves; the area {whose} {drawn}",
        caption=f"ROC: true against false positive rate over all thresholds. The area {whose} {drawn}{folds}. The "
        "dashed line is chance.",
        legend="lower right",
        diagonal=True,
        shares=True,
    )


def calibration_plot(lines: tuple[Line, ...], weighted: bool, moved: str = "") -> Plot:
    """Return predicted against observed shares; ``weighted`` so that classes count equally.

    ``moved``: to which prevalence the probabilities were moved from that for which they are told.
    """
    if weighted:
        holds = (
            "as told, for classes that are equally common: on the dashed line, of patients told 70 %, 70 % have it, "
        )
        holds += "where patients are weighted so that all classes count equally"
    else:
        holds = f"{moved or 'of patients as they are'}: on the dashed line, of patients told 70 %, 70 % have it"
    return Plot(
        lines=lines,
        x_label="predicted probability",
        y_label="observed share" + " (classes weighted equally)" * weighted,
        alt="Predicted probability against observed share of patients" + ", classes weighted equally" * weighted,
        caption=f"Calibration {holds}. {BINS} groups of equally many patients, by probability; bars are 95 % "
        "intervals.",
        legend="upper left",
        diagonal=True,
        shares=True,
    )


def reliability(name: str, true_P: Bools, told_P: Floats, weights_P: Floats, draws_BP: Floats) -> Line:
    """Return, per bin of equal counts, mean prediction and observed share, with its 95 % interval over the draws."""
    hits = true_P.astype(np.float64)
    rows = []
    for part in np.array_split(np.argsort(told_P, kind="stable"), BINS):
        if len(part) == 0:
            continue
        weights_BK = draws_BP[:, part] * weights_P[part]
        total_B = weights_BK.sum(axis=1)
        shares = (weights_BK @ hits[part])[total_B > 0] / total_B[total_B > 0]
        rows.append(
            [*(np.average(v[part], weights=weights_P[part]) for v in (told_P, hits)), *percentile_interval(shares)]
        )
    predicted, observed, low, high = np.array(rows).T
    return Line(name, predicted, observed, "bars", np.abs(np.stack([observed - low, high - observed])))


def balanced(labels_P: Ints, n_classes: int) -> Floats:
    """Return weights (P,) by which classes count equally."""
    member_PC = one_hot(labels_P, n_classes)
    return np.asarray((member_PC / np.maximum(member_PC.sum(axis=0), 1)).sum(axis=1))
