"""Survival over time: whether risks tell apart, are right, and part the patients, at horizons and all along.

Shares without the event follow from log risks and a baseline hazard (Breslow's) of other patients: of a run's own
patients those of the other folds, of another cohort all of the run's, each told by models that had not seen them. Risks
of different models are comparable as each counts from the median of its own validation patients. Who is of higher risk
is told by that median, too: no patient who is judged takes part in the cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, pi, sqrt

import numpy as np

from mil.evaluation.bootstrap import draw_groups, estimate
from mil.targets.metrics import finite, ones, percentile_interval
from mil.targets.survival.cox import cox_slope, log_rank
from mil.targets.survival.followed_up import kaplan_meier_interval, kaplan_meier_of_draws
from mil.targets.survival.metrics import (
    Followed,
    breslow,
    brier_errors,
    kaplan_meier_at,
    survival_by_others,
    time_auc,
)
from wsi.arrays import Bools, Floats, Ints
from wsi.recipe import Json

SHARES = (0.25, 0.5, 0.75)
"""Of the events that happened by a horizon, where none are asked for."""
GRID = 25
"""Times at which curves are drawn, from the first to the last tenth of the events."""
CURVE_DRAWS = 300
BINS = 4
"""Groups of alike predicted shares, in a calibration curve."""


@dataclass(frozen=True, slots=True)
class Told:
    """Log risks of N patients, with what is true of them, and with the patients who give the baseline."""

    known: Followed
    risks_N: Floats
    high_N: Bools
    groups: Sequence[str]
    """Who hang together and are drawn together."""
    seed: int
    baseline: "tuple[Followed, Floats] | None" = None
    """Other patients and their log risks; None: those of the other folds."""

    @property
    def clustered(self) -> bool:
        """Tell whether rows hang together: slides of a patient."""
        return len(set(self.groups)) < len(self.groups)

    def without(self, risks_N: Floats, at_T: Floats) -> Floats:
        """Return the predicted shares without the event (N, T) for these log risks."""
        if self.baseline is None:
            return survival_by_others(self.known, risks_N, at_T)
        others, theirs = self.baseline
        told = theirs if risks_N.any() else np.zeros(len(theirs))
        return breslow(risks_N, at_T, told, others.times_N, others.events_N)


def default_horizons(known: Followed) -> list[float]:
    """Return the times by which a quarter, half and three quarters of the seen events had happened."""
    seen = known.times_N[known.events_N]
    return sorted({float(f"{at:.3g}") for at in np.quantile(seen, SHARES)}) if len(seen) else []


def over_time(told: Told, horizons: Sequence[float] = ()) -> Json:
    """Return groups by risk, their test, the calibration slope, and discrimination and calibration at each horizon."""
    draws_BN = draw_groups(told.groups, told.seed)
    followed = [at for at in (horizons or default_horizons(told.known)) if at < told.known.times_N.max()]
    return {
        "groups": _groups(told, draws_BN),
        "slope": _slope(told, told.risks_N, draws_BN),
        "horizons": [_horizon(told, at, draws_BN) for at in followed],
        "beyond": [at for at in horizons if at not in followed],
    }


def _groups(told: Told, draws_BN: Floats) -> Json:
    """Return the test of the patients of higher against those of lower risk, fold by fold, and the hazard ratio.

    Out of fold the models of two folds test each other: what two patients of different folds say by chance counts once
    in each, and the score varies more than that of patients judged by one model. Of models that are sums over the
    patients learnt from, twice as much; of which a cut keeps 2 / pi, for normally distributed scores. Chi squared is
    divided by 1 + 2 / pi. Without it noise is significant in 10 of 100 runs (docs/EVIDENCE.md; Simon et al., Briefings
    in Bioinformatics 2011, on such tests).
    """
    known = told.known
    clusters = told.groups if told.clustered else None
    chi, fixed = log_rank(told.high_N, known.times_N, known.events_N, known.folds_N, clusters)
    p = crossed(chi) if len(np.unique(known.folds_N)) > 1 else fixed
    ratio = _slope(told, told.high_N.astype(np.float64), draws_BN)
    powers = {name: None if value is None else float(np.exp(value)) for name, value in ratio.items()}
    return {
        **finite({"chi_squared": chi, "p": p, "p_models_fixed": fixed}),
        "hazard_ratio": powers,
        "higher": int(told.high_N.sum()),
    }


def crossed(chi: float) -> float:
    """Return the p of a chi squared (1) to which folds add that test each other's patients."""
    return erfc(sqrt(chi / (1 + 2 / pi) / 2))


def _slope(told: Told, covariate_N: Floats, draws_BN: Floats) -> Json:
    """Return the Cox coefficient with its interval."""
    known = told.known

    def slopes(weights_BN: Floats) -> Floats:
        return cox_slope(covariate_N, known.times_N, known.events_N, known.folds_N, weights_BN)

    return estimate(slopes, draws_BN)


def _horizon(told: Told, at: float, draws_BN: Floats) -> Json:
    known, at_T = told.known, np.array([at])
    errors_N, blind_N = (
        brier_errors(known, told.without(risks_N, at_T), at_T)[:, 0] for risks_N in (told.risks_N, 0 * told.risks_N)
    )
    predicted_N = 1 - told.without(told.risks_N, at_T)[:, 0]

    def area(weights_BN: Floats) -> Floats:
        return time_auc(known, told.risks_N, weights_BN, at_T)

    def brier(weights_BN: Floats) -> Floats:
        return np.asarray(weights_BN @ errors_N / weights_BN.sum(axis=1))

    def gained(weights_BN: Floats) -> Floats:
        total_B = weights_BN @ blind_N
        return np.asarray(1 - weights_BN @ errors_N / np.where(total_B > 0, total_B, np.nan))

    def observed(weights_BN: Floats) -> Floats:
        return np.asarray(1 - kaplan_meier_of_draws(at_T, known.times_N, known.events_N, weights_BN)[:, 0])

    def ratio(weights_BN: Floats) -> Floats:
        mean_B = weights_BN @ predicted_N / weights_BN.sum(axis=1)
        return np.asarray(observed(weights_BN) / np.where(mean_B > 0, mean_B, np.nan))

    seen = estimate(observed, draws_BN)
    if not told.clustered:
        low_T, high_T = kaplan_meier_interval(at_T, known.times_N, known.events_N)
        seen |= finite({"low": 1 - float(high_T[0]), "high": 1 - float(low_T[0])})
    return {
        "at": at,
        "events": int(((known.times_N <= at) & known.events_N).sum()),
        "followed": int((known.times_N > at).sum()),
        "auc": estimate(area, draws_BN, pairs=True),
        "brier": estimate(brier, draws_BN),
        "brier_gain": estimate(gained, draws_BN),
        "observed": seen,
        "predicted": float(predicted_N.mean()),
        "observed_over_predicted": estimate(ratio, draws_BN),
    }


@dataclass(frozen=True, slots=True)
class Curves:
    """What is drawn over time; the arrays run in parallel."""

    at_T: Floats
    auc_T: Floats
    auc_2T: Floats
    brier_T: Floats
    brier_2T: Floats
    blind_T: Floats


def curves(told: Told) -> Curves | None:
    """Return AUC and Brier score over time with their bands; None with too few events."""
    known, seen = told.known, np.unique(told.known.times_N[told.known.events_N])
    if len(seen) < 4:
        return None
    first, last = np.quantile(known.times_N[known.events_N], [0.1, 0.9])
    at_T = np.linspace(first, last, GRID)
    weights_BN = np.concatenate([ones(len(told.groups)), draw_groups(told.groups, told.seed, CURVE_DRAWS)])
    area_BT = np.stack([time_auc(known, told.risks_N, weights_BN, np.array([at])) for at in at_T], axis=1)
    errors_NT, blind_NT = (
        brier_errors(known, told.without(risks_N, at_T), at_T) for risks_N in (told.risks_N, 0 * told.risks_N)
    )
    brier_BT = weights_BN @ errors_NT / weights_BN.sum(axis=1, keepdims=True)
    return Curves(at_T, area_BT[0], _band(area_BT[1:]), brier_BT[0], _band(brier_BT[1:]), blind_NT.mean(axis=0))


def _band(values_BT: Floats) -> Floats:
    return np.array([percentile_interval(own_B) for own_B in values_BT.T]).T


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Patients by alike predicted shares with the event by a horizon: what was predicted, and what came; (K,)."""

    predicted_K: Floats
    observed_K: Floats
    reach_2K: Floats


def calibration_at(told: Told, at: float) -> Calibrated:
    """Return the groups with the Kaplan-Meier share of each; groups of whom nobody was followed so far are left out."""
    known, at_T = told.known, np.array([at])
    predicted_N = 1 - told.without(told.risks_N, at_T)[:, 0]
    rows = []
    for part in np.array_split(np.argsort(predicted_N, kind="stable"), BINS):
        times, events = known.times_N[part], known.events_N[part]
        if not len(part) or (times.max() < at and kaplan_meier_at(at_T, times, events)[0] > 0):
            continue
        observed = 1 - float(kaplan_meier_at(at_T, times, events)[0])
        low, high = _ends(told, part, at_T)
        rows.append([float(predicted_N[part].mean()), observed, max(observed - low, 0.0), max(high - observed, 0.0)])
    predicted_K, observed_K, down_K, up_K = np.array(rows).reshape(-1, 4).T
    return Calibrated(predicted_K, observed_K, np.stack([down_K, up_K]))


def _ends(told: Told, part: Ints, at_T: Floats) -> tuple[float, float]:
    """Return the interval of a group's share with the event."""
    times, events = told.known.times_N[part], told.known.events_N[part]
    if told.clustered:
        own = [told.groups[i] for i in part.tolist()]
        drawn_B = kaplan_meier_of_draws(at_T, times, events, draw_groups(own, told.seed, CURVE_DRAWS))[:, 0]
        low, high = percentile_interval(1 - drawn_B)
        return low, high
    low_T, high_T = kaplan_meier_interval(at_T, times, events)
    return 1 - float(high_T[0]), 1 - float(low_T[0])
