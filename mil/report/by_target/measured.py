"""From a run's evidence to the section of its target."""

from collections.abc import Sequence

import numpy as np

from mil.evaluation.by_target.agreement import ALPHAS, Pairs, reach, reaches_by_others
from mil.evaluation.by_target.each_label import each_label
from mil.evaluation.by_target.over_time import Told, default_horizons
from mil.evaluation.new_patients import answered_by
from mil.report.by_target.agreement import shown_agreement
from mil.report.by_target.each_label import shown_labels
from mil.report.by_target.over_time import shown_over_time
from mil.report.by_target.shown import Shown
from mil.run.evidence import Evidence
from mil.targets import LabelsTarget, SurvivalTarget, ValueTarget
from mil.targets.survival.metrics import Followed
from wsi.arrays import Floats


def measured(evidence: Evidence, within: Evidence | None = None, horizons: Sequence[float] = ()) -> Shown | None:
    """Return the section; None of classes, of which other sections tell.

    ``within``: the run's evidence of its own patients, where the evidence is of another cohort.
    """
    truth = evidence.truth
    if isinstance(truth, SurvivalTarget):
        return _survival(evidence, truth, within, horizons)
    if isinstance(truth, ValueTarget):
        return _value(evidence, truth, within)
    return _labels(evidence, truth, within) if isinstance(truth, LabelsTarget) else None


def _told(evidence: Evidence, truth: SurvivalTarget, baseline: tuple[Followed, Floats] | None = None) -> Told:
    answered, fine_P = answered_by(evidence), evidence.scored_P
    risks_P, own = answered.told_PC[:, 0], truth.of(fine_P)
    return Told(
        known=Followed(own.times_N, own.events_N, answered.folds_P),
        risks_N=risks_P,
        high_N=own.halves(risks_P, answered.folds_P)["higher"],
        groups=answered.groups,
        seed=answered.seed,
        baseline=baseline,
    )


def _survival(
    evidence: Evidence, truth: SurvivalTarget, within: Evidence | None, horizons: Sequence[float]
) -> Shown | None:
    baseline, whose = None, "a baseline hazard of the patients of the other folds"
    if within is not None and isinstance(within.truth, SurvivalTarget):
        own = _told(within, within.truth)
        baseline, horizons = (own.known, own.risks_N), horizons or default_horizons(own.known)
        whose = "the baseline hazard of the run's own patients, out of fold"
    if not truth.of(evidence.scored_P).events_N.any() or not truth.cut_before:
        return None
    return shown_over_time(_told(evidence, truth, baseline), horizons, whose, evidence.run.unit)


def _pairs(evidence: Evidence, truth: ValueTarget) -> Pairs:
    answered, own = answered_by(evidence), truth.of(evidence.scored_P)
    return Pairs(own.values_N, answered.told_PC[:, 0], answered.folds_P, answered.groups, answered.seed)


def _value(evidence: Evidence, truth: ValueTarget, within: Evidence | None) -> Shown:
    pairs, whose = _pairs(evidence, truth), "the patients of the other folds"
    reaches = {alpha: reaches_by_others(pairs, alpha) for alpha in ALPHAS}
    if within is not None and isinstance(within.truth, ValueTarget):
        errors_N, whose = _pairs(within, within.truth).off_N, "the run's own patients, out of fold"
        found = {alpha: reach(errors_N, alpha) for alpha in ALPHAS}
        size = len(pairs.true_N)
        reaches = {alpha: np.full(size, np.inf if own is None else own) for alpha, own in found.items()}
    return shown_agreement(pairs, reaches, whose, evidence.run.unit)


def _labels(evidence: Evidence, truth: LabelsTarget, within: Evidence | None) -> Shown:
    answered, own = answered_by(evidence), truth.of(evidence.scored_P)
    if within is None:
        blind_PC = truth.blind(evidence.folds_P)[evidence.scored_P]
    else:
        blind_PC = np.tile(within.truth.prior(), (len(answered.told_PC), 1))
    found = each_label(
        own.present_NC, answered.told_PC, blind_PC, answered.folds_P, own.names, answered.groups, answered.seed
    )
    return shown_labels(found, evidence.run.unit)
