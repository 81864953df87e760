"""Calibration: from logits to probabilities that may be believed, fitted on patients who were not trained on.

Training weighs the classes equally, so the logits already stand for equal class priors, as the weighted log loss wants;
what remains is over- or under-confidence, and with few patients a shift. All is fitted on out-of-fold logits: for the
scores of a fold those of all other folds, for new patients those of all folds. docs/CALIBRATION.md says what the
constants were chosen on, and what came out.

``temperature``
    Logits divided by one number. Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv
    1706.04599.
``prior``
    A number added to each class's logit (Saerens et al., Neural Computation 2002, with the numbers fitted).
``platt``
    Both. Source: Platt 1999; for several classes bias-corrected temperature scaling, Alexandari et al., ICML 2020.
``auto``
    Whichever has the least log loss on patients left out of its own fit, among those that were to be fitted on.

Priors hold each of them to what the patients can show: T grows where the logits are too sure, and falls below 1 only
where many patients say so. Every probability is mixed with chance: a little, because the patients of the rarest class
cannot vouch for more, and as much more as there are patients of whom the model was sure and wrong. A few of these would
otherwise drive T up for everybody.
"""

from collections.abc import Sequence

import numpy as np

from mil.targets.calibration import Calibration
from mil.targets.metrics import CLIP, ones, softmax, weighted_log_loss
from wsi.arrays import Floats, Ints

SOFTER_SD, SHARPER_SD = 1.0, 0.2
"""Standard deviations of log T before any patient is seen: above 0 (less sure than the logits), and below."""
BOUNDS = (0.5, 50.0)
"""Of T."""
_LOG_T = np.linspace(np.log(BOUNDS[0]), np.log(BOUNDS[1]), 94)
"""In steps of 5 %: no cohort tells them apart, and a search over steps cannot fail."""
SHIFT_SD = 0.3
"""Standard deviation of a class's shift before any patient is seen."""
DOUBT = 0.5
"""Patients in whose place chance decides, beside those of the rarest class: what log loss punishes most is surety."""
MORE_DOUBT = 0.1
"""Mean of the further share of chance before any patient is seen; exponential."""
_SHARES = np.array([0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45])
METHODS = ("none", "temperature", "prior", "platt")
AUTO = "auto"
PARTS = 5
"""Parts of the patients, for the choice among methods."""


def fit_calibration(method: str, logits_NC: Floats, labels_N: Ints, seed: int = 0) -> Calibration:
    """Fit a method, or with ``auto`` the one that does best on patients left out of its fit.

    Where a class is missing the logits stay as they are, within the floor.
    """
    n_classes = logits_NC.shape[1]
    if method == AUTO:
        method = choose_method(METHODS[1:], logits_NC, labels_N, seed)
    if method == "none":
        return Calibration()
    counts = np.bincount(labels_N, minlength=n_classes)
    doubt = DOUBT / (max(int(counts.min()), 1) + 1)
    if counts.min() == 0:
        return Calibration(method, floor=doubt / n_classes)
    log_t, share = _temperature_and_share(logits_NC, labels_N, doubt, _LOG_T if method != "prior" else np.zeros(1))
    if method == "temperature":
        return Calibration(method, float(np.exp(log_t)), floor=share / n_classes)
    log_t, shift = _with_shift(logits_NC, labels_N, share, log_t, scaled=method == "platt")
    return Calibration(method, float(np.exp(log_t)), tuple(shift.tolist()), share / n_classes)


def _temperature_and_share(logits_NC: Floats, labels_N: Ints, doubt: float, log_t_T: Floats) -> tuple[float, float]:
    """Return the most probable log T among those given, and share of chance, at least ``doubt``."""
    told_TN = softmax(logits_NC[None] / np.exp(log_t_T)[:, None, None])[:, np.arange(len(labels_N)), labels_N]
    shares = doubt + _SHARES * (1 - doubt)
    fits_ST = np.stack([_surprise(told_TN, labels_N, share, logits_NC.shape[1]) for share in shares])
    costs_ST = fits_ST + _unlikely(log_t_T) + _SHARES[:, None] / MORE_DOUBT
    share, at = np.unravel_index(int(costs_ST.argmin()), costs_ST.shape)
    return float(log_t_T[at]), float(shares[share])


def _with_shift(logits_NC: Floats, labels_N: Ints, share: float, log_t: float, *, scaled: bool) -> tuple[float, Floats]:
    """Return log T, as given unless ``scaled``, and the classes' shifts (C,), which sum to 0."""
    from scipy.optimize import minimize

    n_rows, n_classes = logits_NC.shape

    def unpacked(values: Floats) -> tuple[float, Floats]:
        return float(values[0]), values[1:] - values[1:].mean()

    def cost(values: Floats) -> float:
        log_t, shift = unpacked(values)
        told_N = softmax(logits_NC / np.exp(log_t) + shift)[np.arange(n_rows), labels_N]
        own = _surprise(told_N[None], labels_N, share, n_classes) + _unlikely(np.array([log_t]))
        return float(own[0]) + float(np.square(shift / SHIFT_SD).sum()) / 2

    bounds = [tuple(np.log(BOUNDS)) if scaled else (log_t, log_t), *[(-10.0, 10.0)] * n_classes]
    start = np.array([log_t, *[0.0] * n_classes])
    return unpacked(minimize(cost, start, method="L-BFGS-B", bounds=bounds).x)


def _surprise(told_TN: Floats, labels_N: Ints, share: float, n_classes: int) -> Floats:
    """Return the class-balanced log loss (T,) of the true classes' probabilities, a share of them chance.

    It is multiplied by the patients that it is worth, ``C**2 / sum(1 / n_c)``: a mean over classes of means varies as
    a plain mean over so many does, ten patients of which one is of the rare class as 3.6.
    """
    counts = np.bincount(labels_N, minlength=n_classes)
    worth = n_classes**2 / float((1 / counts).sum())
    losses_TN = -np.log(np.maximum(share / n_classes + (1 - share) * told_TN, CLIP))
    return np.asarray(losses_TN @ (1 / counts)[labels_N] / n_classes * worth)


def _unlikely(log_t_T: Floats) -> Floats:
    return np.asarray(np.square(log_t_T / np.where(log_t_T > 0, SOFTER_SD, SHARPER_SD)) / 2)


def choose_method(methods: Sequence[str], logits_NC: Floats, labels_N: Ints, seed: int) -> str:
    """Return the method with the least log loss on parts of the rows that it was not fitted on; of equals the first."""
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(labels_N, minlength=logits_NC.shape[1])
    if counts.min() < 2 * 2:
        return methods[0]
    split = StratifiedKFold(min(PARTS, int(counts.min())), shuffle=True, random_state=seed)
    parts = list(split.split(logits_NC, labels_N))
    losses = []
    for method in methods:
        probs = np.zeros(logits_NC.shape)
        for train, test in parts:
            probs[test] = fit_calibration(method, logits_NC[train], labels_N[train]).probabilities(logits_NC[test])
        losses.append(float(weighted_log_loss(labels_N, probs, ones(len(labels_N)))[0]))
    return methods[int(np.argmin(losses))]
