"""The mean over centers, against statsmodels and by hand."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from mil.evaluation.spread.random_effects import random_effects


def drawn(seed: int, between: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    variances = rng.uniform(0.001, 0.01, size=int(rng.integers(3, 12)))
    return 0.8 + between * rng.normal(size=len(variances)) + np.sqrt(variances) * rng.normal(
        size=len(variances)
    ), variances


@pytest.mark.parametrize("seed", range(8))
def test_it_is_that_of_statsmodels_where_centers_differ(seed: int) -> None:
    values, variances = drawn(seed, 0.3)
    found, known = random_effects(values, variances), combine_effects(values, variances, method_re="dl", use_t=True)
    assert found is not None
    assert known.tau2 > 0  # else theirs is negative, and ours 0
    assert found.value == pytest.approx(known.mean_effect_re, abs=1e-9)
    assert found.between**2 == pytest.approx(known.tau2, abs=1e-9)
    assert found.inconsistency == pytest.approx(known.i2, abs=1e-9)
    hartung_knapp = stats.t.ppf(0.975, len(values) - 1) * known.sd_eff_w_re_hksj
    assert (found.high - found.low) / 2 == pytest.approx(max(hartung_knapp, stats.norm.ppf(0.975) * known.sd_eff_w_re))
    # Higgins, Thompson and Spiegelhalter 2009
    further = stats.t.ppf(0.975, len(values) - 2) * np.sqrt(known.tau2 + known.sd_eff_w_re**2)
    assert (found.next_high - found.next_low) / 2 == pytest.approx(further)


def test_centers_that_agree_by_chance_are_no_point() -> None:
    """Equal values: Hartung and Knapp's width is 0, so that of the patients alone stands."""
    found = random_effects(np.array([0.8, 0.8]), np.array([0.01, 0.01]))
    assert found is not None
    assert found.value == pytest.approx(0.8)
    assert found.between == found.inconsistency == 0
    assert found.high - found.value == pytest.approx(1.96 * np.sqrt(0.005), abs=1e-4)
    assert np.isnan(found.next_low)
    assert found.told()["next_low"] is None


def test_two_centers_by_hand() -> None:
    """Q = .2 ** 2 / .02 = 2; tau2 = (2 - 1) / (200 - 100) = .01; each weighs 50, the t of one degree is 12.71."""
    found = random_effects(np.array([0.7, 0.9]), np.array([0.01, 0.01]))
    assert found is not None
    assert [found.value, found.between] == pytest.approx([0.8, 0.1])
    assert found.high - found.value == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert random_effects(np.array([0.7]), np.array([0.01])) is None
    assert random_effects(np.array([0.7, 0.9]), np.array([0.01, 0.0])) is None
