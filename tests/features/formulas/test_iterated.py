"""Systems of maps, their walks, and points on pixels, against other ways to the same."""

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from features.formulas import formula
from features.formulas.chance import keys
from features.formulas.iterated import LEAST_VARIANCE, ExFractalDB, _least_variance
from features.formulas.maps import Maps, plane_maps, space_maps
from features.formulas.splat import Canvas, stamped
from features.formulas.walk import Walk, extent

KEYS = keys(3, torch.arange(300))


def test_maps_of_the_plane_have_the_sigma_factor_asked_for() -> None:
    maps = plane_maps(KEYS, (2, 8))
    values = torch.linalg.svdvals(maps.matrices)
    own = maps.odds > 0
    number = own.sum(1)
    assert number.unique().tolist() == list(range(2, 9))
    assert values.max() <= 1 + 1e-9
    factor = ((values[..., 0] + 2 * values[..., 1]) * own).sum(1)
    assert (factor >= (5 + number) / 2 - 1e-9).all()
    assert (factor <= (6 + number) / 2 + 1e-9).all()
    fixed = plane_maps(KEYS, (2, 2), (4.0, 4.0))
    factor = (torch.linalg.svdvals(fixed.matrices) * torch.tensor([1.0, 2.0]) * (fixed.odds > 0)[..., None]).sum((1, 2))
    torch.testing.assert_close(factor, torch.full_like(factor, 4))


def test_a_changed_map_still_contracts() -> None:
    maps = plane_maps(KEYS, (2, 8))
    changed = maps.changed(maps.matrices * 1.2, maps.shifts)
    assert torch.linalg.svdvals(changed.matrices).max() <= 0.98 + 1e-9
    small = torch.linalg.svdvals(maps.matrices)[..., 0] * 1.2 < 0.98
    torch.testing.assert_close(changed.matrices[small], maps.matrices[small] * 1.2)


def test_maps_of_space_have_a_similarity_dimension_and_turn_evenly() -> None:
    maps = space_maps(KEYS, (2, 8))
    values = torch.linalg.svdvals(maps.matrices)
    assert values.max() <= 0.98 + 1e-9
    kept = (values.amax((1, 2)) < 0.979).nonzero()[:, 0]
    sizes = values[kept].prod(-1) * (maps.odds[kept] > 0)
    at = torch.stack([(sizes ** (d / 3)).sum(1) for d in (1.5, 2.2)])
    assert (at[0] >= 1 - 1e-9).all()
    assert (at[1] <= 1 + 1e-9).all()


def test_a_walk_has_the_moments_of_the_attractor() -> None:
    # mean and covariance of the invariant measure solve linear equations: compared with a walk's points
    maps = plane_maps(KEYS[:40], (2, 8))
    walk = Walk(maps, KEYS[:40], 4096)
    for _ in range(60):
        walk.step()
    points = torch.cat([torch.stack(walk.step(), 1) for _ in range(10)], 2).double()
    a, b, odds = maps.matrices.numpy(), maps.shifts.numpy(), maps.odds.numpy()
    for i in range(40):
        mean_matrix = np.einsum("k,kij->ij", odds[i], a[i])
        mean = np.linalg.solve(np.eye(2) - mean_matrix, odds[i] @ b[i])
        second = np.einsum("k,kac,kbd->abcd", odds[i], a[i], a[i]).reshape(4, 4)
        moved = np.einsum("kij,j->ki", a[i], mean) + b[i] - mean
        covariance = np.linalg.solve(np.eye(4) - second, np.einsum("k,ka,kb->ab", odds[i], moved, moved).ravel())
        scale = np.sqrt(np.trace(covariance.reshape(2, 2)))
        np.testing.assert_allclose(points[i].mean(1), mean, atol=0.06 * scale)
        np.testing.assert_allclose(np.cov(points[i]).ravel(), covariance, atol=0.12 * scale**2)


def test_framing_moves_the_attractor_as_it_says() -> None:
    maps = plane_maps(KEYS[:5], (2, 8))
    scale, origin = torch.rand(5, 2, dtype=torch.float64) + 1, torch.rand(5, 2, dtype=torch.float64)
    low, high = extent(maps, KEYS[:5])
    framed_low, framed_high = extent(maps.framed(scale, origin), KEYS[:5])
    torch.testing.assert_close(framed_low.double(), scale * low + origin, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(framed_high.double(), scale * high + origin, atol=1e-3, rtol=1e-3)


def test_counts_are_numpys_histogram() -> None:
    points = torch.rand(3, 2, 500) * 14 - 2
    canvas = Canvas(3, 10, torch.device("cpu"))
    for half in points.split(250, 2):
        canvas.add(half[:, 0], half[:, 1])
    for counted, (y, x) in zip(canvas.counts(), points, strict=True):
        expected, _, _ = np.histogram2d(y, x, bins=10, range=((0, 10), (0, 10)))
        np.testing.assert_array_equal(counted, expected)


def test_a_stamped_patch_is_a_dilation() -> None:
    points = torch.rand(4, 12, 15 - 3) < 0.1
    patches = torch.rand(4, 3, 3) < 0.5
    for drawn, point, patch in zip(stamped(points, patches), points, patches, strict=True):
        np.testing.assert_array_equal(drawn, binary_dilation(point, patch.numpy()))


def test_classes_of_space_spread_along_all_axes() -> None:
    family = formula("exfractaldb", classes=60, seed=0)
    assert isinstance(family, ExFractalDB)
    found = family._search()
    assert isinstance(found, Maps)
    assert (_least_variance(found, KEYS[:60]) >= LEAST_VARIANCE * 0.8).float().mean() > 0.95
