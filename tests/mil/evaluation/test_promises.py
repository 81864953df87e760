"""Simulated cohorts whose truth is known: intervals hold it, cuts and sets keep their promise (docs/EVIDENCE.md).

python tests/mil/evaluation/test_promises.py      prints the tables

Scores are those of two normal distributions, ``apart`` deviations from each other: an AUC of Phi(apart / sqrt 2). Five
folds, each scored by a model of its own: a fifth of the score's variance is that model's error, and each has a scale of
its own (deviation 0.15 of its log). A new patient gets the mean of the five.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from mil.evaluation.bootstrap import draw_patients
from mil.evaluation.decisions.called import told_of_calls
from mil.evaluation.decisions.net_benefit import ends_of_net_benefit
from mil.evaluation.decisions.recalibration import told_of_calibration
from mil.evaluation.decisions.rules import Rule, choose_cut
from mil.evaluation.refusal.abstention import risks
from mil.evaluation.refusal.conformal import least_probabilities, sets_by_others, sets_of
from mil.evaluation.refusal.familiar import familiar_of
from mil.run.known import KnownSlides
from mil.targets.metrics import percentile_interval
from mil.targets.questions import at_prevalence

FOLDS = 5
NOISE = 0.2
"""Of a score's variance that is the single model's own error."""
SCALE = 0.15
APART = {0.75: 0.954, 0.85: 1.466, 0.95: 2.326}
"""AUC of a single model -> deviations."""


@dataclass(frozen=True)
class Cohort:
    """A cohort with out-of-fold probabilities, and new patients judged by all models together."""

    positive_P: np.ndarray
    folds_P: np.ndarray
    told_P: np.ndarray
    new_positive_N: np.ndarray
    new_told_N: np.ndarray


def simulated(
    rng: np.random.Generator, patients: int, share: float, auc: float, new: int = 400, new_share: float = 0.5
) -> Cohort:
    """Return a cohort; folds hold alike shares of those who have it."""
    apart, scales = APART[auc], np.exp(SCALE * rng.normal(size=FOLDS))
    positive = np.arange(patients) < round(share * patients)
    folds = np.arange(patients) % FOLDS

    def odds(has: np.ndarray, models: Sequence[int]) -> np.ndarray:
        sure = (has - 0.5) * apart + np.sqrt(1 - NOISE) * rng.normal(size=len(has))
        own = [scales[m] * (sure + np.sqrt(NOISE) * rng.normal(size=len(has))) * apart for m in models]
        return np.mean(own, axis=0)

    told = np.empty(patients)
    for fold in range(FOLDS):
        told[folds == fold] = odds(positive[folds == fold].astype(float), [fold])
    new_positive = np.arange(new) < round(new * new_share)
    new_told = odds(new_positive.astype(float), range(FOLDS))
    return Cohort(positive, folds, expit(told), new_positive, expit(new_told))


def expit(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


def kept_by_cuts(
    patients: int, share: float, auc: float, rule: Rule, repeats: int, seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean sensitivity (or specificity) on held-out folds and on new patients, and what was expected."""
    rng, held, new, expected = np.random.default_rng(seed), [], [], []
    for _ in range(repeats):
        own = simulated(rng, patients, share, auc)
        called = np.zeros(patients, bool)
        for fold in range(FOLDS):
            other = own.folds_P != fold
            cut = choose_cut(rule, own.positive_P[other], own.told_P[other])
            assert cut is not None
            called[~other] = own.told_P[~other] >= cut.at
            expected.append(cut.expected)
        cut = choose_cut(rule, own.positive_P, own.told_P)
        assert cut is not None
        calls = own.new_told_N >= cut.at
        if rule.kind == "sensitivity":
            held.append(called[own.positive_P].mean())
            new.append(calls[own.new_positive_N].mean())
        else:
            held.append((~called)[~own.positive_P].mean())
            new.append((~calls)[~own.new_positive_N].mean())
    return float(np.mean(held)), float(np.mean(new)), float(np.mean(np.array(expected, float)))


def kept_by_sets(
    patients: int, share: float, auc: float, alpha: float, repeats: int, seed: int = 0
) -> tuple[float, float, float, float]:
    """Return the coverage of both classes (rare, common) on held-out folds, then on new patients."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(repeats):
        own = simulated(rng, patients, share, auc)
        labels = own.positive_P.astype(np.int64)
        probs, new = (np.stack([1 - told, told], axis=1) for told in (own.told_P, own.new_told_N))
        held = sets_by_others(probs, labels, own.folds_P, alpha)[np.arange(patients), labels]
        new_labels = own.new_positive_N.astype(np.int64)
        sets = sets_of(new, least_probabilities(probs, labels, alpha))[np.arange(len(new)), new_labels]
        by_class = ((held, labels), (sets, new_labels))
        found.append([inside[whose == c].mean() for inside, whose in by_class for c in (1, 0)])
    rare, common, new_rare, new_common = np.mean(found, axis=0).tolist()
    return rare, common, new_rare, new_common


def shifted(share: float, there: float, repeats: int, seed: int = 0) -> list[tuple[float, float]]:
    """Return by how much more is told than is there, and the log loss, of new patients of another prevalence.

    As for equal classes; at the training's prevalence; at theirs. A hundred patients train; AUC .85.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(repeats):
        own = simulated(rng, 100, share, 0.85, 1000, there)
        probs = np.stack([1 - own.new_told_N, own.new_told_N], axis=1)
        told = [at_prevalence(probs, np.array([1 - at, at]))[:, 1] for at in (0.5, share, there)]
        found.append([(told_N.mean() - there, log_loss(own.new_positive_N, told_N)) for told_N in told])
    return [(float(more), float(loss)) for more, loss in np.mean(found, axis=0)]


Interval = tuple[float | None, float | None]


def intervals_of_one(
    rng: np.random.Generator, patients: int, share: float, auc: float
) -> dict[str, tuple[Interval, float]]:
    """Return every interval of one cohort with the truth that it should hold; one model, whose odds are right."""
    apart = APART[auc]
    positive = rng.random(patients) < share
    x = (positive - 0.5) * apart + rng.normal(size=patients)
    equal, real = expit(x * apart), expit(x * apart + np.log(share / (1 - share)))
    draws = draw_patients(patients, int(rng.integers(1 << 30)), 1000)
    found: dict[str, tuple[Interval, float]] = {}
    sens, spec = norm.cdf(apart / 2), norm.cdf(apart / 2)  # of the cut at a half
    ppv = share * sens / (share * sens + (1 - share) * (1 - spec))
    npv = (1 - share) * spec / ((1 - share) * spec + share * (1 - sens))
    cells = np.array([share * sens, (1 - share) * (1 - spec), share * (1 - sens), (1 - share) * spec])
    tp, fp, fn, tn = cells
    truths = {
        "sensitivity": sens, "specificity": spec, "ppv": ppv, "npv": npv, "f1": 2 * tp / (2 * tp + fp + fn),
        "mcc": (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
    }  # fmt: skip
    told = told_of_calls(positive, equal >= 0.5, draws)
    for name, truth in truths.items():
        found[name] = (told[name]["low"], told[name]["high"]), float(truth)
    for name, probs, balanced in (("equal priors", equal, True), ("prevalence", real, False)):
        own = told_of_calibration(positive, probs, draws, balanced=balanced)
        found[f"slope, {name}"] = (own["slope"]["low"], own["slope"]["high"]), 1.0
        found[f"intercept, {name}"] = (own["intercept"]["low"], own["intercept"]["high"]), 0.0
    for at in (0.2, 0.5):
        limit = (np.log(at / (1 - at)) - np.log(share / (1 - share))) / apart
        truth = share * norm.sf(limit - apart / 2) - (1 - share) * norm.sf(limit + apart / 2) * at / (1 - at)
        low, high = ends_of_net_benefit(positive, real, draws, np.array([at]))
        found[f"net benefit at {at}"] = (float(low[0]), float(high[0])), float(truth)
    wrong, doubt = (equal >= 0.5) != positive, -np.abs(x)
    found["errors, 80 % answered"] = (
        percentile_interval(risks(wrong, doubt, draws, np.array([0.8]))[:, 0]),
        _risk(apart),
    )
    return found


def _risk(apart: float) -> float:
    """Return the share of errors among the surest 80 %: of those with |x| above the fifth of its distribution."""
    grid = np.linspace(0, 8, 20001)
    right, wrong = norm.pdf(grid - apart / 2), norm.pdf(grid + apart / 2)
    density = right + wrong  # of |x|, whatever the class
    mass = np.cumsum(density) / density.sum()
    kept = mass >= 0.2
    return float(wrong[kept].sum() / density[kept].sum())


def coverage(patients: int, share: float, auc: float, repeats: int, seed: int = 0) -> dict[str, float]:
    """Return how often each interval held the truth; one without an end reaches without end."""
    rng, hits = np.random.default_rng(seed), dict[str, list[bool]]()
    for _ in range(repeats):
        for name, ((low, high), truth) in intervals_of_one(rng, patients, share, auc).items():
            held = (low is None or low <= truth) and (high is None or truth <= high)
            hits.setdefault(name, []).append(bool(held))
    return {name: float(np.mean(own)) for name, own in hits.items()}


def leak_of_cuts(patients: int, repeats: int, seed: int = 0) -> tuple[float, float]:
    """Return sensitivity + specificity - 1 on held-out folds, and of the same models and cuts on 4,000 new patients.

    Logistic regressions on 20 features. A cut is chosen on the other folds' patients, told by models that had learnt
    from the fold that is judged: this is what that lends to it.
    """
    rng, told, true = np.random.default_rng(seed), [], []
    for _ in range(repeats):
        weights = rng.normal(size=20) * 0.35

        def drawn(n: int, weights: np.ndarray = weights) -> tuple[np.ndarray, np.ndarray]:
            x = rng.normal(size=(n, 20))
            return x, rng.random(n) < expit(x @ weights)

        x, y = drawn(patients)
        folds = np.arange(patients) % FOLDS
        models = [LogisticRegression(C=0.3).fit(x[folds != f], y[folds != f]) for f in range(FOLDS)]
        oof = np.array([models[f].predict_proba(row[None])[0, 1] for f, row in zip(folds, x, strict=True)])
        new_x, new_y = drawn(4000)
        called, elsewhere = np.zeros(patients, bool), []
        for fold in range(FOLDS):
            cut = choose_cut(Rule("youden"), y[folds != fold], oof[folds != fold])
            assert cut is not None
            called[folds == fold] = oof[folds == fold] >= cut.at
            calls = models[fold].predict_proba(new_x)[:, 1] >= cut.at
            elsewhere.append(calls[new_y].mean() - calls[~new_y].mean())
        told.append(called[y].mean() - called[~y].mean())
        true.append(np.mean(elsewhere))
    return float(np.mean(told)), float(np.mean(true))


def false_alarms(slides: int, repeats: int, seed: int = 0) -> tuple[float, float]:
    """Return how often a slide like the known ones is called unlike, and how often it may be."""
    rng, called, promised = np.random.default_rng(seed), [], 0.0
    for _ in range(repeats):
        mixing = rng.normal(size=(16, 16))
        known = KnownSlides(
            image_ids=tuple(map(str, range(slides))), patient_ids=tuple(map(str, range(slides))),
            centers=("",) * slides, contents=("",) * slides, means_SD=rng.standard_t(5, size=(slides, 16)) @ mixing,
            mpp_S=np.zeros(slides), colour_SC=np.zeros((slides, 3)), tiles_SKA=np.zeros((slides, 0, 9)),
        )  # fmt: skip
        familiar = familiar_of(known)
        assert familiar is not None
        called.append(float((familiar.distances(rng.standard_t(5, size=(50, 16)) @ mixing) > familiar.furthest).mean()))
        promised = familiar.false_alarms
    return float(np.mean(called)), promised


COHORTS = [(60, 0.3, 0.85), (100, 0.3, 0.75), (100, 0.3, 0.85), (300, 0.2, 0.85), (700, 0.1, 0.95)]
SHIFTS = [(0.3, 0.05), (0.3, 0.5), (0.1, 0.3), (0.5, 0.1)]
"""Prevalence where models are trained, and where they are used."""
RULES = [Rule("sensitivity", 0.9), Rule("sensitivity", 0.95), Rule("specificity", 0.95)]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("patients", "share", "auc"), COHORTS)
def test_cuts_keep_what_they_promise(patients: int, share: float, auc: float, rule: Rule) -> None:
    held, new, expected = kept_by_cuts(patients, share, auc, rule, 400)
    assert held > expected - 0.02
    assert new > expected - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 0.2])
@pytest.mark.parametrize(("patients", "share", "auc"), COHORTS)
def test_sets_hold_each_class_as_often_as_promised(patients: int, share: float, auc: float, alpha: float) -> None:
    assert min(kept_by_sets(patients, share, auc, alpha, 400)) > 1 - alpha - 0.015


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("patients", "least"), [(50, 0.92), (100, 0.915), (300, 0.92)])
def test_intervals_hold_the_truth(patients: int, least: float) -> None:
    """Of 400 cohorts a share of .95 comes out between .92 and .98."""
    found = coverage(patients, 0.3, 0.85, 400, seed=1)
    assert all(least <= own <= 0.98 for own in found.values()), found


@pytest.mark.slow
def test_cuts_gain_little_by_the_other_folds_models() -> None:
    told, true = leak_of_cuts(100, 60)
    assert abs(told - true) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("slides", [40, 99, 250])
def test_alarms_are_as_rare_as_promised(slides: int) -> None:
    called, promised = false_alarms(slides, 400)
    assert called < promised * 1.3 + 0.002


@pytest.mark.parametrize(("share", "there"), SHIFTS)
def test_what_is_told_follows_the_prevalence_that_is_told(share: float, there: float) -> None:
    (balanced, balanced_loss), (before, before_loss), (after, after_loss) = shifted(share, there, 20)
    assert abs(after) < 0.03
    assert abs(after) < min(abs(balanced), abs(before)) or there == 0.5
    assert after_loss <= min(balanced_loss, before_loss) + 1e-9


def test_cuts_and_sets_of_a_few_cohorts_keep_their_promise() -> None:
    """As the slow tests, of one kind of cohort and with more room."""
    held, new, expected = kept_by_cuts(100, 0.3, 0.85, Rule("sensitivity", 0.9), 60)
    assert min(held, new) > expected - 0.04
    assert min(kept_by_sets(100, 0.3, 0.85, 0.2, 60)) > 0.8 - 0.05


def main() -> None:
    """Print the tables."""

    def row(*cells: object) -> None:
        print(
            "|", " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells), "|", flush=True
        )

    for patients, share, auc in COHORTS:
        for rule in RULES:
            row(patients, share, auc, rule, *kept_by_cuts(patients, share, auc, rule, 1000))
    for patients, share, auc in COHORTS:
        for alpha in (0.05, 0.1, 0.2):
            row(patients, share, auc, 1 - alpha, *kept_by_sets(patients, share, auc, alpha, 1000))
    tables = [coverage(patients, 0.3, 0.85, 400, seed=1) for patients in (50, 100, 300)]
    for name in tables[0]:
        row(name, *(table[name] for table in tables))
    for share, there in SHIFTS:
        row(share, there, *(value for own in shifted(share, there, 400) for value in own))
    for patients in (60, 100, 300):
        row(patients, *leak_of_cuts(patients, 100))
    for slides in (40, 99, 250):
        row(slides, *false_alarms(slides, 400))


if __name__ == "__main__":
    main()
