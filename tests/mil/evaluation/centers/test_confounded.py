"""When the center is blamed: simulated cohorts in which it is known what a run tells.

python tests/mil/evaluation/centers/test_confounded.py      prints the table of docs/EVIDENCE.md

Twelve features: the first tells the disease by `tissue` deviations, one for each center tells the center by `seen`. Of
four patients in ten who have it, a confounding of 0 gives every center the same share, 1 gives whole centers to one
class. Logistic regressions are cross-validated; what they tell of tissue is their area within centers on 3,000 new
patients whose centers do not differ. They tell the center where less than half of the cohort's gain is left there.
"""

from itertools import product

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from mil.evaluation.bootstrap import draw_patients, estimate
from mil.evaluation.centers.within import within_centers
from mil.run.confounding import told_by_center
from mil.targets import ClassTarget
from wsi.arrays import Floats, Ints
from wsi.recipe import Json

FOLDS, DRAWS, NEW, SHARE = 5, 300, 3000, 0.4


def drawn(
    rng: np.random.Generator, patients: int, centers: int, confounding: float, tissue: float, seen: float
) -> tuple[Floats, Ints, Ints]:
    """Return features, who has the disease, and the centers."""
    center = rng.integers(centers, size=patients)
    whole = np.arange(centers) < max(1, round(SHARE * centers))
    has = (rng.random(patients) < (SHARE * (1 - confounding) + confounding * whole)[center]).astype(np.int64)
    features = rng.normal(size=(patients, 12))
    features[:, 0] += tissue * has
    features[:, 2 : 2 + centers] += seen * np.eye(centers)[center]
    return features, has, center


@pytest.mark.parametrize(
    ("own", "center", "pooled", "said"),
    [
        (0.85, 0.70, {"value": 0.85, "low": 0.80}, False),  # within centers as much is told
        (0.85, 0.70, {"value": 0.66, "low": 0.55}, True),  # less than half is left
        (0.85, 0.70, {"value": 0.70, "low": 0.48}, True),  # what is left may be chance
        (0.85, 0.70, None, True),  # nothing can be compared within centers
        (0.85, 0.65, None, False),  # the center alone does not reach half as far
        (0.85, None, None, False),
    ],
)
def test_the_center_is_blamed_where_it_reaches_far_and_little_is_left_within(
    own: float, center: float | None, pooled: Json | None, said: bool
) -> None:
    spread = {"patients": {"value": own}, "centers": pooled and {"pooled": pooled}}
    assert told_by_center(own, center, 0.5, spread) is said


def judged(patients: int, centers: int, confounding: float, tissue: float, seen: float, seed: int) -> Json:
    """Return what a run tells, what the rule says of it, and what would be right."""
    rng = np.random.default_rng([seed, patients, centers, *(round(10 * own) for own in (confounding, tissue, seen))])
    features, has, center = drawn(rng, patients, centers, confounding, tissue, seen)
    new, new_has, new_center = drawn(rng, NEW, centers, 0.0, tissue, seen)
    told, folds, areas = np.zeros((patients, 2)), np.zeros(patients, np.int64), []
    for fold, (train, test) in enumerate(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, has)):
        model = LogisticRegression(C=0.1).fit(features[train], has[train])
        told[test], folds[test] = model.predict_proba(features[test]), fold
        each = [(new_has[new_center == own], model.decision_function(new[new_center == own])) for own in range(centers)]
        areas.append(np.mean([roc_auc_score(*own) for own in each]))
    truth, names, draws_BP = (
        ClassTarget(has, ("no", "yes")),
        [str(own) for own in center],
        draw_patients(patients, 0, DRAWS),
    )
    own = estimate(truth.measures(told, folds)["auc"], draws_BP)
    by_center = truth.by_center(names, folds)
    assert by_center is not None
    alone = estimate(truth.measures(by_center, folds)["auc"], draws_BP)
    within = within_centers(lambda strata_P: truth.measures(told, strata_P)["auc"], truth, names, folds, draws_BP)
    reached = alone["value"] if alone["low"] > 0.5 else None
    left = float(np.mean(areas))
    return {
        "own": own["value"], "alone": alone["value"], "left": left, "above": own["low"] > 0.5,
        "right": left - 0.5 < (own["value"] - 0.5) / 2,
        "before": told_by_center(own["value"], reached, 0.5, {}),
        "said": told_by_center(own["value"], reached, 0.5, {"patients": own, "centers": within}),
    }  # fmt: skip


def table(patients: int, confounding: float, tissue: float, seen: float, cohorts: int) -> dict[str, float]:
    """Return means over cohorts of 2, 3 and 6 centers in which the run is above chance, and how many are."""
    each = [judged(patients, n, confounding, tissue, seen, seed) for n, seed in product((2, 3, 6), range(cohorts))]
    above = [own for own in each if own["above"]]
    return {key: float(np.mean([own[key] for own in above])) for key in above[0]} | {"above": len(above) / len(each)}


@pytest.mark.slow
def test_a_run_that_tells_tissue_is_not_blamed_and_one_that_tells_the_center_is() -> None:
    tissue, center = table(300, 0.6, 1.5, 2.0, 5), table(300, 0.6, 0.0, 2.0, 5)
    assert (tissue["right"], tissue["before"], tissue["said"]) == (0, 1, 0)
    assert (center["right"], center["before"], center["said"]) == (1, 1, 1)


def main() -> None:
    """Print the table."""
    for tissue, seen in ((0.0, 2.0), (0.75, 2.0), (1.5, 2.0), (1.5, 0.0)):
        for confounding, patients in product((0.0, 0.3, 0.6, 1.0), (100, 300)):
            own = table(patients, confounding, tissue, seen, 40)
            told = (own[key] for key in ("above", "own", "alone", "left", "right", "before", "said"))
            print(tissue, seen, confounding, patients, *(f"{value:.2f}" for value in told), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
