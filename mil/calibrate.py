"""Calibration: from logits to probabilities that may be believed, fitted on patients who were not trained on.

Training weighs the classes equally, so the logits already stand for equal class priors, as the weighted log loss wants;
what remains is over- or under-confidence, and with few patients a shift. All is fitted on patients that the model did
not train on and that are not in the fold being scored.

``temperature``
    Logits divided by one number. Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv
    1706.04599.
``prior``
    A number added to each class's logit (Saerens et al., Neural Computation 2002, with the numbers fitted).
``platt``
    Both. Source: Platt 1999; for several classes bias-corrected temperature scaling, Alexandari et al., ICML 2020.
``clip``
    Temperature, and no probability nearer to 0 or 1 than a floor: what log loss punishes most is surety.
``auto``
    Whichever has the least log loss on patients left out of its own fit, among those that were to be fitted on.

The penalties are ours: normal priors on log T and on shifts, because an inner validation set may hold ten patients.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from mil.metrics import Floats, Ints, ones, softmax, weighted_log_loss

PRIOR_SD = 2.0
"""Standard deviation of log T before any patient is seen."""
BOUNDS = (0.25, 50.0)
"""T outside would mean that the fit went wrong."""
SHIFT_SD = 1.0
"""Standard deviation of a class's shift before any patient is seen."""
FLOORS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1)
METHODS = ("none", "temperature", "prior", "platt", "clip")
AUTO = "auto"
PARTS = 5
"""Parts of the patients, for the choice among methods."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How logits become probabilities."""

    method: str = "none"
    temperature: float = 1.0
    shift: tuple[float, ...] = ()
    """Added to each class's logit after division by the temperature; empty: nothing."""
    floor: float = 0.0
    """Least probability of a class."""

    def probabilities(self, logits_NC: Floats) -> Floats:
        """Return probabilities (N, C); rows sum to 1."""
        scaled = np.asarray(logits_NC, np.float64) / self.temperature
        probs = softmax(scaled + np.array(self.shift) if self.shift else scaled)
        if not self.floor:
            return probs
        return np.asarray(self.floor + (1 - probs.shape[1] * self.floor) * probs)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "shift": list(self.shift)}


def calibration_of(values: dict[str, Any]) -> Calibration:
    """Return what `Calibration.as_dict` told."""
    return Calibration(
        str(values["method"]),
        float(values["temperature"]),
        tuple(values.get("shift", ())),
        float(values.get("floor", 0)),
    )


def fit_calibration(method: str, logits_NC: Floats, labels_N: Ints, seed: int = 0) -> Calibration:
    """Fit a method, or with ``auto`` the one that does best on patients left out of its fit."""
    if method == AUTO:
        method = choose_method(METHODS, logits_NC, labels_N, seed)
    if method == "none" or len(labels_N) < 4 or len(np.unique(labels_N)) < logits_NC.shape[1]:
        return Calibration(method)
    if method in ("temperature", "clip"):
        scaled = Calibration(method, fit_temperature(logits_NC, labels_N))
        return scaled if method == "temperature" else _with_floor(scaled, logits_NC, labels_N)
    return _fit_shift(method, logits_NC, labels_N)


def choose_method(methods: Sequence[str], logits_NC: Floats, labels_N: Ints, seed: int) -> str:
    """Return the method with the least log loss on parts of the rows that it was not fitted on; of equals the first."""
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(labels_N, minlength=logits_NC.shape[1])
    if counts.min() < 2 * 2:
        return "temperature"
    split = StratifiedKFold(min(PARTS, int(counts.min())), shuffle=True, random_state=seed)
    parts = list(split.split(logits_NC, labels_N))
    losses = []
    for method in methods:
        probs = np.zeros(logits_NC.shape)
        for train, test in parts:
            probs[test] = fit_calibration(method, logits_NC[train], labels_N[train]).probabilities(logits_NC[test])
        losses.append(float(weighted_log_loss(labels_N, probs, ones(len(labels_N)))[0]))
    return methods[int(np.argmin(losses))]


def _with_floor(scaled: Calibration, logits_NC: Floats, labels_N: Ints) -> Calibration:
    tried = [replace(scaled, floor=floor) for floor in FLOORS if floor * logits_NC.shape[1] < 1]
    losses = [weighted_log_loss(labels_N, own.probabilities(logits_NC), ones(len(labels_N)))[0] for own in tried]
    return tried[int(np.argmin(losses))]


def _fit_shift(method: str, logits_NC: Floats, labels_N: Ints) -> Calibration:
    n_rows, n_classes = logits_NC.shape

    def unpacked(values: Floats) -> Calibration:
        log_t = float(np.clip(values[0], *np.log(BOUNDS))) if method == "platt" else 0.0
        shift = values[-n_classes:] - values[-n_classes:].mean()
        return Calibration(method, float(np.exp(log_t)), tuple(shift.tolist()))

    def cost(values: Floats) -> float:
        own = unpacked(values)
        loss = weighted_log_loss(labels_N, own.probabilities(logits_NC), ones(n_rows))[0]
        penalty = float(np.square(np.array(own.shift) / SHIFT_SD).sum()) + (np.log(own.temperature) / PRIOR_SD) ** 2
        return float(loss + penalty / (2 * n_rows))

    start = np.zeros(n_classes + (method == "platt"))
    return unpacked(minimize(cost, start, method="L-BFGS-B").x)


def fit_temperature(logits_NC: Floats, labels_N: Ints) -> float:
    """Return the temperature that minimises the class-balanced log loss of ``softmax(logits / T)`` plus its penalty.

    1.0 where a class is missing or there are fewer than four rows.
    """
    n_rows, n_classes = logits_NC.shape
    if n_rows < 4 or len(np.unique(labels_N)) < n_classes:
        return 1.0
    weights = ones(n_rows)

    def cost(log_t: float) -> float:
        loss = weighted_log_loss(labels_N, softmax(logits_NC / np.exp(log_t)), weights)[0]
        return float(loss + (log_t / PRIOR_SD) ** 2 / (2 * n_rows))

    found = minimize_scalar(cost, bounds=tuple(np.log(BOUNDS)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
