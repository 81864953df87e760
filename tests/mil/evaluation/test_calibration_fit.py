"""The fit of a calibration against its definition, written out patient by patient and searched another way."""

from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize

from mil.evaluation.calibrate import choose_method, fit_calibration
from mil.targets.calibration import Calibration, calibration_of

STEPS = np.exp(np.linspace(np.log(0.5), np.log(50), 94))
FURTHER = (0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45)


def told(logits: np.ndarray, temperature: float, share: float, shift: np.ndarray) -> np.ndarray:
    """Return each patient's probabilities."""
    powers = np.exp(logits / temperature + shift - (logits / temperature + shift).max())
    return share / len(logits) + (1 - share) * powers / powers.sum()


def cost(
    logits: np.ndarray, labels: np.ndarray, temperature: float, share: float, further: float, shift: np.ndarray
) -> float:
    """Return the surprise of the patients and of the values: exponential share, normal log T and shifts."""
    n_classes = logits.shape[1]
    counts = [int((labels == c).sum()) for c in range(n_classes)]
    balanced = sum(
        -np.log(told(row, temperature, share, shift)[label]) / counts[label] / n_classes
        for row, label in zip(logits, labels, strict=True)
    )
    worth = n_classes**2 / sum(1 / count for count in counts)
    spread = 1.0 if temperature > 1 else 0.2
    own = (np.log(temperature) / spread) ** 2 / 2 + further / 0.1 + float((shift / 0.3) @ (shift / 0.3)) / 2
    return float(balanced * worth + own)


def cohort(seed: int, sizes: tuple[int, ...], sure: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return sure * (rng.normal(size=(len(labels), len(sizes))) + np.eye(len(sizes))[labels]), labels


@pytest.mark.parametrize(("sizes", "sure"), [((9, 5), 3.0), ((6, 12, 4), 1.0), ((14, 14), 0.3), ((30, 3), 6.0)])
def test_temperature_and_share_are_the_most_probable(sizes: tuple[int, ...], sure: float) -> None:
    logits, labels = cohort(3, sizes, sure)
    found = fit_calibration("temperature", logits, labels)
    doubt = 0.5 / (min(sizes) + 1)
    none = np.zeros(len(sizes))
    pairs = [
        (cost(logits, labels, t, doubt + f * (1 - doubt), f, none), t, doubt + f * (1 - doubt))
        for f, t in product(FURTHER, STEPS)
    ]
    _, temperature, share = min(pairs)
    assert found.temperature == pytest.approx(temperature)
    assert found.floor == pytest.approx(share / len(sizes))
    assert found.shift == ()


@pytest.mark.parametrize("method", ["prior", "platt"])
@pytest.mark.parametrize(("sizes", "sure"), [((9, 5), 3.0), ((6, 12, 4), 1.0)])
def test_shifts_are_the_most_probable(method: str, sizes: tuple[int, ...], sure: float) -> None:
    logits, labels = cohort(4, sizes, sure)
    logits = logits + np.arange(len(sizes))
    found = fit_calibration(method, logits, labels)
    share = found.floor * len(sizes)

    def at(values: np.ndarray) -> float:
        shift = np.array([*values[1:], -values[1:].sum()])
        return cost(logits, labels, float(np.exp(values[0])), share, 0.0, shift)

    if method == "prior":
        assert found.temperature == 1
        best = minimize(lambda v: at(np.array([0.0, *v])), np.zeros(len(sizes) - 1), method="Nelder-Mead").x
    else:
        start = np.array([np.log(2), *np.zeros(len(sizes) - 1)])
        best = minimize(at, start, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-7, "maxiter": 4000}).x
        assert np.log(found.temperature) == pytest.approx(best[0], abs=0.01)
        best = best[1:]
    assert sum(found.shift) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(found.shift[:-1], best, atol=0.005)


def answers(share: float, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels, as many of each as expected where a share of the patients is decided by chance."""
    logits, labels = [], []
    for lead in (*range(-8, 0), *range(1, 9)):
        right = told(np.array([0.0, lead]), temperature, share, np.zeros(2))[1]
        for label, count in enumerate((round(400 * (1 - right)), round(400 * right))):
            logits += [[0.0, float(lead)]] * count
            labels += [label] * count
    return np.array(logits), np.array(labels)


@pytest.mark.parametrize("share", FURTHER)
def test_the_share_that_chance_decides_is_found(share: float) -> None:
    found = fit_calibration("temperature", *answers(share))
    assert 2 * found.floor == pytest.approx(share, abs=1e-3)
    assert found.temperature == pytest.approx(1, abs=0.06), "a step of T"


def test_auto_takes_a_temperature_where_that_is_all_that_is_wrong() -> None:
    logits, labels = answers(0.05, 3.0)
    few = np.random.default_rng(0).choice(len(labels), 80, replace=False)
    assert fit_calibration("auto", logits[few], labels[few]).method == "temperature"


def test_probabilities_by_hand() -> None:
    own = Calibration("platt", 2.0, (np.log(3), 0.0), 0.1)
    assert own.probabilities(np.array([[2.0, 2.0], [np.log(9), 0]])) == pytest.approx(
        np.array([[0.1 + 0.8 * 0.75, 0.1 + 0.8 * 0.25], [0.1 + 0.8 * 0.9, 0.1 + 0.8 * 0.1]])
    )
    assert Calibration().probabilities(np.array([[np.log(3), 0.0]])) == pytest.approx(np.array([[0.75, 0.25]]))
    assert calibration_of(own.as_dict()) == own
    assert calibration_of({"method": "none", "temperature": 1}) == Calibration()
    assert own.as_dict()["shift"] == [np.log(3), 0.0]


def test_a_class_without_patients_leaves_the_logits_within_a_floor() -> None:
    assert fit_calibration("temperature", np.ones((9, 2)), np.zeros(9, int)) == Calibration("temperature", floor=0.125)
    assert fit_calibration("none", np.ones((9, 2)), np.zeros(9, int)) == Calibration()


def test_four_patients_of_each_class_are_enough_to_choose_by() -> None:
    labels = np.repeat([0, 1], 4)
    wrong = np.where(labels[:, None] == np.arange(2), -4.0, 4.0)
    assert choose_method(("none", "temperature"), wrong, labels, 0) == "temperature"
    assert choose_method(("none", "temperature"), wrong[1:], labels[1:], 0) == "none"
