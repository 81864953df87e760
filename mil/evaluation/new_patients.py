"""What is decided of new patients: by cuts and sets that a run's own patients give, out of fold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil.evaluation.by_target.agreement import reach
from mil.evaluation.decisions.decide import Answered, Chosen, chosen_on_all
from mil.evaluation.decisions.rules import DEFAULT, Rule, parse_rule
from mil.evaluation.refusal.conformal import least_probabilities, sets_of
from mil.run.evidence import Evidence
from mil.targets import ValueTarget
from wsi.arrays import Bools, Floats, Ints
from wsi.recipe import Json

PROMISED = 0.9
"""How often sets of classes of new patients are to hold the true one."""


def answered_by(evidence: Evidence) -> Answered:
    """Return what a run's own head tells of its patients out of fold, those that count in the metrics."""
    truth, folds_P = evidence.truth, evidence.folds_P
    prevalence_PC = truth.blind(folds_P) if truth.groups else np.zeros((len(folds_P), len(evidence.classes)))
    return answered_of(evidence, prevalence_PC, folds_P)


def answered_of(evidence: Evidence, prevalence_PC: Floats, folds_P: Ints) -> Answered:
    """Return what the head tells of the patients that count, with the prevalence and the fold of each patient."""
    chosen_P = evidence.scored_P
    return Answered(
        truth=evidence.truth.of(chosen_P),
        told_PC=evidence.told[evidence.head][chosen_P],
        prevalence_PC=prevalence_PC[chosen_P],
        folds_P=folds_P[chosen_P],
        groups=[own for own, fine in zip(evidence.groups, chosen_P, strict=True) if fine],
        seed=int(evidence.config["recipe"].get("seed", 0)),
    )


@dataclass(frozen=True, slots=True)
class ByTheRun:
    """What a finished run's own patients, out of fold, say about new ones."""

    own: Answered

    def prevalence(self) -> Floats:
        """Return the shares (C,) of the classes among the run's patients."""
        return self.own.truth.prior()

    def chosen(self, rules: Sequence[Rule]) -> list[tuple[Rule, list[Chosen]]]:
        """Return the cuts of each question by each rule, for new patients, who all stand in fold 0."""
        return [(rule, [Chosen(rule, {0: cut}) for cut in chosen_on_all(self.own, rule)]) for rule in rules]

    def sets(self, told_PC: Floats, alpha: float) -> Bools:
        """Return the classes (P, C) that cannot be ruled out of new patients."""
        return sets_of(told_PC, least_probabilities(self.own.told_PC, self.own.truth.groups_N, alpha))

    def told(self, patients: Sequence[str], told_PC: Floats, known_P: Bools, names: Sequence[str]) -> Json:
        """Return cuts and, of classes, each patient's set, as JSON values; for probabilities as they are told.

        No class is ruled out of patients who could not be judged: ``known_P`` is False of them. Of values: how far the
        true one may lie from what is told.
        """
        if isinstance(self.own.truth, ValueTarget):
            distance = reach(self.own.told_PC[:, 0] - self.own.truth.values_N, 1 - PROMISED)
            return {} if distance is None else {"intervals": {"promised": PROMISED, "distance": distance}}
        if not self.own.questions:
            return {}
        asked = [q.name for q in self.own.questions]
        cuts = [
            {"question": name, "rule": rule.text, "cut": None if (cut := own.by_fold[0]) is None else cut.at}
            for rule, chosen in self.chosen([parse_rule(text) for text in DEFAULT])
            for name, own in zip(asked, chosen, strict=True)
        ]
        found: Json = {"operating": cuts}
        if self.own.truth.groups:
            sets_PC = self.sets(told_PC, 1 - PROMISED) | ~known_P[:, None]
            listed = [[name for name, there in zip(names, row, strict=True) if there] for row in sets_PC]
            found["sets"] = {"promised": PROMISED, "patients": dict(zip(patients, listed, strict=True))}
        return found
