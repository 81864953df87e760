"""The alarm for slides unlike all known ones: distances against scikit-learn, false alarms as promised, the file."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from mil.evaluation.refusal.familiar import NEAREST, familiar_of, nearest_mean
from mil.run.known import FILE, KnownSlides, read_known, write_known
from wsi.errors import RequestError


def known(rng: np.random.Generator, n: int, dim: int = 8, each: int = 1) -> KnownSlides:
    return KnownSlides(
        image_ids=tuple(f"{i}" for i in range(n)),
        patient_ids=tuple(f"p{i // each}" for i in range(n)),
        centers=("1",) * n,
        contents=("",) * n,
        means_SD=rng.normal(size=(n, dim)) * np.linspace(0.5, 3, dim) + 4,
        mpp_S=np.full(n, 0.25),
        colour_SC=np.full((n, 3), np.nan),
        tiles_SKA=rng.normal(size=(n, 4, 9)),
    )


def test_distances_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    asked, gallery = rng.normal(size=(20, 6)), rng.normal(size=(50, 6))
    wanted, _ = NearestNeighbors(n_neighbors=NEAREST).fit(gallery).kneighbors(asked)
    np.testing.assert_allclose(nearest_mean(asked, gallery), wanted.mean(axis=1), atol=1e-6)
    assert nearest_mean(asked, gallery[:2]).shape == (20,)


@pytest.mark.parametrize(("n", "promised"), [(40, 1 / 41), (250, 2 / 251)])
def test_slides_like_the_known_ones_are_seldom_called_unlike(n: int, promised: float) -> None:
    rng = np.random.default_rng(1)
    called = []
    for _ in range(100):
        slides = known(rng, n)
        familiar = familiar_of(slides)
        assert familiar is not None
        assert familiar.false_alarms == pytest.approx(promised)
        called.append((familiar.distances(known(rng, 40).means_SD) > familiar.furthest).mean())
    assert abs(np.mean(called) - promised) < 4 * np.std(called) / np.sqrt(100) + 0.2 * promised


def test_another_stain_is_called_unlike() -> None:
    rng = np.random.default_rng(2)
    familiar = familiar_of(known(rng, 100))
    assert familiar is not None
    assert (familiar.distances(known(rng, 30).means_SD + 8) > familiar.furthest).all()


def test_a_patients_own_slides_do_not_make_him_familiar() -> None:
    """Two slides of each patient lie at one place; patients lie apart: a new one is not unlike because he is one."""
    rng = np.random.default_rng(3)
    own = known(rng, 60)
    twins = KnownSlides(
        image_ids=tuple(f"{i}" for i in range(120)),
        patient_ids=tuple(f"p{i // 2}" for i in range(120)),
        centers=("",) * 120,
        contents=("",) * 120,
        means_SD=np.repeat(own.means_SD, 2, axis=0),
        mpp_S=np.zeros(120),
        colour_SC=np.zeros((120, 3)),
        tiles_SKA=np.zeros((120, 0, 9)),
    )
    familiar = familiar_of(twins)
    assert familiar is not None
    assert (familiar.distances(known(rng, 200).means_SD) > familiar.furthest).mean() < 0.1


def test_few_known_slides_tell_nothing() -> None:
    rng = np.random.default_rng(4)
    assert familiar_of(known(rng, 19)) is None
    assert familiar_of(known(rng, 30, each=30)) is None


def test_the_file_reads_back_and_damage_is_told(tmp_path: Path) -> None:
    own = known(np.random.default_rng(5), 30)
    assert read_known(tmp_path) is None
    write_known(tmp_path, own)
    back = read_known(tmp_path)
    assert back is not None
    assert (back.image_ids, back.patient_ids, back.centers) == (own.image_ids, own.patient_ids, own.centers)
    np.testing.assert_allclose(back.means_SD, own.means_SD, rtol=1e-6)
    np.testing.assert_allclose(back.tiles_SKA, own.tiles_SKA, rtol=1e-6)
    assert np.isnan(back.colour_SC).all()
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-8])
    with pytest.raises(RequestError, match="damaged"):
        read_known(tmp_path)
