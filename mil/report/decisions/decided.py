"""What a report says of deciding: operating points, calibration, net benefit, sets of classes, answers held back.

All of it follows from oof.csv, so that runs of earlier versions have it, too; ``decisions.json`` holds the numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil.evaluation.bootstrap import REPLICATES, draw_groups
from mil.evaluation.decisions.decide import Answered, Chosen, chosen_on_others, decisions
from mil.evaluation.decisions.rules import Rule
from mil.evaluation.new_patients import answered_by
from mil.evaluation.refusal.abstention import told_of_abstention
from mil.evaluation.refusal.conformal import ALPHAS, coverage, sets_by_others
from mil.evaluation.subgroups import Column, subgroups
from mil.report.decisions.plots import plots_of_abstention, plots_of_decisions
from mil.run.evidence import Evidence
from mil.targets.plot import Plot
from wsi.arrays import Bools, Floats
from wsi.recipe import Json

FILE = "decisions.json"
DRAWN = 500
"""Draws of patients, for bands and bars of figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What the templates ``decisions.html`` and ``refusing.html`` show."""

    told: Json
    """What `FILE` holds."""
    rules: tuple[Rule, ...]
    decision_plots: tuple[Plot, ...]
    abstention_plots: tuple[Plot, ...]
    chosen_on: str
    """Who the cuts were chosen on."""
    prevalence: str
    """Among whom the classes have the shares to which probabilities "at the cohort's prevalence" are moved."""
    set_by: str
    """Who rules classes out."""

    @property
    def subgroups(self) -> list[Json]:
        """Return the groups by further columns of the manifest; none where it was not given."""
        found: list[Json] = self.told.get("subgroups", [])
        return found


def decide_out_of_fold(evidence: Evidence, rules: Sequence[Rule], columns: Sequence[Column] = ()) -> Decided:
    """Return what can be decided by a run's own answers, each patient's by what the other folds' patients say.

    ``columns``: of the manifest, by which patients are grouped; for all patients of the evidence.
    """
    answered = answered_by(evidence)
    sets, chosen_P = _sets_of_others(answered), evidence.scored_P
    return decided(
        answered,
        [(rule, chosen_on_others(answered, rule)) for rule in rules],
        sets,
        grouped=subgrouped(
            answered,
            evidence.truth.blind(evidence.folds_P)[chosen_P] if columns else np.zeros((0, 0)),
            chosen_on_others(answered, Rule("youden")),
            _of(columns, chosen_P),
        ),
        chosen_on="on the patients of the other folds, told by models that had not seen them, and applied to those of "
        "the fold, who play no part in the choice",
        prevalence="among the patients of the other folds",
        set_by="the patients of the other folds",
    )


def subgrouped(answered: Answered, blind_PC: Floats, youden: Sequence[Chosen], columns: Sequence[Column]) -> list[Json]:
    """Return the groups of patients by further columns; ``youden``: the cuts of each question by that rule."""
    if not columns:
        return []
    questions, called_P = answered.questions, None
    if len(questions) == 1:
        cuts_P = youden[0].cuts_P(answered.folds_P)
        called_P = questions[0].told_P >= np.where(np.isfinite(cuts_P), cuts_P, np.inf)
    return subgroups(answered, blind_PC, called_P, columns)


def _of(columns: Sequence[Column], chosen_P: Bools) -> list[Column]:
    kept = np.flatnonzero(chosen_P).tolist()
    return [Column(own.name, tuple(own.values_P[i] for i in kept)) for own in columns]


def _sets_of_others(answered: Answered) -> dict[float, Bools]:
    if not answered.truth.groups:
        return {}
    labels_P = answered.truth.groups_N
    return {alpha: sets_by_others(answered.told_PC, labels_P, answered.folds_P, alpha) for alpha in ALPHAS}


def decided(
    answered: Answered,
    chosen: Sequence[tuple[Rule, list[Chosen]]],
    sets: dict[float, Bools],
    *,
    chosen_on: str,
    prevalence: str,
    set_by: str,
    grouped: Sequence[Json] = (),
) -> Decided:
    """Put the numbers and figures together, of what was chosen on others."""
    truth, questions = answered.truth, answered.questions
    told: Json = {"bootstrap": {"unit": "patient", "replicates": REPLICATES}, "questions": [], "sets": []}
    if grouped:
        told["subgroups"] = list(grouped)
    if questions:
        told["questions"] = decisions(answered, [own for _, own in chosen])
    told["sets"] = [
        coverage(own, truth.groups_N, truth.names, answered.groups, alpha, answered.seed) for alpha, own in sets.items()
    ]
    wrong_P, doubt_P = _doubts(answered)
    draws_BP = draw_groups(answered.groups, answered.seed, DRAWN)
    if len(wrong_P):
        told["abstention"] = told_of_abstention(
            wrong_P, doubt_P, draw_groups(answered.groups, answered.seed), len(set(answered.groups))
        )
    return Decided(
        told=told,
        rules=tuple(rule for rule, _ in chosen),
        decision_plots=tuple(plots_of_decisions(questions, draws_BP, prevalence)),
        abstention_plots=tuple(plots_of_abstention(wrong_P, doubt_P, draws_BP)) if len(wrong_P) else (),
        chosen_on=chosen_on,
        prevalence=prevalence,
        set_by=set_by,
    )


def _doubts(answered: Answered) -> tuple[Bools, Floats]:
    """Return whose answer is wrong, and how unsure it is; nothing where answers are not right or wrong."""
    judged = answered.truth.judged(answered.told_PC, answered.folds_P)
    if any(own.right is None or own.doubt is None for own in judged):
        return np.zeros(0, bool), np.zeros(0)
    return np.array([not own.right for own in judged]), np.array([own.doubt for own in judged], np.float64)
