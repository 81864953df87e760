"""Stain normalisation against plain numpy and scikit-image, and what a slide without stain does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2lab

from features.bags.bag import find_bags, read_features, read_header
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from features.stain import (
    REFERENCE_LAB_MEAN,
    REFERENCE_LAB_STD,
    REFERENCE_MOST_2,
    REFERENCE_STAINS_32,
    WHITE,
    Fit,
    fit_pixels,
    fit_stain,
)
from wsi.errors import RequestError
from wsi.store.tile_store import TileStore

STAINS = np.array([[0.65, 0.35], [0.70, 0.80], [0.29, 0.48]])
"""Two stains that are not the reference's."""


def stained_pixels(most: tuple[float, float] = (1.2, 0.8), count: int = 20_000, seed: int = 0) -> np.ndarray:
    """RGB (P, 3) of known amounts of two stains, some pixels with one of them alone."""
    rng = np.random.default_rng(seed)
    amounts = (0.5 + 0.5 * rng.random((count, 2))) * most
    amounts[: count // 10, 1] = 0
    amounts[count // 10 : count // 5, 0] = 0
    return np.asarray(WHITE * np.exp(-amounts @ (STAINS / np.linalg.norm(STAINS, axis=0)).T) - 1)


def test_macenko_finds_the_two_stains_and_puts_the_reference_in_their_place() -> None:
    pixels = stained_pixels()
    fit = fit_pixels("macenko", pixels)
    matrix = np.array(fit.scale).reshape(3, 3)
    own = STAINS / np.linalg.norm(STAINS, axis=0)
    strongest = matrix @ (own * np.array([1.2, 0.8]))  # the most of each stain becomes the reference's most of it
    np.testing.assert_allclose(strongest, REFERENCE_STAINS_32 * REFERENCE_MOST_2, rtol=0.12, atol=0.06)


def test_macenko_makes_slides_of_other_stains_alike() -> None:
    pale, dark = stained_pixels((1.0, 0.8)), stained_pixels((1.6, 1.3))
    shown = []
    for pixels in (pale, dark):
        tiles = torch.from_numpy(pixels.T.reshape(1, 3, 100, 200).clip(0, 255).astype(np.uint8))
        shown.append(fit_pixels("macenko", pixels).apply(tiles).float().mean((0, 2, 3)).numpy())
    assert np.abs(pale.mean(0) - dark.mean(0)).max() > 35
    assert np.abs(shown[0] - shown[1]).max() < 6


def test_reinhard_is_scikit_images_lab_moved_to_the_reference() -> None:
    pixels = stained_pixels().clip(0, 255).astype(np.uint8)
    fit = fit_pixels("reinhard", pixels.astype(np.float64))
    tiles = torch.from_numpy(np.ascontiguousarray(pixels.T.reshape(1, 3, 100, 200)))
    lab = rgb2lab(pixels[None])[0]
    stained = (-np.log((pixels + 1.0) / WHITE) >= 0.15).all(1)
    mean, std = lab[stained].mean(0), lab[stained].std(0)
    wanted = lab2rgb(((lab - mean) / std * REFERENCE_LAB_STD + REFERENCE_LAB_MEAN)[None])[0] * 255
    found = fit.apply(tiles)[0].reshape(3, -1).T.numpy()
    inside = ((wanted > 1) & (wanted < 254)).all(1)  # beyond the cube they clip differently
    assert inside.mean() > 0.5
    assert np.abs(found[inside] - wanted[inside]).max() <= 1.5


def test_background_becomes_white() -> None:
    fit = Fit("background", tuple(255 / value for value in (200.0, 210.0, 190.0)))
    tiles = torch.tensor([200, 210, 190], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert (fit.apply(tiles) == 255).all()
    half = torch.tensor([100, 105, 95], dtype=torch.uint8).view(1, 3, 1, 1)
    assert (fit.apply(half) == 128).all()


@pytest.mark.parametrize("kind", ["macenko", "reinhard"])
def test_a_slide_without_stain_stays_as_it_is(kind: str) -> None:
    fit = fit_pixels(kind, np.full((5000, 3), 240.0))
    assert fit.kind == "none"
    assert "0 stained pixels" in str(fit.as_dict()["stain"])
    tiles = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(fit.apply(tiles), tiles)
    assert fit_pixels(kind, np.full((5000, 3), 90.0)).kind == "none"  # one grey: neither two stains nor a spread


def test_the_fit_of_a_store_is_the_same_for_all_who_ask(small_store: TileStore) -> None:
    for kind in ("background", "reinhard", "macenko"):
        assert fit_stain(kind, small_store) == fit_stain(kind, TileStore(small_store.path))
        assert fit_stain(kind, small_store).kind == kind


@pytest.mark.parametrize(
    "kind",
    [pytest.param("background", marks=pytest.mark.slow), pytest.param("reinhard", marks=pytest.mark.slow), "macenko"],
)
def test_bags_do_not_depend_on_batches_or_ranks(stores: Path, tmp_path: Path, kind: str) -> None:
    plain, first, second = (tmp_path / name for name in ("plain", "first", "second"))
    assert extract(ExtractOptions(stores=(stores,), out=plain)).exit_code == 0
    assert extract(ExtractOptions(stores=(stores,), out=first, stain=kind, batch_size=7)).exit_code == 0  # type: ignore[arg-type]
    assert extract(ExtractOptions(stores=(stores,), out=second, stain=kind, batch_size=64, nproc=2)).exit_code == 0  # type: ignore[arg-type]
    for bag in find_bags([first]):
        np.testing.assert_array_equal(read_features(bag), read_features(second / bag.name))
        assert not np.array_equal(read_features(bag), read_features(plain / bag.name))
        assert read_header(bag).recipe["stain"] == kind
        assert read_header(bag).provenance["stain"]["kind"] == kind


def test_an_unknown_stain_is_one_clear_line() -> None:
    with pytest.raises(RequestError, match="--stain vahadane: expected one of none, background, reinhard, macenko"):
        ExtractOptions(stores=(Path("s"),), out=Path("o"), stain="vahadane")  # type: ignore[arg-type]
