"""Whole centers in every fold, as even in the classes as can be."""

from itertools import product

import numpy as np
import pytest

from mil.data import preserved_site
from mil.data.preserved_site import deal, preserved_site_folds
from mil.data.splits import center_folds
from wsi.errors import RequestError


def cohort(seed: int, n_centers: int, patients: int) -> tuple[list[str], list[str | None], list[str]]:
    rng = np.random.default_rng(seed)
    center = rng.choice(n_centers, size=patients, p=rng.dirichlet(np.full(n_centers, 3.0)))
    share = rng.uniform(0.1, 0.9, size=n_centers)
    center[:n_centers] = np.arange(n_centers)
    labels = ["LAA" if rng.random() < share[own] else "CE" for own in center]
    return labels, [f"c{own}" for own in center], [f"{p:03d}" for p in range(patients)]


def cost(labels: list[str], folds: np.ndarray, n_folds: int) -> float:
    """Return how far classes are from even, and what folds lack, counted another way."""
    total = 0.0
    for label in set(labels):
        even = labels.count(label) / n_folds
        for fold in range(n_folds):
            own = sum(la == label and f == fold for la, f in zip(labels, folds.tolist(), strict=True))
            total += abs(own - even) / even + 10 * (own == 0)
    return total


@pytest.mark.parametrize("seed", range(6))
def test_no_deal_of_all_is_better(seed: int) -> None:
    labels, centers, patients = cohort(seed, 6, 60)
    folds, dealt = preserved_site_folds(labels, centers, patients, 3)
    assert dealt.exact
    names = sorted({str(center) for center in centers})
    every = (
        np.array([deal_of[names.index(str(center))] for center in centers])
        for deal_of in product(range(3), repeat=6)
        if len(set(deal_of)) == 3
    )
    assert cost(labels, folds, 3) == pytest.approx(min(cost(labels, own, 3) for own in every))
    assert dealt.off == pytest.approx((cost(labels, folds, 3) % 10) / 6)
    for center in names:
        assert len({f for f, c in zip(folds.tolist(), centers, strict=True) if c == center}) == 1


def test_it_is_better_balanced_than_by_size_and_the_same_in_any_order() -> None:
    by_size, preserved = [], []
    for seed in range(4):
        labels, centers, patients = cohort(seed, 9, 200)
        folds, _ = preserved_site_folds(labels, centers, patients, 3)
        by_size.append(cost(labels, center_folds(centers, patients, 3), 3))
        preserved.append(cost(labels, folds, 3))
        back = preserved_site_folds(labels[::-1], centers[::-1], patients[::-1], 3)[0]
        assert folds.tolist() == back[::-1].tolist()
    assert all(own <= other + 1e-9 for own, other in zip(preserved, by_size, strict=True))
    assert np.mean(preserved) < 0.7 * np.mean(by_size)


def test_where_the_search_does_not_end_moves_and_swaps_come_near(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, near = [], []
    for seed in range(4):
        labels, centers, patients = cohort(seed, 9, 150)
        where = dict(zip(patients, map(str, centers), strict=True))
        of = dict(zip(patients, labels, strict=True))
        exact.append(deal(where, of, 3).off)
        with monkeypatch.context() as patched:
            patched.setattr(preserved_site, "MOST_UNKNOWN", 0)
            found = deal(where, of, 3)
        assert not found.exact
        assert "did not end" in found.told()
        near.append(found.off)
    assert all(own >= best - 1e-9 for own, best in zip(near, exact, strict=True))
    assert np.mean(near) < np.mean(exact) + 0.05


def test_what_cannot_be_dealt_is_refused_in_a_line() -> None:
    with pytest.raises(RequestError, match="--split preserved-site: patient p1 has no center_id"):
        preserved_site_folds(["a", "b"], ["x", None], ["p0", "p1"], 2)
    with pytest.raises(RequestError, match="patient p0 stands in centers x and y"):
        preserved_site_folds(["a", "a"], ["x", "y"], ["p0", "p0"], 2)
    with pytest.raises(RequestError, match="expected 3 or more centers, found 2: lower --folds"):
        preserved_site_folds(["a", "b"], ["x", "y"], ["p0", "p1"], 3)
