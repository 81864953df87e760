"""What can be decided by probabilities, put together: operating points, calibration, net benefit, question by question.

Each patient is called by a cut that was chosen on others: of a run's own patients on those of the other folds, told by
models that had not seen them; of new patients on all of the run's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil.evaluation.bootstrap import draw_groups
from mil.evaluation.decisions.called import told_of_calls
from mil.evaluation.decisions.net_benefit import CUTS, ends_of_net_benefit, net_benefit, of_acting_on_all
from mil.evaluation.decisions.recalibration import told_of_calibration
from mil.evaluation.decisions.rules import Cut, Rule, choose_cut
from mil.targets.base import Target
from mil.targets.questions import Question
from wsi.arrays import Bools, Floats, Ints
from wsi.recipe import Json

SHOWN_CUTS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Probabilities at which the net benefit stands as numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What is told of patients, and what is true of them; the arrays run in parallel."""

    truth: Target
    told_PC: Floats
    prevalence_PC: Floats
    """Shares of the classes among the patients whom the models learnt from."""
    folds_P: Ints
    groups: Sequence[str]
    """Who hang together and are drawn together."""
    seed: int = 0

    @property
    def questions(self) -> list[Question]:
        """Return the yes-or-no questions that are answered."""
        return self.truth.questions(self.told_PC, self.prevalence_PC)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The cuts of one rule and question, by the fold of who is called by them."""

    rule: Rule
    by_fold: dict[int, Cut | None]
    """None where those whom it would be chosen on all have it, or none has."""

    def cuts_P(self, folds_P: Ints) -> Floats:
        """Return the cut of each patient; NaN where there is none."""
        at = {fold: np.nan if cut is None else cut.at for fold, cut in self.by_fold.items()}
        return np.array([at[fold] for fold in folds_P.tolist()])


def chosen_on_others(answered: Answered, rule: Rule) -> list[Chosen]:
    """Return for each question the cuts of the folds, each chosen on the patients of the other folds."""
    folds = np.unique(answered.folds_P).tolist()
    return [Chosen(rule, {fold: _cut(rule, q, answered.folds_P != fold) for fold in folds}) for q in answered.questions]


def chosen_on_all(answered: Answered, rule: Rule) -> list[Cut | None]:
    """Return for each question the cut for new patients, chosen on all of these."""
    return [_cut(rule, q, np.ones(len(q.told_P), bool)) for q in answered.questions]


def _cut(rule: Rule, q: Question, chosen_P: Bools) -> Cut | None:
    chosen_P = chosen_P & q.known_P
    return choose_cut(rule, q.positive_P[chosen_P], q.told_P[chosen_P])


def decisions(answered: Answered, chosen: Sequence[Sequence[Chosen]]) -> list[Json]:
    """Return for each question what its answers are worth; ``chosen``: for each rule the cuts of each question."""
    draws_BP = draw_groups(answered.groups, answered.seed)
    n_groups = len(set(answered.groups))
    return [
        {
            "question": q.name,
            "patients": int(q.known_P.sum()),
            "positive": int(q.positive_P.sum()),
            "operating": [
                _operating(q, own[number], answered.folds_P, draws_BP, n_groups if n_groups < len(q.told_P) else None)
                for own in chosen
            ],
            "calibration": _calibration(q, draws_BP[:, q.known_P]),
            "net_benefit": _net_benefit(q, draws_BP[:, q.known_P]),
        }
        for number, q in enumerate(answered.questions)
    ]


def _operating(q: Question, chosen: Chosen, folds_P: Ints, draws_BP: Floats, groups: int | None) -> Json:
    cuts_P = chosen.cuts_P(folds_P)
    use_P: Bools = q.known_P & np.isfinite(cuts_P)
    made = [cut for cut in chosen.by_fold.values() if cut is not None]
    expected = [cut.expected for cut in made if cut.expected is not None]
    return {
        "rule": chosen.rule.text,
        "cuts": [None if cut is None else cut.at for _, cut in sorted(chosen.by_fold.items())],
        "expected": min(expected) if expected else None,
        "chosen_on": [[cut.positives, cut.negatives] for cut in made],
        "left_out": int((q.known_P & ~np.isfinite(cuts_P)).sum()),
        **told_of_calls(q.positive_P[use_P], q.told_P[use_P] >= cuts_P[use_P], draws_BP[:, use_P], groups),
    }


def _calibration(q: Question, draws_BN: Floats) -> Json:
    """Return slope and intercept as told, and where that stands for equal priors at the cohort's prevalence, too."""
    positive, told, real = q.positive_P[q.known_P], q.told_P[q.known_P], q.real_P[q.known_P]
    cohort = told_of_calibration(positive, real, draws_BN, balanced=False)
    if not q.balanced:
        return {"cohort": cohort}
    return {"equal": told_of_calibration(positive, told, draws_BN, balanced=True), "cohort": cohort}


def _net_benefit(q: Question, draws_BN: Floats) -> Json:
    positive, real = q.positive_P[q.known_P], q.real_P[q.known_P]
    once, cuts = np.ones((1, len(real))), np.array(SHOWN_CUTS)
    low, high = ends_of_net_benefit(positive, real, draws_BN, cuts)
    return {
        "from": list(SHOWN_CUTS),
        "model": net_benefit(positive, real, once, cuts)[0].tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "all": of_acting_on_all(positive, once, cuts)[0].tolist(),
    }


def curve_of_net_benefit(q: Question, draws_BP: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the net benefit of the model (T,), its 95 % interval (2, T), and that of acting on all (T,), at `CUTS`."""
    positive, real = q.positive_P[q.known_P], q.real_P[q.known_P]
    once = np.ones((1, len(real)))
    ends = ends_of_net_benefit(positive, real, draws_BP[:, q.known_P])
    own, every = net_benefit(positive, real, once)[0], of_acting_on_all(positive, once)[0]
    return own, np.stack(ends), every


__all__ = ["CUTS", "Answered", "Chosen", "chosen_on_all", "chosen_on_others", "curve_of_net_benefit", "decisions"]
