"""Simulated cohorts whose truth is known: intervals of survival, values and labels hold it (docs/EVIDENCE.md).

python tests/mil/evaluation/by_target/test_promises_by_target.py      prints the tables

Survival: a log risk ~ N(0, 1) of slope 0.8 in an exponential hazard, lost to follow-up at random and at the end of the
study; five folds; the baseline hazard is that of a large cohort. Noise: models fitted on features that say nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest

from mil.evaluation.bootstrap import draw_patients, estimate
from mil.evaluation.by_target import agreement as agreement_module
from mil.evaluation.by_target import over_time as over_time_module
from mil.evaluation.by_target.agreement import Pairs, reach, reaches_by_others
from mil.evaluation.by_target.over_time import Told, crossed
from mil.targets.metrics import macro_auc
from mil.targets.survival.cox import log_rank
from mil.targets.survival.metrics import Followed, harrell_c, uno_c

FOLDS, SLOPE, AT, END = 5, 0.8, 0.6, 2.5
DRAWS = 1000
REPEATS = 600


def survival(rng: np.random.Generator, n: int, censored: bool = True) -> tuple[Followed, np.ndarray]:
    """Return patients and their log risks; about four in ten are lost before their event."""
    risks = rng.normal(size=n)
    ends = rng.exponential(np.exp(-SLOPE * risks))
    lost = np.minimum(rng.exponential(2.0, n), rng.uniform(0.8, END, n)) if censored else np.full(n, np.inf)
    return Followed(np.minimum(ends, lost), ends <= lost, np.arange(n) % FOLDS), risks


@cache
def baseline() -> tuple[Followed, np.ndarray]:
    return survival(np.random.default_rng(99), 3000)


def told_of(known: Followed, risks: np.ndarray) -> Told:
    return Told(known, risks, risks > 0, [str(i) for i in range(len(risks))], 0, baseline())


@cache
def truths() -> dict[str, float]:
    """Return the true numbers: means over large cohorts, where nobody is lost but for those that depend on it."""
    rng = np.random.default_rng(7)
    found: dict[str, list[float]] = {}
    for _ in range(12):
        one = np.ones((1, 3000))
        known, risks = survival(rng, 3000)
        alike = replace(known, folds_N=np.zeros(3000, int))
        found.setdefault("concordance (Harrell)", []).append(float(harrell_c(alike, risks, one)[0]))
        whole, risks = survival(rng, 3000, censored=False)
        seen = Followed(np.minimum(whole.times_N, END), whole.times_N < END, np.zeros(3000, int))
        found.setdefault("concordance (Uno)", []).append(float(harrell_c(seen, risks, one)[0]))
        own = told_of(whole, risks)
        by_then = whole.times_N <= AT
        ups, downs = np.sort(risks[by_then]), np.sort(risks[~by_then])
        found.setdefault("auc", []).append(float(np.searchsorted(downs, ups).mean() / len(downs)))
        without, blind = (own.without(of, np.array([AT]))[:, 0] for of in (risks, 0 * risks))
        brier, worse = (float(np.square(of - ~by_then).mean()) for of in (without, blind))
        found.setdefault("brier", []).append(brier)
        found.setdefault("brier_gain", []).append(1 - brier / worse)
        found.setdefault("observed", []).append(float(by_then.mean()))
        found.setdefault("observed_over_predicted", []).append(float(by_then.mean() / (1 - without).mean()))
    values = {name: float(np.mean(own)) for name, own in found.items()}
    return values | {"slope of the log risk": SLOPE}


def held_by_survival(n: int, repeats: int, seed: int = 0) -> dict[str, float]:
    """Return how often each interval held the truth."""
    rng, true = np.random.default_rng([seed, n]), truths()
    held: dict[str, list[bool]] = {}
    for _ in range(repeats):
        known, risks = survival(rng, n)
        own, draws = told_of(known, risks), draw_patients(n, int(rng.integers(1 << 30)), DRAWS)
        row = over_time_module._horizon(own, AT, draws)
        found = {key: (row[key]["low"], row[key]["high"]) for key in ("auc", "brier", "brier_gain", "observed")}
        ratio, slope = row["observed_over_predicted"], over_time_module._slope(own, risks, draws)
        found["observed_over_predicted"] = ratio["low"], ratio["high"]
        found["slope of the log risk"] = slope["low"], slope["high"]
        for name, measure in (("Harrell", harrell_c), ("Uno", uno_c)):
            told = estimate(partial(measure, known, risks), draws, pairs=True)
            found[f"concordance ({name})"] = told["low"], told["high"]
        for name, (low, high) in found.items():
            ends = -np.inf if low is None else low, np.inf if high is None else high
            held.setdefault(name, []).append(ends[0] <= true[name] <= ends[1])
    return {name: float(np.mean(own)) for name, own in held.items()}


def significant_on_noise(n: int, repeats: int, seed: int = 0) -> dict[str, float]:
    """Return how often p < 0.05 where 20 features say nothing: the test as it is, and as it is often done.

    A fold's model: the features weighed by their covariance with the ranks of the training patients' times, cut at
    the median of a fifth of the training patients, who take no part in the weights.
    """
    rng, found = (
        np.random.default_rng([seed, n]),
        {"as in the report": list[bool](), "chi squared whole": list[bool](), "folds pooled, own median": list[bool]()},
    )
    for _ in range(repeats):
        known, _ = survival(rng, n)
        features, risks = rng.normal(size=(n, 20)), np.zeros(n)
        ranks = np.argsort(np.argsort(known.times_N)) - n / 2
        for fold in range(FOLDS):
            seen = np.flatnonzero(known.folds_N != fold)
            validated = rng.permutation(seen)[: len(seen) // 5]
            trained = np.setdiff1d(seen, validated)
            weights = -(features[trained] - features[trained].mean(axis=0)).T @ ranks[trained] / len(trained)
            own = known.folds_N == fold
            risks[own] = features[own] @ weights - np.median(features[validated] @ weights)
        one = np.zeros(n, int)
        tests = (
            (risks > 0, known.folds_N),
            (risks > np.median(risks), one),
        )
        for name, (high, strata) in zip(list(found)[1:], tests, strict=True):
            found[name].append(log_rank(high, known.times_N, known.events_N, strata)[1] < 0.05)
        chi = log_rank(risks > 0, known.times_N, known.events_N, known.folds_N)[0]
        found["as in the report"].append(crossed(chi) < 0.05)
    return {name: float(np.mean(own)) for name, own in found.items()}


def values(rng: np.random.Generator, n: int) -> Pairs:
    """Return values ~ N(50, 10), predicted with slope 0.8, two too high, and an error of 5."""
    true = rng.normal(50, 10, n)
    told = 12 + 0.8 * true + rng.normal(0, 5, n)
    return Pairs(true, told, np.arange(n) % FOLDS, [str(i) for i in range(n)], int(rng.integers(1 << 30)))


def true_agreement() -> dict[str, float]:
    spread = np.sqrt(0.2**2 * 100 + 25)
    variance = 0.64 * 100 + 25
    errors = np.random.default_rng(0).normal(2, spread, 4_000_000)
    return {
        "bias": 2.0,
        "lower_limit": 2 - 1.959964 * spread,
        "upper_limit": 2 + 1.959964 * spread,
        "root_mean_squared_error": float(np.sqrt(spread**2 + 4)),
        "mean_absolute_error": float(np.abs(errors).mean()),
        "concordance_correlation": 2 * 80 / (100 + variance + 4),
        "slope": 80 / variance,
        "intercept": 50 - 80 / variance * 52,
    }


def held_by_agreement(n: int, repeats: int, seed: int = 0) -> dict[str, float]:
    rng, true = np.random.default_rng([seed, n]), true_agreement()
    held: dict[str, list[bool]] = {}
    for _ in range(repeats):
        own = values(rng, n)
        draws = draw_patients(n, own.seed, DRAWS)
        for name, measure in agreement_module._measures(own).items():
            told = estimate(measure, draws)
            held.setdefault(name, []).append(told["low"] <= true[name] <= told["high"])
    return {name: float(np.mean(own)) for name, own in held.items()}


def held_by_distances(n: int, alpha: float, repeats: int, seed: int = 0) -> tuple[float, float]:
    """Return how often the true value lay within, on held-out folds and of new patients told by all models together."""
    rng, held, new = np.random.default_rng([seed, n]), [], []
    weights = rng.normal(size=20)
    for _ in range(repeats):
        features, fresh = rng.normal(size=(n, 20)), rng.normal(size=(200, 20))
        true, later = features @ weights + rng.normal(0, 3, n), fresh @ weights + rng.normal(0, 3, 200)
        folds, told, of_new = np.arange(n) % FOLDS, np.zeros(n), np.zeros(200)
        for fold in range(FOLDS):
            own = folds == fold
            inner = features[~own]
            fitted = np.linalg.solve(inner.T @ inner + 5 * np.eye(20), inner.T @ true[~own])
            told[own], of_new = features[own] @ fitted, of_new + fresh @ fitted / FOLDS
        pairs = Pairs(true, told, folds, [str(i) for i in range(n)], 0)
        held.append((np.abs(pairs.off_N) <= reaches_by_others(pairs, alpha)).mean())
        whole = reach(pairs.off_N, alpha)
        new.append(1.0 if whole is None else (np.abs(of_new - later) <= whole).mean())
    return float(np.mean(held)), float(np.mean(new))


def held_by_labels(n: int, repeats: int, seed: int = 0) -> float:
    """Return how often the interval of the mean AUC held the truth, of three labels, each not known of one in five."""
    from scipy.stats import norm

    rng, held, apart = np.random.default_rng([seed, n]), [], np.array([0.6, 1.2, 1.8])
    true = float(norm.cdf(apart / np.sqrt(2)).mean())
    for _ in range(repeats):
        present = (rng.random((n, 3)) < [0.5, 0.3, 0.2]).astype(float)
        told = present * apart + rng.normal(size=(n, 3))
        present[rng.random((n, 3)) < 0.2] = np.nan
        draws = draw_patients(n, int(rng.integers(1 << 30)), DRAWS)
        own = estimate(partial(macro_auc, present, told, folds_N=np.arange(n) % FOLDS), draws, pairs=True)
        held.append(own["low"] <= true <= own["high"])
    return float(np.mean(held))


@pytest.mark.slow
@pytest.mark.parametrize("patients", [100, 300])
def test_intervals_hold_the_truth(patients: int) -> None:
    assert min((found := held_by_survival(patients, 150)).values()) > 0.88, found
    assert min((found := held_by_agreement(patients, 300)).values()) > 0.9, found
    assert held_by_labels(patients, 300) > 0.9


@pytest.mark.slow
def test_noise_is_not_significant_more_often_than_promised() -> None:
    found = significant_on_noise(100, 400)
    assert found["as in the report"] < 0.065
    assert found["chi squared whole"] > 0.065, "else the correction is not needed"


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_distances_keep_their_promise(alpha: float) -> None:
    held, new = held_by_distances(100, alpha, 200)
    assert held > 1 - alpha - 0.02
    assert new > 1 - alpha - 0.02


def main() -> None:
    """Print the tables of docs/EVIDENCE.md."""
    sizes = (60, 120, 300)
    tables: tuple[Callable[[int], dict[str, float]], ...] = (
        lambda n: held_by_survival(n, REPEATS),
        lambda n: held_by_agreement(n, REPEATS),
        lambda n: significant_on_noise(n, 2 * REPEATS),
        lambda n: {
            f"{1 - a:.2f} {w}": v
            for a in (0.05, 0.1, 0.2)
            for w, v in zip(("held-out", "new"), held_by_distances(n, a, REPEATS), strict=True)
        },
        lambda n: {"mean AUC of labels": held_by_labels(n, REPEATS)},
    )
    for table in tables:
        found = [table(n) for n in sizes]
        for name in found[0]:
            print(f"| {name} | {' | '.join(f'{own[name]:.3f}'.lstrip('0') for own in found)} |", flush=True)


if __name__ == "__main__":
    main()
