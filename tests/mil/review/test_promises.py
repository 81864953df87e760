"""What suspects and worklists are worth where the truth is known: the tables of docs/EVIDENCE.md.

    PYTHONPATH=.:tests python tests/mil/review/test_promises.py

Models are logistic regressions on ten features, cross-validated and calibrated as a run's are.
"""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from mil.evaluation.calibrate import fit_calibration
from mil.review.confident import suspects
from mil.review.informative import chosen, disagreement, uncertainty
from mil.targets.questions import at_prevalence

Rng = np.random.Generator
WAYS = ("random", "uncertainty", "disagreement")


def cohort(rng: Rng, patients: int, auc: float, rare: float) -> tuple[np.ndarray, np.ndarray]:
    """Return ten features, of which the first shows the class, and the true classes; 1 is the rare one."""
    truth = (np.arange(patients) < round(rare * patients)).astype(np.int64)
    rows = rng.normal(size=(patients, 10))
    rows[:, 0] += np.sqrt(2) * NormalDist().inv_cdf(auc) * truth
    return rows, truth


def told(rows: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return out-of-fold probabilities at the frequency of the classes."""
    odds, folds = np.zeros((len(rows), 2)), np.zeros(len(rows), np.int64)
    for fold, (train, test) in enumerate(StratifiedKFold(5, shuffle=True, random_state=0).split(rows, given)):
        odds[test, 1] = model(rows[train], given[train]).decision_function(rows[test])
        folds[test] = fold
    probs = np.zeros_like(odds)
    for fold in range(5):
        mine = folds == fold
        probs[mine] = fit_calibration("temperature", odds[~mine], given[~mine]).probabilities(odds[mine])
    return at_prevalence(probs, np.bincount(given) / len(given))


def model(rows: np.ndarray, given: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=0.3, class_weight="balanced").fit(rows, given)


def found(rng: Rng, patients: int, auc: float, rare: float, wrong: float) -> tuple[float, ...]:
    """Return how many are suspects, their precision and recall, and that of the surest, as many as are wrong."""
    rows, truth = cohort(rng, patients, auc, rare)
    flipped = np.zeros(patients, bool)
    flipped[rng.permutation(patients)[: round(wrong * patients)]] = True
    named, _ = suspects(np.where(flipped, 1 - truth, truth), told(rows, np.where(flipped, 1 - truth, truth)))
    surest = named[: flipped.sum()]
    hits = flipped[named].sum()
    return len(named), hits / max(1, len(named)), hits / flipped.sum(), flipped[surest].mean() if len(surest) else 0.0


def suspects_table(cohorts: int) -> dict[tuple[float, ...], np.ndarray]:
    """Return the means over cohorts, by patients, AUC, share of the rare class and share that is wrong."""
    asked = [(400, 0.85, 0.3, wrong) for wrong in (0.05, 0.1, 0.2)]
    asked += [(n, auc, 0.3, 0.1) for n in (100, 400) for auc in (0.75, 0.85, 0.95) if (n, auc) != (400, 0.85)]
    return {own: np.mean([found(np.random.default_rng([s, 1]), *own) for s in range(cohorts)], axis=0) for own in asked}


def learnt(seed: int, way: str, rounds: int = 5, each: int = 10) -> list[float]:
    """Return the AUC on 2,000 new patients, round by round, from 20 labelled ones of 400; 10 % are of a rare class."""
    rows, truth = cohort(np.random.default_rng([seed, 2]), 400, 0.9, 0.1)
    new, new_truth = cohort(np.random.default_rng([seed, 3]), 2000, 0.9, 0.1)
    rng = np.random.default_rng([seed, 4])
    labelled = np.concatenate([rng.choice(np.flatnonzero(truth == c), 10, replace=False) for c in range(2)]).tolist()
    aucs = []
    for _ in range(rounds):
        parts = StratifiedKFold(5, shuffle=True, random_state=0).split(rows[labelled], truth[labelled])
        committee = [model(rows[labelled][train], truth[labelled][train]) for train, _ in parts]
        aucs.append(float(roc_auc_score(new_truth, np.mean([own.decision_function(new) for own in committee], axis=0))))
        left = np.setdiff1d(np.arange(400), labelled)
        told_MPC = np.stack([own.predict_proba(rows[left]) for own in committee])
        scores: dict[str, Callable[[], np.ndarray]] = {
            "random": lambda: rng.random(len(left)),  # noqa: B023
            "uncertainty": lambda: uncertainty("classes", told_MPC.mean(axis=0)),  # noqa: B023
            "disagreement": lambda: disagreement("classes", told_MPC, np.ones(told_MPC.shape[:2], bool)),  # noqa: B023
        }
        points = None if way == "random" else rows[left] / rows[left].std(axis=0)
        labelled += left[chosen(scores[way](), points, each)[0]].tolist()
    return aucs


def learning_table(cohorts: int) -> dict[str, np.ndarray]:
    """Return the AUC of each cohort after each round, (cohorts, rounds), by the way of choosing."""
    return {way: np.array([learnt(seed, way) for seed in range(cohorts)]) for way in WAYS}


@pytest.mark.slow
def test_suspects_are_wrong_far_more_often_than_others() -> None:
    for (_, _, _, wrong), (_, precision, recall, surest) in suspects_table(20).items():
        assert precision > 2 * wrong
        assert recall > 0.35
        assert surest > 2 * wrong


@pytest.mark.slow
def test_a_worklist_teaches_more_than_chance() -> None:
    table = learning_table(40)
    for way in WAYS[1:]:
        gain = (table[way] - table["random"])[:, 1:].mean(axis=1)
        assert gain.mean() > 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))


if __name__ == "__main__":
    for asked, means in suspects_table(40).items():
        print("| " + " | ".join(f"{own:g}" for own in asked) + " | " + " | ".join(f"{own:.2f}" for own in means) + " |")
    ways = learning_table(40)
    for way, aucs in ways.items():
        gain = (aucs - ways["random"])[:, 1:].mean(axis=1)
        spread = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
        cells = " | ".join(f"{own:.3f}" for own in aucs.mean(axis=0))
        print(f"| {way} | {cells} | {gain.mean():+.3f} ({gain.mean() - spread:+.3f} to {gain.mean() + spread:+.3f}) |")
