"""Temperature scaling: one number that says how far the logits may be believed.

Training weighs the classes equally, so the logits already stand for equal class priors, as the weighted log loss wants;
what remains is over- or under-confidence. The temperature is fitted on patients that the model did not train on and
that are not in the fold being scored.

Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599. The penalty is ours: a normal
prior on log T, because an inner validation set may hold ten patients.
"""

import numpy as np
from scipy.optimize import minimize_scalar

from mil.metrics import Floats, Ints, ones, softmax, weighted_log_loss

PRIOR_SD = 2.0
"""Standard deviation of log T before any patient is seen."""
BOUNDS = (0.25, 50.0)
"""T outside would mean that the fit went wrong."""


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
