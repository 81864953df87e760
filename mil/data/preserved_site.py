"""Site-preserved folds: whole centers, dealt so that folds hold alike shares of every class.

Where a center stands on both sides of a split, a model may know it again by its stain, and a score says nothing of the
next center; where whole centers are dealt by size alone, a fold may lack a class. Howard et al. (Nature Communications
2021, The impact of site-specific digital histology signatures on deep learning model accuracy and bias) ask for both:
sites preserved, classes balanced. Here the sum over folds and classes of how far the fold's number of a class is from
the even one is least: exactly, by mixed-integer programming (HiGHS, by scipy), as long as it ends within a number of
nodes, which is the same on every machine; else by moves and swaps from the best of several starts. The run says which.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from features.folds import rarest_labels
from mil.data.splits import centers_of
from wsi.arrays import Floats, Ints

NODES = 1000
"""Of the search tree; no clock, so that the same cohort gives the same folds anywhere."""
MOST_UNKNOWN = 300
"""Centers times folds, above which the search would take minutes."""
STARTS = 5
MISSING = 10.0
"""What a class that a fold lacks costs, in even shares: no metric of classes is defined there."""


@dataclass(frozen=True, slots=True)
class Dealt:
    """Whole centers, dealt to folds."""

    fold_of: dict[str, int]
    exact: bool
    """Whether no other deal is better balanced."""
    off: float
    """Mean over folds and classes of how far a fold's number of a class is from the even one, as a share of that."""

    def told(self) -> str:
        """Return how good the balance is, for a note."""
        how = "no other deal is more even" if self.exact else "the best of a search that did not end"
        return f"preserved-site folds: a fold's number of a class is {self.off:.0%} off the even one on average ({how})"


def preserved_site_folds(
    labels: Sequence[str], centers: Sequence[str | None], patients: Sequence[str], n_folds: int
) -> tuple[Ints, Dealt]:
    """Return the test fold of each slide, (n,) int64, and how the centers were dealt; raises as `centers_of`."""
    where = centers_of(centers, patients, n_folds, "--split preserved-site")
    dealt = deal(where, rarest_labels(labels, patients), n_folds)
    return np.array([dealt.fold_of[where[patient]] for patient in patients], np.int64), dealt


def deal(center_of: Mapping[str, str], stratum_of: Mapping[str, str], n_folds: int) -> Dealt:
    """Deal whole centers to folds, as even in every stratum as can be; strata are classes, or bins of values.

    The same patients give the same folds, in whatever order they come.
    """
    names, strata = sorted(set(center_of.values())), sorted(set(stratum_of.values()))
    count = Counter((center, stratum_of[patient]) for patient, center in center_of.items())
    counts_KS = np.array([[count[center, stratum] for stratum in strata] for center in names], np.float64)
    order = np.lexsort((np.arange(len(names)), -counts_KS.sum(axis=1)))
    fold_K = _searched(counts_KS[order], n_folds) if len(names) * n_folds <= MOST_UNKNOWN else None
    exact = fold_K is not None
    if fold_K is None:
        fold_K = _improved(counts_KS[order], n_folds)
    fold_of = {names[place]: int(fold) for place, fold in zip(order, fold_K, strict=True)}
    return Dealt(fold_of, exact, _off(counts_KS[order], fold_K, n_folds)[0])


def _sums(counts_KS: Floats, fold_K: Ints, n_folds: int) -> Floats:
    return np.asarray(np.eye(n_folds)[fold_K].T @ counts_KS)


def _off(counts_KS: Floats, fold_K: Ints, n_folds: int) -> tuple[float, float]:
    """Return the mean distance from even, in even shares, and the cost: that, what classes lack, and the sizes."""
    sums_FS, even_S = _sums(counts_KS, fold_K, n_folds), counts_KS.sum(axis=0) / n_folds
    apart = float((np.abs(sums_FS - even_S) / even_S).sum())
    return apart / sums_FS.size, apart + MISSING * float((sums_FS == 0).sum())


def _searched(counts_KS: Floats, n_folds: int) -> Ints | None:
    """Return the fold of each center (K,) by which the cost is least; None where the search did not end.

    Folds have no order: the first center stands in the first fold, the second in one of the first two, and so on.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_matrix, eye_array, hstack, kron

    n_centers, n_strata = counts_KS.shape
    n_in, n_sums = n_centers * n_folds, n_folds * n_strata
    even_S = counts_KS.sum(axis=0) / n_folds
    one_fold = kron(eye_array(n_centers), np.ones((1, n_folds)))
    sums = coo_matrix(kron((counts_KS / even_S).T, eye_array(n_folds)))  # stratum by stratum, of each fold
    own = eye_array(n_sums)
    cost = np.concatenate([np.zeros(n_in), np.ones(n_sums), np.full(n_sums, MISSING)])
    upper = np.concatenate([np.ones(n_in), np.full(n_sums, np.inf), np.ones(n_sums)])
    for center in range(min(n_centers, n_folds)):
        upper[center * n_folds + center + 1 : (center + 1) * n_folds] = 0
    least = np.repeat(1 / even_S, n_folds)  # one patient
    found = milp(
        cost,
        integrality=np.concatenate([np.ones(n_in), np.zeros(n_sums), np.ones(n_sums)]),
        bounds=Bounds(np.zeros(len(cost)), upper),
        constraints=[
            LinearConstraint(hstack([one_fold, coo_matrix((n_centers, 2 * n_sums))]), 1, 1),
            LinearConstraint(hstack([sums, -own, 0 * own]), -np.inf, 1),
            LinearConstraint(hstack([sums, own, 0 * own]), 1, np.inf),
            LinearConstraint(hstack([sums, 0 * own, coo_matrix(np.diag(least))]), least, np.inf),
        ],
        options={"node_limit": NODES, "mip_rel_gap": 1e-6},
    )
    return found.x[:n_in].reshape(n_centers, n_folds).argmax(axis=1).astype(np.int64) if found.status == 0 else None


def _improved(counts_KS: Floats, n_folds: int) -> Ints:
    """Return the fold of each center (K,): the best of some starts, improved by moves and swaps while they help."""
    rng = np.random.default_rng(0)
    found = []
    for start in range(STARTS):
        order = np.arange(len(counts_KS)) if start == 0 else rng.permutation(len(counts_KS))
        fold_K = np.zeros(len(counts_KS), np.int64)
        filled = np.zeros((n_folds, counts_KS.shape[1]))
        even_S = counts_KS.sum(axis=0) / n_folds
        for center in order:
            after_FS = np.abs(filled + counts_KS[center] - even_S) - np.abs(filled - even_S)
            fold_K[center] = int(np.argmin((after_FS / even_S).sum(axis=1)))
            filled[fold_K[center]] += counts_KS[center]
        found.append(_descended(counts_KS, fold_K, n_folds))
    return min(found, key=lambda own: _off(counts_KS, own, n_folds)[1])


def _descended(counts_KS: Floats, fold_K: Ints, n_folds: int) -> Ints:
    """Return the deal after the moves of one center and swaps of two that help, the first that does taken each time."""
    best = _off(counts_KS, fold_K, n_folds)[1]
    better = True
    while better:
        better = False
        for other in _neighbours(fold_K, n_folds):
            cost = _off(counts_KS, other, n_folds)[1]
            if cost < best - 1e-9:
                fold_K, best, better = other, cost, True
                break
    return fold_K


def _neighbours(fold_K: Ints, n_folds: int) -> list[Ints]:
    found = []
    for center in range(len(fold_K)):
        others = (fold for fold in range(n_folds) if fold != fold_K[center])
        found += [np.concatenate([fold_K[:center], [fold], fold_K[center + 1 :]]) for fold in others]
        for second in range(center):
            if fold_K[second] != fold_K[center]:
                other = fold_K.copy()
                other[[center, second]] = other[[second, center]]
                found.append(other)
    return found
