"""The section on survival: groups by risk, and what holds at horizons."""

from collections.abc import Sequence

import numpy as np

from mil.evaluation.by_target.over_time import Told, calibration_at, curves, over_time
from mil.report.by_target.shown import Cell, Shown, Table, estimated, said
from mil.targets.plot import Line, Plot
from wsi.pages import number
from wsi.recipe import Json

SMALLEST_P = 1e-4
_CROSSED = (
    " Test, ratio and slope compare patients of one fold; the test is corrected for models that test each other's "
    "patients."
)


def shown_over_time(told: Told, horizons: Sequence[float], baseline: str, unit: str) -> Shown:
    """Return tables and figures; ``baseline``: of whom the baseline hazard is, ``unit``: who is judged."""
    found = over_time(told, horizons)
    tables = [_risk_table(found, told, unit)]
    if found["horizons"]:
        tables.append(_horizon_table(found["horizons"], baseline, unit))
    plots = [*_plots_over_time(told), *_calibration_plots(told, found["horizons"], baseline, unit)]
    return Shown(title="Over time", lead=_lead(found, unit), tables=tables, plots=plots, told=found)


def p_text(p: float | None) -> str:
    """Return a p for a reader."""
    if p is None:
        return number(None)
    return f"< {SMALLEST_P:g}" if p < SMALLEST_P else number(p, ".2g" if p < 0.1 else ".2f")


def _lead(found: Json, unit: str) -> str:
    groups, p = found["groups"], found["groups"]["p"]
    if p is None:
        return f"All {unit}s of a fold stand on one side of the cut: higher and lower risk cannot be compared."
    parted = "differ" if p < 0.05 else "are not shown to differ"
    away = [f"{at:g}" for at in found["beyond"]]
    later = f" Nobody was followed beyond {', '.join(away)}: nothing is said there." if away else ""
    return (
        f"Those told a higher and those told a lower risk {parted} in their time to the event (log-rank test, "
        f"p {p_text(p) if p < SMALLEST_P else '= ' + p_text(p)}, {groups['higher']} {unit}s of higher risk).{later}"
    )


def _risk_table(found: Json, told: Told, unit: str) -> Table:
    groups, clustered = found["groups"], told.clustered
    folds = len(np.unique(told.known.folds_N)) > 1
    rows = [
        (Cell("log-rank test, p"), Cell(p_text(groups["p"]))),
        (Cell("hazard ratio, higher against lower risk"), estimated(groups["hazard_ratio"], ".2f")),
        (Cell("calibration slope of the log risk"), estimated(found["slope"], ".2f")),
    ]
    return Table(
        name="Risk",
        caption="The cut between higher and lower risk is the median of the patients on whom each model was validated "
        "inside its training: nobody who is judged here took part in it, and it was not chosen by outcome."
        + (_CROSSED if folds else "")
        + " Slope: the hazard over the log risk (1 is perfect; below: risks are told too far apart; above: not far "
        "enough)." + f" The test sums what it has of a patient's {unit}s before it squares it." * clustered,
        head=("asked", "found"),
        rows=rows,
    )


def _horizon_table(horizons: Sequence[Json], baseline: str, unit: str) -> Table:
    names = (
        "events by then",
        "followed beyond",
        "AUC",
        "Brier score",
        "less than without looking",
        "share with the event",
    )
    rows = [
        (
            Cell(f"{own['at']:g}"),
            Cell(str(own["events"])),
            Cell(str(own["followed"])),
            estimated(own["auc"], ".2f"),
            estimated(own["brier"]),
            estimated(own["brier_gain"], ".2f"),
            estimated(own["observed"], ".2f"),
            said(own["predicted"], ".2f"),
            estimated(own["observed_over_predicted"], ".2f"),
        )
        for own in horizons
    ]
    return Table(
        name="Horizons",
        caption=f"At each time: AUC of {unit}s with the event by then against those still without; Brier score of the "
        "predicted share without the event, and how much of the error of saying the same of everybody it takes away; "
        "the share with the event (Kaplan-Meier), the mean predicted one, and the one over the other (1 is perfect). "
        "Who was lost before counts by those who were not (inverse probability of censoring). Predicted shares: the "
        f"log risk and {baseline}.",
        head=("time", *names, "predicted", "observed / predicted"),
        rows=rows,
    )


def _plots_over_time(told: Told) -> list[Plot]:
    found = curves(told)
    if found is None:
        return []
    at_T = found.at_T
    return [
        Plot(
            lines=(
                Line("this model", at_T, found.auc_T, band_2N=found.auc_2T),
                Line("chance", at_T, np.full(len(at_T), 0.5)),
            ),
            x_label="time",
            y_label="AUC",
            alt="AUC of patients with the event by a time against those without, over time",
            caption="How well risks tell those with the event by a time from those still without, from the first to "
            "the last tenth of the events. The band is a 95 % interval, time by time.",
            legend="lower right",
            y_range=(0.0, 1.02),
        ),
        Plot(
            lines=(
                Line("this model", at_T, found.brier_T, band_2N=found.brier_2T),
                Line("the same for all", at_T, found.blind_T),
            ),
            x_label="time",
            y_label="Brier score",
            alt="Brier score over time, of this model and of saying the same of everybody",
            caption="Squared error of the predicted share without the event over time. The model helps where its line "
            "is below the other, which says the same of everybody. The band is a 95 % interval, time by time.",
            legend="upper left",
            y_range=(0.0, 1.45 * float(max(found.brier_2T[1].max(), found.blind_T.max()))),
        ),
    ]


def _calibration_plots(told: Told, horizons: Sequence[Json], baseline: str, unit: str) -> list[Plot]:
    lines = []
    for own in horizons:
        found = calibration_at(told, own["at"])
        if len(found.predicted_K):
            name = f"by {own['at']:g}"
            lines.append(Line(name, found.predicted_K, found.observed_K, "bars", found.reach_2K))
    if not lines:
        return []
    return [
        Plot(
            lines=tuple(lines),
            x_label="predicted share with the event",
            y_label="observed share (Kaplan-Meier)",
            alt="Predicted against observed share with the event by each horizon",
            caption=f"Calibration: on the dashed line, of {unit}s told 70 %, 70 % have the event by then. Up to four "
            f"groups of equally many {unit}s, by what was predicted from the log risk and {baseline}; bars are "
            "95 % intervals.",
            legend="upper left",
            diagonal=True,
            shares=True,
        )
    ]
