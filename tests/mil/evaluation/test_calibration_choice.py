"""Simulated cohorts on which ways to calibrate are compared (docs/CALIBRATION.md).

python tests/mil/evaluation/test_calibration_choice.py      prints the tables (minutes)

A slide's score is that of one of two normal distributions, half of its variance the patient's own and a fifth the
model's error. Logits are the score times its distributions' distance (at least 1: a model that learnt nothing tells
something, too), as much too sure as the cohort says; patients have the mean of their slides'. Of five folds' models
each has a scale and a shift of its own, or all have the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from scipy.stats import norm

from mil.evaluation import calibrate
from mil.evaluation.calibrate import fit_calibration
from mil.targets.calibration import Calibration
from mil.targets.metrics import ones, softmax, weighted_log_loss

FOLDS = 5
NEW = 3000
"""New patients of a cohort, half of them of either class: the loss weighs classes equally."""
WILD = 0.02
"""Share of slides whose noise is 30 times as large, in a third of the cohorts."""
MODEL = 0.2
"""Of a score's variance that is the single model's own error."""
FOLDS_DIFFER = 0.5
"""Deviation of the log of a fold's scale, and of its shift, where folds differ."""
WORSE = 0.01


@dataclass(frozen=True)
class Kind:
    """What a cohort is like."""

    patients: int
    auc: float
    rare: float
    folds_differ: bool
    heavy: bool
    """Noise of t(3), not normal."""
    most_slides: int
    wild: bool


@dataclass(frozen=True)
class Cohort:
    """Margins, class 1 less class 0, and labels; of new patients and of inner validation by each model."""

    labels_P: np.ndarray
    folds_P: np.ndarray
    margins_P: np.ndarray
    inner_labels_V: np.ndarray
    inner_margins_V: np.ndarray
    """By the first fold's model."""
    new_labels_N: np.ndarray
    new_margins_FN: np.ndarray


def kinds() -> Iterator[Kind]:
    """Yield 1,440 kinds of cohort; in a third there are wild logits."""
    grid = product(
        (40, 80, 160, 340, 700),
        (0.5, 0.65, 0.8, 0.95),
        (0.1, 0.25, 0.5),
        (False, True),
        (False, True),
        (1, 3),
        range(3),
    )
    for patients, auc, rare, differ, heavy, most_slides, third in grid:
        yield Kind(patients, auc, rare, differ, heavy, most_slides, wild=third == 2)


def simulated(kind: Kind, rng: np.random.Generator) -> Cohort:
    """Return a cohort of a kind, whose logits are 0.5 to 4 times as sure as they should be."""
    apart = float(norm.ppf(kind.auc) * np.sqrt(2))
    sure = np.exp(rng.uniform(np.log(0.5), np.log(4)))
    scales, shifts = np.exp(FOLDS_DIFFER * kind.folds_differ * rng.normal(size=FOLDS)), rng.normal(size=FOLDS)
    shifts *= FOLDS_DIFFER * kind.folds_differ

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_t(3, shape) / np.sqrt(3) if kind.heavy else rng.normal(size=shape)

    def margins(labels_P: np.ndarray) -> np.ndarray:
        """Return what each fold's model says of each patient (F, P)."""
        n = len(labels_P)
        held = np.arange(kind.most_slides)[None] < rng.integers(1, kind.most_slides + 1, n)[:, None]
        own = np.sqrt(0.5) * noise(n, 1) + np.sqrt(0.5 - MODEL) * noise(n, kind.most_slides)
        score = own[None] + np.sqrt(MODEL) * noise(FOLDS, n, kind.most_slides)
        if kind.wild:
            score *= np.where(rng.random((n, kind.most_slides)) < WILD, 30, 1)
        score += (labels_P[:, None] - 0.5) * apart
        mean_FP = (score * held).sum(2) / held.sum(1)
        return sure * scales[:, None] * (max(apart, 1) * mean_FP + shifts[:, None])

    labels, folds = _labels(kind.patients, kind.rare), np.arange(kind.patients) % FOLDS
    inner, new = _labels(max(10, round(0.16 * kind.patients)), kind.rare), _labels(NEW, 0.5)
    out = margins(labels)[folds, np.arange(kind.patients)]
    return Cohort(labels, folds, out, inner, margins(inner)[0], new, margins(new))


def _labels(patients: int, rare: float) -> np.ndarray:
    return (np.arange(patients) < max(FOLDS if patients > 10 else 1, round(rare * patients))).astype(np.int64)


def logits(margins_N: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(margins_N), margins_N], axis=1)


def told_by(log_t_T: np.ndarray, margins_N: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return the true classes' probabilities (T, N)."""
    told = softmax(logits(margins_N)[None] / np.exp(log_t_T)[:, None, None])
    return np.asarray(told[:, np.arange(len(labels_N)), labels_N])


def temperature_alone(margins_N: np.ndarray, labels_N: np.ndarray, softer: float, sharper: float) -> float:
    """Return the most probable T without a share of chance."""
    log_t = calibrate._LOG_T
    told = softmax(logits(margins_N)[None] / np.exp(log_t)[:, None, None])[:, np.arange(len(labels_N)), labels_N]
    cost = calibrate._surprise(told, labels_N, 0.0, 2) + (log_t / np.where(log_t > 0, softer, sharper)) ** 2 / 2
    return float(np.exp(log_t[cost.argmin()]))


def raw(cohort: Cohort, others: np.ndarray) -> Calibration:
    return Calibration()


def inner_validation(cohort: Cohort, others: np.ndarray) -> Calibration:
    return Calibration("", temperature_alone(cohort.inner_margins_V, cohort.inner_labels_V, 2.0, 2.0))


def alone(cohort: Cohort, others: np.ndarray) -> Calibration:
    margins, labels = cohort.margins_P[others], cohort.labels_P[others]
    return Calibration("", temperature_alone(margins, labels, calibrate.SOFTER_SD, calibrate.SHARPER_SD))


def least_share(cohort: Cohort, others: np.ndarray) -> Calibration:
    rarest = int(np.bincount(cohort.labels_P[others]).min())
    return Calibration("", alone(cohort, others).temperature, floor=calibrate.DOUBT / (rarest + 1) / 2)


def softer_only(cohort: Cohort, others: np.ndarray) -> Calibration:
    labels, log_t = cohort.labels_P[others], calibrate._LOG_T
    doubt = calibrate.DOUBT / (int(np.bincount(labels).min()) + 1)
    found, share = calibrate._temperature_and_share(
        logits(cohort.margins_P[others]), labels, doubt, log_t[log_t > -1e-9]
    )
    return Calibration("", float(np.exp(found)), floor=share / 2)


def together(cohort: Cohort, others: np.ndarray) -> Calibration:
    return fit_calibration("temperature", logits(cohort.margins_P[others]), cohort.labels_P[others])


WAYS: dict[str, Callable[[Cohort, np.ndarray], Calibration]] = {
    "raw logits": raw,
    "T on inner validation patients, weak prior": inner_validation,
    "T alone, this prior": alone,
    "T, then the least share": least_share,
    "T >= 1 and share together": softer_only,
    "**T and share together**": together,
}


def loss(calibration: Calibration, margins_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the weighted log loss."""
    return float(weighted_log_loss(labels_N, calibration.probabilities(logits(margins_N)), ones(len(labels_N)))[0])


def hindsight(margins_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the least loss that any T and share have."""
    told = told_by(calibrate._LOG_T[::3], margins_N, labels_N)
    return min(-float(np.log(share / 2 + (1 - share) * told).mean(1).max()) for share in np.geomspace(1e-4, 0.95, 12))


def losses(kind: Kind, seed: int) -> dict[str, float]:
    """Return the loss of each way for the first fold's model, and of the mean of the five models."""
    cohort = simulated(kind, np.random.default_rng(seed))
    others, first, labels = cohort.folds_P != 0, cohort.new_margins_FN[0], cohort.new_labels_N
    found = {name: loss(way(cohort, others), first, labels) for name, way in WAYS.items()}
    mean = cohort.new_margins_FN.mean(0)
    everyone = np.ones(len(cohort.labels_P), bool)
    found["mean raw"], found["mean"] = loss(Calibration(), mean, labels), loss(together(cohort, everyone), mean, labels)
    found["hindsight"] = hindsight(first, labels)
    return found


def compared(step: int = 1, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return each way's losses, and which cohorts have wild logits, of every ``step``-th kind."""
    own = list(kinds())[::step]
    found = [losses(kind, seed + number) for number, kind in enumerate(own)]
    return {name: np.array([one[name] for one in found]) for name in found[0]}, np.array([kind.wild for kind in own])


def test_the_chosen_way_is_the_best_but_hindsight() -> None:
    found, wild = compared(step=61)
    chosen = found["**T and share together**"]
    assert len(list(kinds())) == 1440
    assert 0.2 < wild.mean() < 0.5
    for those in (wild, ~wild):
        assert found["hindsight"][those].mean() < chosen[those].mean() < found["raw logits"][those].mean() - 0.05
    assert (chosen < found["hindsight"] - 0.002).sum() == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_order_of_the_ways_is_that_of_the_page() -> None:
    found, wild = compared(step=5)
    for those in (wild, ~wild):
        mean = {name: float(of[those].mean()) for name, of in found.items()}
        assert mean["**T and share together**"] == min(mean[name] for name in WAYS)
        assert mean["mean"] < mean["mean raw"]


def main() -> None:
    """Print the page's table."""
    found, wild = compared()
    print("| | mean, no wild logits | cohorts worse than raw by > .01 | mean, 2 % wild | worse by > .01 |")
    print("|---|---|---|---|---|")
    for name in (*WAYS, "hindsight", "mean raw", "mean"):
        cells = []
        for those in (~wild, wild):
            worse = (found[name] - found["raw logits"] > WORSE)[those].mean()
            cells += [f"{found[name][those].mean():.3f}", f"{worse:.3f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
