"""Which heads respect the assumptions of multiple instance learning: the tables of docs/HEADS.md.

    PYTHONPATH=tests python tests/benchmarks/bench_assumptions.py [SEEDS]

Every figure is the mean over seeds of the area under the ROC curve.
"""

import sys

import numpy as np
import torch
from synthetic_bags import UNIT_TESTS, ShiftedMean, auc, scores, train_head, unit_test_bags

from mil.heads import HEADS

TRAINED, TESTED = 400, 400


def unit_test_table(seeds: int) -> None:
    """Print a row for each head: AUC in training and in test, for each unit test."""
    print("| head | " + " | ".join(f"{name}: train / test" for name in UNIT_TESTS) + " |")
    print("|---" * (len(UNIT_TESTS) + 1) + "|")
    for head in HEADS:
        cells = []
        for name in UNIT_TESTS:
            found = [_unit_test(head, name, seed) for seed in range(seeds)]
            trained, tested = np.mean(found, axis=0)
            cells.append(f"{trained:.2f} / {tested:.2f}")
        print(f"| {head} | " + " | ".join(cells) + " |", flush=True)


def _unit_test(head: str, name: str, seed: int) -> tuple[float, float]:
    train, test = (unit_test_bags(name, count, flag, seed) for count, flag in ((TRAINED, True), (TESTED, False)))
    model = train_head(head, train, seed=seed)
    return auc(train.labels_N, scores(model, train)), auc(test.labels_N, scores(model, test))


def shifted_mean_table(seeds: int) -> None:
    """Print a row for each head on bags with a single shifted instance, and with three neighbours shifted."""
    sets = {"one instance, shift 3": ShiftedMean(run=1, shift=3.0), "three neighbours, shift 2": ShiftedMean()}
    print("| head | " + " | ".join(sets) + " |")
    print("|---" * (len(sets) + 1) + "|")
    drawn = {name: (rule.draw(1200, 1), rule.draw(2000, 2)) for name, rule in sets.items()}
    for title, ask in (("optimum", "log_odds"), ("optimum without order", "log_odds_unordered")):
        cells = []
        for name, rule in sets.items():
            test = drawn[name][1]
            cells.append(f"{auc(test.labels_N, np.array([getattr(rule, ask)(bag) for bag in test.bags])):.3f}")
        print(f"| *{title}* | " + " | ".join(cells) + " |")
    for head in HEADS:
        cells = []
        for train, test in drawn.values():
            found = [auc(test.labels_N, scores(train_head(head, train, epochs=15, seed=s), test)) for s in range(seeds)]
            cells.append(f"{np.mean(found):.3f}")
        print(f"| {head} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    unit_test_table(asked)
    print()
    shifted_mean_table(asked)
