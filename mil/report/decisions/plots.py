"""The figures of deciding: calibration at the cohort's prevalence, net benefit, errors against answers given."""

from collections.abc import Sequence

import numpy as np

from mil.evaluation.decisions.decide import curve_of_net_benefit
from mil.evaluation.decisions.net_benefit import CUTS
from mil.evaluation.refusal.abstention import risks
from mil.targets.plot import Line, Plot, calibration_plot, reliability
from mil.targets.questions import Question
from wsi.arrays import Bools, Floats


def plots_of_decisions(questions: Sequence[Question], draws_BP: Floats, prevalence: str) -> list[Plot]:
    """Return the calibration where classes are as frequent as in the cohort, and the net benefit."""
    if not questions:
        return []
    plots = []
    if any(q.balanced for q in questions):
        lines = [
            reliability(
                q.name, q.positive_P[q.known_P], q.real_P[q.known_P], np.ones(q.known_P.sum()), draws_BP[:, q.known_P]
            )
            for q in questions
        ]
        moved = (
            f"at the cohort's prevalence (each probability moved by Bayes' rule to the classes' shares {prevalence})"
        )
        plots.append(calibration_plot(tuple(lines), weighted=False, moved=moved))
    one = questions[0] if len(questions) == 1 else None
    return [*plots, _benefit_of_one(one, draws_BP) if one is not None else _benefits(questions, draws_BP)]


def _benefit_of_one(q: Question, draws_BP: Floats) -> Plot:
    own_T, ends_2T, all_T = curve_of_net_benefit(q, draws_BP)
    top = max(float(ends_2T.max()), float(q.positive_P[q.known_P].mean()))
    return Plot(
        lines=(
            Line("by the model", CUTS, own_T, band_2N=ends_2T),
            Line("act on everybody", CUTS, all_T),
            Line("act on nobody", CUTS, np.zeros(len(CUTS))),
        ),
        x_label=f"probability of {q.name} from which on one acts",
        y_label="net benefit per patient",
        alt=f"Net benefit of acting on {q.name} by the model, on everybody and on nobody, over the probability from "
        "which on one acts",
        caption=f"Decision curve: found patients with {q.name} less false alarms, at the price that the probability "
        "from which on one acts puts on them, by probabilities at the cohort's prevalence. The model helps where its "
        "line is above both others; the band is a 95 % interval.",
        legend="upper right",
        y_range=(-0.25 * top, 1.45 * top),
    )


def _benefits(questions: Sequence[Question], draws_BP: Floats) -> Plot:
    """Return for each question what the model gains beyond acting on everybody or on nobody."""
    lines = []
    for q in questions:
        own_T, _, all_T = curve_of_net_benefit(q, draws_BP)
        lines.append(Line(q.name, CUTS, own_T - np.maximum(all_T, 0.0)))
    top = max(0.02, *(float(line.y_N.max()) for line in lines))
    return Plot(
        lines=tuple(lines),
        x_label="probability from which on one acts",
        y_label="net benefit per patient beyond acting on all or none",
        alt="Net benefit of each output beyond the better of acting on everybody and on nobody",
        caption="Decision curves: what acting by the model gains beyond the better of acting on everybody and on "
        "nobody, for each output, by probabilities at the cohort's prevalence. Above 0 the model helps.",
        legend="upper right",
        y_range=(-top, 1.4 * top),
    )


def plots_of_abstention(wrong_P: Bools, doubt_P: Floats, draws_BP: Floats) -> list[Plot]:
    """Return the share of wrong answers over the share of patients who get one."""
    shares_T = np.linspace(0.2, 1, 81)
    once = risks(wrong_P, doubt_P, np.ones((1, len(wrong_P))), shares_T)[0]
    ends = np.percentile(risks(wrong_P, doubt_P, draws_BP, shares_T), [2.5, 97.5], axis=0)
    all_wrong = float(wrong_P.mean())
    return [
        Plot(
            lines=(
                Line("the surest first", shares_T, once, band_2N=np.asarray(ends)),
                Line("by chance", shares_T, np.full(len(shares_T), all_wrong)),
            ),
            x_label="share of patients who get an answer",
            y_label="share of these answers that are wrong",
            alt="Share of wrong answers over the share of patients who get one, the surest first",
            caption="Errors against answers given: how many of the answers are wrong where only the surest are given. "
            "A line that falls to the left: the model knows when it does not know. The second line holds answers back "
            "by chance; the band is a 95 % interval.",
            legend="upper left",
            y_range=(0.0, max(0.05, 1.35 * float(ends.max()))),
        )
    ]
