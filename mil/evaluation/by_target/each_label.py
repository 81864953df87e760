"""Labels one by one: each on the patients of whom it is known, and the mean over labels."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from mil.evaluation.bootstrap import draw_groups, estimate
from mil.targets.base import Measure
from mil.targets.metrics import binary_auc, binary_average_precision, macro_auc, macro_brier
from wsi.arrays import Floats, Ints
from wsi.recipe import Json


def each_label(
    present_NC: Floats,
    told_NC: Floats,
    blind_NC: Floats,
    folds_N: Ints,
    names: Sequence[str],
    groups: Sequence[str],
    seed: int,
) -> Json:
    """Return counts and metrics of each label and of all; ``blind_NC``: shares among the patients learnt from."""
    draws_BN = draw_groups(groups, seed)
    rows = [
        {"label": name, **_one(present_NC[:, c], told_NC[:, c], blind_NC[:, c], folds_N, draws_BN)}
        for c, name in enumerate(names)
    ]
    known_N = ~np.isnan(present_NC).all(axis=1)
    macro: Json = {
        "auc": estimate(partial(macro_auc, present_NC, told_NC, folds_N=folds_N), draws_BN, pairs=True),
        "average_precision": estimate(_mean_of(_precisions(present_NC, told_NC)), draws_BN),
        "brier": estimate(partial(macro_brier, present_NC, told_NC), draws_BN),
        "brier_gain": estimate(_gain(present_NC, told_NC, blind_NC), draws_BN),
    }
    return {
        "labels": rows,
        "macro": macro,
        "all_known": int((~np.isnan(present_NC)).all(axis=1).sum()),
        "partly_known": int((known_N & np.isnan(present_NC).any(axis=1)).sum()),
        "not_known": int((~known_N).sum()),
    }


def _one(present_N: Floats, told_N: Floats, blind_N: Floats, folds_N: Ints, draws_BN: Floats) -> Json:
    known_N = ~np.isnan(present_N)
    true_N, scores_N, weights_BN = present_N[known_N] == 1, told_N[known_N], draws_BN[:, known_N]
    column = present_N[:, None]
    found: Json = {
        "with": int(true_N.sum()),
        "without": int((~true_N).sum()),
        "unknown": int((~known_N).sum()),
        "share": float(true_N.mean()) if len(true_N) else None,
    }
    if not len(true_N):
        return found
    found["auc"] = estimate(lambda w: binary_auc(true_N, scores_N, w, folds_N[known_N]), weights_BN, pairs=True)
    found["average_precision"] = estimate(_precisions(column, told_N[:, None])[0], draws_BN)
    found["brier"] = estimate(partial(macro_brier, column, told_N[:, None]), draws_BN)
    found["brier_gain"] = estimate(_gain(column, told_N[:, None], blind_N[:, None]), draws_BN)
    return found


def _precisions(present_NC: Floats, told_NC: Floats) -> list[Measure]:
    """Return the average precision of each label's presence."""

    def of(c: int) -> Measure:
        known_N = ~np.isnan(present_NC[:, c])
        true_N, told_N = present_NC[known_N, c] == 1, told_NC[known_N, c]
        return lambda weights_BN: binary_average_precision(true_N, told_N, weights_BN[:, known_N])

    return [of(c) for c in range(present_NC.shape[1])]


def _mean_of(measures: Sequence[Measure]) -> Measure:
    def mean(weights_BN: Floats) -> Floats:
        values_CB = np.stack([own(weights_BN) for own in measures])
        there_B = np.isfinite(values_CB).sum(axis=0)
        return np.asarray(np.nansum(values_CB, axis=0) / np.where(there_B > 0, there_B, np.nan))

    return mean


def _gain(present_NC: Floats, told_NC: Floats, blind_NC: Floats) -> Measure:
    """Return one minus the Brier score over that of the labels' shares; the mean over labels of both first."""

    def gain(weights_BN: Floats) -> Floats:
        blind_B = macro_brier(present_NC, blind_NC, weights_BN)
        own_B = macro_brier(present_NC, told_NC, weights_BN)
        return np.asarray(1 - own_B / np.where(blind_B > 0, blind_B, np.nan))

    return gain
