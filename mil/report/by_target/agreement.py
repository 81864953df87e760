"""The section on values: agreement, calibration, errors by range, and intervals that keep their promise."""

from collections.abc import Sequence

import numpy as np

from mil.evaluation.bootstrap import draw_groups
from mil.evaluation.by_target.agreement import Pairs, agreement, intervals_held
from mil.report.by_target.shown import Cell, Shown, Table, estimated, said
from mil.targets.metrics import percentile_interval
from mil.targets.plot import Line, Plot
from wsi.arrays import Floats
from wsi.pages import number
from wsi.recipe import Json

BINS = 5
CURVE_DRAWS = 500
ASKED = {
    "bias": "mean difference",
    "lower_limit": "lower limit of agreement",
    "upper_limit": "upper limit of agreement",
    "mean_absolute_error": "mean absolute error",
    "root_mean_squared_error": "root mean squared error",
    "concordance_correlation": "concordance correlation (Lin)",
    "slope": "calibration slope",
    "intercept": "calibration intercept",
    "spread_and_size": "rank correlation of the size of the difference with the value",
}


def shown_agreement(pairs: Pairs, reaches: dict[float, Floats], by_whom: str, unit: str) -> Shown:
    """Return tables and figures; ``reaches``: of the intervals, by the promise; ``by_whom``: who gave them."""
    found = agreement(pairs, intervals_held(pairs, reaches))
    tables = [_agreement_table(found, pairs, unit), _range_table(found["ranges"], unit)]
    tables.append(_interval_table(found["intervals"], by_whom, unit))
    plots = [_bland_altman(pairs, found, unit), _calibration(pairs, found, unit)]
    return Shown(title="Agreement", lead=_lead(found, unit), tables=tables, plots=plots, told=found)


def _lead(found: Json, unit: str) -> str:
    low, high = (number(found[name]["value"], ".4g") for name in ("lower_limit", "upper_limit"))
    bias = found["bias"]
    off = "too high" if (bias["low"] or 0) > 0 else "too low" if (bias["high"] or 0) < 0 else "not shown to be off"
    return (
        f"Of 20 {unit}s about 19 are predicted between {low} and {high} off the true value; on average they are "
        f"{off} ({number(bias['value'], '+.4g')}, 95 % interval {number(bias['low'], '+.4g')} to "
        f"{number(bias['high'], '+.4g')})."
    )


def _agreement_table(found: Json, pairs: Pairs, unit: str) -> Table:
    folds = len(np.unique(pairs.folds_N)) > 1
    return Table(
        name="Agreement",
        caption="Differences are predicted less true, in the value's unit; limits of agreement after Bland and Altman, "
        "between which 95 % of normally distributed differences lie. Calibration: the true over the predicted value "
        "(slope 1 and intercept 0 are perfect; a slope below 1: predictions lie too far apart)"
        f"{', within folds' * folds}. A rank correlation above 0: differences grow with the value, and the limits are "
        f"too wide for low and too narrow for high ones. Intervals are 95 %, "
        f"{'patients' if unit == 'slide' else unit + 's'} resampled.",
        head=("asked", "found"),
        rows=[(Cell(text), estimated(found[name], ".4g")) for name, text in ASKED.items()],
    )


def _range_table(rows: Sequence[Json], unit: str) -> Table:
    return Table(
        name="Errors by range",
        caption=f"{unit.capitalize()}s by quarters of the true value. What a model cannot know it tells near the mean: "
        "low values then come out too high, and high ones too low.",
        head=("true value", f"{unit}s", "mean difference", "mean absolute error"),
        rows=[
            (
                Cell(f"{row['from']:.4g} to {row['to']:.4g}"),
                Cell(str(row["patients"])),
                estimated(row["bias"], "+.4g"),
                estimated(row["mean_absolute_error"], ".4g"),
            )
            for row in rows
        ],
    )


def _interval_table(rows: Sequence[Json], by_whom: str, unit: str) -> Table:
    return Table(
        name="Intervals of single values",
        caption=f"Around each prediction so far that the true value of a new {unit} lies within as often as promised; "
        f"the distance is chosen on {by_whom}. A dash: too few to promise it.",
        head=("promised", "held", "distance, up and down"),
        rows=[
            (
                Cell(f"{row['promised'] * 100:.0f} %"),
                estimated(row["held"], ".2f") if row["reach"] is not None else said(None),
                said(row["reach"], ".4g"),
            )
            for row in rows
        ],
    )


def _bland_altman(pairs: Pairs, found: Json, unit: str) -> Plot:
    middle_N = (pairs.true_N + pairs.told_N) / 2
    ends = np.array([middle_N.min(), middle_N.max()])

    def levels(text: str, *names: str) -> Line:
        """Return one line of several levels, parted by gaps."""
        own = [found[name] for name in names]
        x = [at for _ in own for at in (*ends, np.nan)]
        y, low, high = (
            [at for one in own for at in (one[part], one[part], np.nan)] for part in ("value", "low", "high")
        )
        return Line(text, np.array(x), np.array(y, np.float64), band_2N=np.array([low, high], np.float64))

    top = float(np.abs([*pairs.off_N, found["lower_limit"]["low"], found["upper_limit"]["high"]]).max())
    return Plot(
        lines=(
            Line("", middle_N, pairs.off_N, "dots"),
            levels("mean", "bias"),
            levels("limits of agreement", "upper_limit", "lower_limit"),
        ),
        x_label="mean of predicted and true value",
        y_label="predicted less true value",
        alt="Difference of predicted and true value over their mean, with its mean and the limits of agreement",
        caption=f"Bland-Altman: each dot is a {unit}. Lines: the mean difference and the limits of agreement, with 95 "
        "% intervals.",
        legend="upper left",
        y_range=(-1.1 * top, 1.6 * top),
    )


def _calibration(pairs: Pairs, found: Json, unit: str) -> Plot:
    draws_BN, rows = draw_groups(pairs.groups, pairs.seed, CURVE_DRAWS), []
    for part in np.array_split(np.argsort(pairs.told_N, kind="stable"), BINS):
        weights_BK = draws_BN[:, part]
        total_B = weights_BK.sum(axis=1)
        means_B = (weights_BK @ pairs.true_N[part])[total_B > 0] / total_B[total_B > 0]
        mean = float(pairs.true_N[part].mean())
        low, high = percentile_interval(means_B)
        rows.append([float(pairs.told_N[part].mean()), mean, mean - low, high - mean])
    predicted, observed, down, up = np.array(rows).T
    lines = [Line("groups", predicted, observed, "bars", np.maximum(np.stack([down, up]), 0))]
    slope, intercept = found["slope"]["value"], found["intercept"]["value"]
    if slope is not None:
        ends = np.array([pairs.told_N.min(), pairs.told_N.max()])
        lines.append(Line(f"slope {slope:.2f}", ends, intercept + slope * ends))
    return Plot(
        lines=tuple(lines),
        x_label="predicted value",
        y_label="true value, mean",
        alt="Mean true value over the predicted value, in groups, with the line of the calibration slope",
        caption=f"Calibration: on the dashed line, {unit}s told a value have it on average. {BINS} groups of equally "
        f"many {unit}s, by prediction; bars are 95 % intervals.",
        legend="upper left",
        diagonal=True,
    )
