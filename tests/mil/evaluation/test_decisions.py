"""Operating points, calibration and net benefit, against scikit-learn, statsmodels, and values worked out by hand."""

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef, precision_score, recall_score, roc_curve
from statsmodels.stats.proportion import proportion_confint

from mil.evaluation.bootstrap import draw_patients
from mil.evaluation.decisions.called import exact_at_the_end, measures, told_of_calls
from mil.evaluation.decisions.decide import Answered, chosen_on_all, chosen_on_others, decisions
from mil.evaluation.decisions.net_benefit import ends_of_net_benefit, net_benefit, of_acting_on_all
from mil.evaluation.decisions.recalibration import equal_classes, log_odds, slope_and_intercept, told_of_calibration
from mil.evaluation.decisions.rules import Rule, choose_cut, parse_rule
from mil.targets import ClassTarget, LabelsTarget
from mil.targets.questions import at_prevalence, parse_prevalence
from wsi.errors import RequestError


def told(n: int, seed: int = 0, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < share
    return positive, 1 / (1 + np.exp(-(rng.normal(size=n) + 1.5 * positive - 0.7)))


def rows_of(weights: np.ndarray) -> list[int]:
    return [i for i, times in enumerate(weights.astype(int)) for _ in range(times)]


def test_measures_of_calls_are_those_of_scikit_learn_in_every_draw() -> None:
    positive, probs = told(60)
    called = probs >= 0.45
    draws = draw_patients(60, 1, 30)
    found = {name: own(draws) for name, own in measures(positive, called).items()}
    for b, weights in enumerate(draws):
        rows = rows_of(weights)
        y, c = positive[rows], called[rows]
        wanted = {
            "sensitivity": recall_score(y, c),
            "specificity": recall_score(~y, ~c),
            "ppv": precision_score(y, c),
            "npv": precision_score(~y, ~c),
            "f1": f1_score(y, c),
            "mcc": matthews_corrcoef(y, c),
        }
        for name, value in wanted.items():
            assert found[name][b] == pytest.approx(value, abs=1e-9), name
    tn, fp, fn, tp = confusion_matrix(positive, called).ravel()
    own = told_of_calls(positive, called, draws)
    assert (own["tp"], own["fp"], own["fn"], own["tn"]) == (tp, fp, fn, tn)


def test_a_share_that_no_draw_moves_has_the_exact_interval() -> None:
    for size in (1, 7, 40):
        for share in (0.0, 1.0):
            wanted = proportion_confint(round(share * size), size, 0.05, "beta")
            assert exact_at_the_end(share, size) == pytest.approx(wanted, abs=1e-9)
    positive = np.arange(30) < 10
    own = told_of_calls(positive, positive, draw_patients(30, 0, 200))
    assert own["sensitivity"] == {"value": 1.0, "low": pytest.approx(0.025**0.1), "high": 1.0}
    assert own["specificity"]["low"] == pytest.approx(0.025**0.05)
    grouped = told_of_calls(positive, positive, draw_patients(30, 0, 200), groups=6)
    assert grouped["sensitivity"]["low"] == pytest.approx(0.025 ** (1 / 6))  # ten slides of six patients at most


def test_shares_have_wilsons_interval_and_grouped_rows_that_of_the_draws() -> None:
    positive, probs = told(60)
    called, draws = probs >= 0.45, draw_patients(60, 0, 300)
    own = told_of_calls(positive, called, draws)
    wanted = proportion_confint(own["tp"], own["tp"] + own["fp"], 0.05, "wilson")
    assert (own["ppv"]["low"], own["ppv"]["high"]) == pytest.approx(wanted, abs=1e-9)
    grouped = told_of_calls(positive, called, draws, groups=40)
    values = measures(positive, called)["ppv"](draws)
    assert (grouped["ppv"]["low"], grouped["ppv"]["high"]) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert own["mcc"] == grouped["mcc"]


def test_nobody_called_is_told_as_not_defined() -> None:
    own = told_of_calls(np.arange(10) < 4, np.zeros(10, bool), draw_patients(10, 0, 50))
    assert own["ppv"] == {"value": None, "low": None, "high": None}
    assert own["mcc"]["value"] == 0


def test_the_youden_cut_is_the_highest_of_the_roc_curve() -> None:
    positive, probs = told(200)
    cut = choose_cut(Rule("youden"), positive, probs)
    assert cut is not None
    low, high, _ = roc_curve(positive, probs)
    called = probs >= cut.at
    assert called[positive].mean() - called[~positive].mean() == pytest.approx((high - low).max(), abs=1e-12)
    assert (cut.positives, cut.negatives) == (positive.sum(), (~positive).sum())


def test_a_wanted_share_leaves_the_next_patient_room() -> None:
    """19 with it: for 95 % the cut lies below all of them, at 39 below all but one; for 18 it is not to be had."""
    for size, missed, expected in ((19, 0, 0.95), (39, 1, 0.95), (18, 0, 1 - 1 / 19), (5, 0, 5 / 6)):
        probs = np.linspace(0.01, 0.99, 4 * size)
        positive = np.arange(4 * size) % 4 == 0
        cut = choose_cut(Rule("sensitivity", 0.95), positive, probs)
        assert cut is not None
        assert (probs[positive] < cut.at).sum() == missed
        assert cut.expected == pytest.approx(expected)
        mirrored = choose_cut(Rule("specificity", 0.95), ~positive, 1 - probs)
        assert mirrored is not None
        assert ((1 - probs)[positive] >= mirrored.at).sum() == missed
        assert mirrored.expected == pytest.approx(expected)


def test_the_cut_for_a_cost_is_the_cheapest_of_all() -> None:
    positive, probs = told(80, seed=3)
    for miss in (0.2, 1.0, 7.0):
        cut = choose_cut(Rule("cost", miss), positive, probs)
        assert cut is not None

        def cost(at: float, miss: float = miss) -> float:
            return miss * float((positive & (probs < at)).sum()) + float((~positive & (probs >= at)).sum())

        assert cost(cut.at) == min(map(cost, [*probs, 1.1]))


def test_a_cut_needs_both_kinds_of_patients() -> None:
    assert choose_cut(Rule("youden"), np.ones(4, bool), np.linspace(0, 1, 4)) is None


@pytest.mark.parametrize(
    "text", ["", "sensitivity", "sensitivity=1", "specificity=0", "cost=-1", "cost=inf", "cost=ten", "youden=1"]
)
def test_other_rules_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="expected youden, sensitivity=SHARE"):
        parse_rule(text)


def test_rules_read_back() -> None:
    for text in ("youden", "sensitivity=0.95", "specificity=0.9", "cost=10"):
        assert parse_rule(text).text == text


@pytest.mark.parametrize("balanced", [False, True])
def test_slope_and_intercept_are_those_of_statsmodels(balanced: bool) -> None:
    positive, probs = told(90)
    draws = np.concatenate([np.ones((1, 90)), draw_patients(90, 5, 12)])
    weights = equal_classes(positive, draws) if balanced else draws
    slopes, intercepts = slope_and_intercept(positive, probs, weights)
    x, y = log_odds(probs), positive.astype(float)
    for own, slope, intercept in zip(weights, slopes, intercepts, strict=True):
        with warnings.catch_warnings(action="ignore"):
            both = sm.GLM(y, sm.add_constant(x), sm.families.Binomial(), freq_weights=own).fit(tol=1e-13)
            alone = sm.GLM(y, np.ones(90), sm.families.Binomial(), freq_weights=own, offset=x).fit(tol=1e-13)
        assert slope == pytest.approx(both.params[1], abs=1e-6)
        assert intercept == pytest.approx(alone.params[0], abs=1e-6)


def test_equal_classes_weigh_the_same_in_every_draw() -> None:
    positive, _ = told(50)
    weights = equal_classes(positive, draw_patients(50, 0, 20))
    np.testing.assert_allclose(weights @ positive, 25)
    np.testing.assert_allclose(weights.sum(axis=1), 50)


def test_a_slope_without_bound_is_not_told_as_a_number() -> None:
    positive = np.arange(40) >= 28
    probs = np.where(positive, 0.9, 0.1) + np.linspace(-0.05, 0.05, 40)
    found = told_of_calibration(positive, probs, draw_patients(40, 0, 200), balanced=False)
    assert found["slope"] == {"value": None, "low": None, "high": None}
    assert found["intercept"]["value"] is not None
    slopes, _ = slope_and_intercept(positive, 1 - probs, np.ones((1, 40)))
    assert slopes[0] == -np.inf


def test_an_interval_reaches_up_without_bound_where_some_draws_have_none() -> None:
    positive = np.arange(30) >= 20
    probs = np.where(positive, 0.8, 0.2) + np.linspace(-0.05, 0.05, 30)
    probs[0] = 0.9  # the only one on the wrong side: a third of the draws do not hold it
    found = told_of_calibration(positive, probs, draw_patients(30, 0, 400), balanced=False)
    assert found["slope"]["value"] is not None
    assert found["slope"]["low"] is not None
    assert found["slope"]["high"] is None


def test_net_benefit_by_hand() -> None:
    """Ten patients, three with it; from 0.2 on, two of these and one other are called: 2/10 - 1/10 * 0.25."""
    positive = np.array([True] * 3 + [False] * 7)
    probs = np.array([0.9, 0.5, 0.1, 0.3] + [0.05] * 6)
    once = np.ones((1, 10))
    assert net_benefit(positive, probs, once, np.array([0.2]))[0, 0] == pytest.approx(0.2 - 0.1 * 0.25)
    assert of_acting_on_all(positive, once, np.array([0.2]))[0, 0] == pytest.approx(0.3 - 0.7 * 0.25)
    assert net_benefit(positive, probs, once, np.array([0.99]))[0, 0] == 0


def test_f1_and_net_benefit_have_the_interval_of_the_cells_with_jeffreys_prior() -> None:
    """F1 is 2x / (1 + x), x the share of the found among all but true negatives: Beta(tp + 1/2, fp + fn + 1)."""
    positive, called = np.arange(50) < 15, (np.arange(50) >= 4) & (np.arange(50) < 22)  # 11, 7, 4, 28
    draws = draw_patients(50, 0, 20_000)
    x = stats.beta.ppf([0.025, 0.975], 11.5, 12)
    found = told_of_calls(positive, called, draws)["f1"]
    assert (found["low"], found["high"]) == pytest.approx(tuple(2 * x / (1 + x)), abs=0.02)
    unseen, cells = np.random.default_rng(0).standard_gamma(0.5, size=(4, 20_000)), []
    for has, said, more in zip((True, False, True, False), (True, True, False, False), unseen, strict=True):
        cells.append(draws[:, (positive == has) & (called == said)].sum(axis=1) + more)
    f1 = 2 * cells[0] / (2 * cells[0] + cells[1] + cells[2])
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.percentile(f1, [2.5, 97.5])), abs=1e-9)
    worth = (cells[0] - cells[1] * 0.3 / 0.7) / np.sum(cells, axis=0)
    low, high = ends_of_net_benefit(positive, np.where(called, 0.4, 0.2), draws, np.array([0.1, 0.3]))
    assert (low[1], high[1]) == pytest.approx(tuple(np.percentile(worth, [2.5, 97.5])), abs=1e-9)


def test_probabilities_at_another_prevalence_are_bayes_rule() -> None:
    """Scores of two normal distributions one apart: the posterior at a prevalence of .1 is known in closed form."""
    x = np.linspace(-3, 4, 50)
    equal = 1 / (1 + np.exp(-(x - 0.5)))
    real = 1 / (1 + np.exp(-(x - 0.5 + np.log(0.1 / 0.9))))
    found = at_prevalence(np.stack([1 - equal, equal], axis=1), np.array([0.9, 0.1]))
    np.testing.assert_allclose(found[:, 1], real, atol=1e-12)


def test_a_prevalence_is_read_and_refused() -> None:
    np.testing.assert_allclose(parse_prevalence({"LAA": 0.2}, ("CE", "LAA")), [0.8, 0.2])
    np.testing.assert_allclose(parse_prevalence({"b": 0.5, "a": 0.2}, ("a", "b", "c")), [0.2, 0.5, 0.3])
    for wrong in ({"X": 0.1}, {"CE": 0.2, "LAA": 0.2}, {"LAA": 1.0}, {}):
        with pytest.raises(RequestError):
            parse_prevalence(wrong, ("CE", "LAA"))
    with pytest.raises(RequestError, match="all classes but one"):
        parse_prevalence({"a": 0.2}, ("a", "b", "c"))


def test_a_fold_is_cut_where_the_other_folds_say() -> None:
    positive, probs = told(60)
    folds = np.arange(60) % 3
    truth = ClassTarget(positive.astype(np.int64), ("CE", "LAA"))
    answered = Answered(
        truth=truth,
        told_PC=np.stack([1 - probs, probs], axis=1),
        prevalence_PC=truth.blind(folds),
        folds_P=folds,
        groups=[str(i) for i in range(60)],
    )
    (own,) = chosen_on_others(answered, Rule("youden"))
    called = np.zeros(60, bool)
    for fold in range(3):
        wanted = choose_cut(Rule("youden"), positive[folds != fold], probs[folds != fold])
        assert own.by_fold[fold] == wanted
        assert wanted is not None
        called[folds == fold] = probs[folds == fold] >= wanted.at
    (found,) = decisions(answered, [[own]])
    assert found["question"] == "LAA"
    assert found["operating"][0]["sensitivity"]["value"] == called[positive].mean()
    assert found["calibration"]["equal"] != found["calibration"]["cohort"]
    assert chosen_on_all(answered, Rule("youden")) == [choose_cut(Rule("youden"), positive, probs)]


def test_labels_are_asked_one_by_one_and_unknown_ones_left_out() -> None:
    rng = np.random.default_rng(0)
    present = (rng.random((40, 2)) < 0.4).astype(float)
    present[:5, 1] = np.nan
    truth = LabelsTarget(present, ("a", "b"))
    answered = Answered(
        truth=truth, told_PC=rng.random((40, 2)), prevalence_PC=truth.blind(np.arange(40) % 2),
        folds_P=np.arange(40) % 2, groups=[str(i) for i in range(40)],
    )  # fmt: skip
    chosen = [chosen_on_others(answered, Rule("youden"))]
    found = decisions(answered, chosen)
    assert [(own["question"], own["patients"]) for own in found] == [("a", 40), ("b", 35)]
    assert set(found[0]["calibration"]) == {"cohort"}
