"""Net benefit: what acting on the probabilities gains, against acting on everybody and on nobody.

Source: Vickers and Elkin, Medical Decision Making 2006. Who acts from a probability of p on says by it that a false
alarm costs p / (1 - p) of what a found patient is worth; the probabilities must stand for the cohort's own prevalence.
"""

import numpy as np

from wsi.arrays import Bools, Floats

CUTS = np.linspace(0.01, 0.99, 99)
"""Probabilities from which on one acts."""


def net_benefit(positive_N: Bools, probs_N: Floats, weights_BN: Floats, cuts_T: Floats = CUTS) -> Floats:
    """Return the net benefit (B, T): found less false alarms at their price, per patient."""
    called_NT = (np.asarray(probs_N)[:, None] >= cuts_T[None]).astype(np.float64)
    total_B1 = weights_BN.sum(axis=1, keepdims=True)
    found_BT = (weights_BN * positive_N) @ called_NT / total_B1
    alarms_BT = (weights_BN * ~positive_N) @ called_NT / total_B1
    return np.asarray(found_BT - alarms_BT * cuts_T / (1 - cuts_T))


def of_acting_on_all(positive_N: Bools, weights_BN: Floats, cuts_T: Floats = CUTS) -> Floats:
    """Return the net benefit (B, T) of acting on everybody."""
    return net_benefit(positive_N, np.ones(len(positive_N)), weights_BN, cuts_T)
