"""Net benefit: what acting on the probabilities gains, against acting on everybody and on nobody.

Source: Vickers and Elkin, Medical Decision Making 2006. Who acts from a probability of p on says by it that a false
alarm costs p / (1 - p) of what a found patient is worth; the probabilities must stand for the cohort's own prevalence.
"""

import numpy as np

from mil.evaluation.decisions.called import Cells, filled
from wsi.arrays import Bools, Floats

CUTS = np.linspace(0.01, 0.99, 99)
"""Probabilities from which on one acts."""


def net_benefit(positive_N: Bools, probs_N: Floats, weights_BN: Floats, cuts_T: Floats = CUTS) -> Floats:
    """Return the net benefit (B, T): found less false alarms at their price, per patient."""
    return _gained(_cells(positive_N, probs_N, weights_BN, cuts_T), cuts_T)


def ends_of_net_benefit(
    positive_N: Bools, probs_N: Floats, draws_BN: Floats, cuts_T: Floats = CUTS
) -> tuple[Floats, Floats]:
    """Return the ends (T,) of the 95 % interval, over draws of the patients (`filled`)."""
    values_BT = _gained(filled(_cells(positive_N, probs_N, draws_BN, cuts_T)), cuts_T)
    low_T, high_T = np.percentile(values_BT, [2.5, 97.5], axis=0)
    return low_T, high_T


def _cells(positive_N: Bools, probs_N: Floats, weights_BN: Floats, cuts_T: Floats) -> Cells:
    """Return who is found, falsely called, missed and rightly not called at each cut, (B, T) each."""
    called_NT = (np.asarray(probs_N)[:, None] >= cuts_T[None]).astype(np.float64)
    up_B1, down_B1 = (weights_BN @ own[:, None] for own in (positive_N, ~positive_N))
    found_BT, alarms_BT = (weights_BN * positive_N) @ called_NT, (weights_BN * ~positive_N) @ called_NT
    return found_BT, alarms_BT, up_B1 - found_BT, down_B1 - alarms_BT


def _gained(cells: Cells, cuts_T: Floats) -> Floats:
    found_BT, alarms_BT = cells[:2]
    return np.asarray((found_BT - alarms_BT * cuts_T / (1 - cuts_T)) / sum(cells))


def of_acting_on_all(positive_N: Bools, weights_BN: Floats, cuts_T: Floats = CUTS) -> Floats:
    """Return the net benefit (B, T) of acting on everybody."""
    return net_benefit(positive_N, np.ones(len(positive_N)), weights_BN, cuts_T)
