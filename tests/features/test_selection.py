"""Which tiles are encoded, and what the encoder sees of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from features.bags.bag import find_bags, read_coords, read_features, read_header
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions, options_of
from features.selection import Selection
from features.views import GREY, JITTERS, VIEWS
from wsi.errors import RequestError
from wsi.progress.outcome import Status
from wsi.scores.completed import completed_score
from wsi.store.tile_store import TileStore

TIMM = {"encoder": "timm:test_vit.r160_in1k", "random_weights": 0, "device": "cpu"}


def bags_of(stores: Path, out: Path, **options: object) -> list[Path]:
    assert extract(ExtractOptions(stores=(stores,), out=out, **options)).exit_code == 0  # type: ignore[arg-type]
    return find_bags([out])


@pytest.mark.parametrize("by", ["darkness", "tissue", "texture"])
def test_the_best_tiles_are_taken_in_tile_order(small_store: TileStore, by: str) -> None:
    scores = small_store.tissue if by == "tissue" else small_store.scores[by]
    rows = Selection(by, 5).rows(small_store)
    assert rows is not None
    assert list(rows) == sorted(rows)
    assert scores[rows].min() >= np.delete(scores, rows).max()
    assert Selection(by, 10_000).rows(small_store) is None


@pytest.mark.parametrize("by", ["texture"])
def test_a_score_that_copied_tiles_lack_is_made_when_asked_for(
    tmp_path: Path, pyramid_slide: Path, tiled: Callable[..., TileStore], by: str
) -> None:
    copied = tiled(pyramid_slide, tmp_path / "auto", tile_px="native", target_mpp=0.25)
    scored = tiled(pyramid_slide, tmp_path / "all", tile_px="native", target_mpp=0.25, scores="all")
    assert by not in copied.scores
    score, chosen, wanted = completed_score(copied, by), Selection(by, 4).rows(copied), Selection(by, 4).rows(scored)
    assert score is not None
    assert chosen is not None
    assert wanted is not None
    np.testing.assert_allclose(score, scored.scores[by], atol=2e-3)
    np.testing.assert_array_equal(chosen, wanted)
    assert completed_score(copied, "none such") is None


def test_random_tiles_depend_on_seed_and_slide_alone(small_store: TileStore, second_store: TileStore) -> None:
    def drawn(store: TileStore, seed: int) -> list[int]:
        rows = Selection("random", 5, seed).rows(store)
        assert rows is not None
        return rows.tolist()

    first = drawn(small_store, 1)
    assert first == drawn(TileStore(small_store.path), 1)
    assert first != drawn(small_store, 2)
    assert len(set(first)) == 5


def test_chosen_rows_are_those_of_the_whole_bag(stores: Path, tmp_path: Path) -> None:
    whole = bags_of(stores, tmp_path / "whole")
    part = bags_of(stores, tmp_path / "part", select="random", tiles_per_slide=4, select_seed=3, batch_size=3)
    for bag, own in zip(whole, part, strict=True):
        store = TileStore(stores / f"{own.stem}.zarr")
        rows = Selection("random", 4, 3).rows(store)
        np.testing.assert_array_equal(read_features(own), read_features(bag)[rows])
        np.testing.assert_array_equal(read_coords(own), read_coords(bag)[rows])
        assert read_header(own).recipe["select"] == {"by": "random", "tiles": 4, "seed": 3}
    again = extract(
        ExtractOptions(stores=(stores,), out=tmp_path / "part", select="random", tiles_per_slide=4, select_seed=3)
    )
    assert {outcome.status for outcome in again.outcomes} == {Status.SKIPPED}


@pytest.mark.parametrize(("by", "tiles"), [("all", 3), ("random", 0), ("best", 3), ("random", -1)])
def test_a_request_that_makes_no_sense_is_refused(by: str, tiles: int) -> None:
    with pytest.raises(RequestError, match="--select"):
        Selection(by, tiles)


def test_views_are_their_own_inverses_and_all_different() -> None:
    tiles = torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8)
    for name, count in (("none", 1), ("flips", 4), ("d4", 8), ("colour", 5)):
        seen = [view(tiles) for view in VIEWS[name]]
        assert len(seen) == count
        assert torch.equal(seen[0], tiles)
        assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    for view in (*VIEWS["flips"], *VIEWS["d4"]):
        assert torch.equal(view(tiles).flatten(2).sort(-1).values, tiles.flatten(2).sort(-1).values)


def test_jitter_keeps_grey_grey_and_scales_saturation() -> None:
    tiles = torch.tensor([180, 60, 90], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    for view, (brightness, contrast, saturation) in zip(VIEWS["colour"][1:], JITTERS, strict=True):
        pixels = brightness * np.array([180.0, 60.0, 90.0])
        grey = pixels @ GREY  # of one colour: contrast spreads its channels about it, and so does saturation
        wanted = grey + contrast * saturation * (pixels - grey)
        np.testing.assert_allclose(view(tiles)[0, :, 0, 0].numpy(), wanted, atol=0.51)


def test_the_mean_over_views_is_the_mean_of_the_views_that_are_kept(stores: Path, tmp_path: Path) -> None:
    plain = bags_of(stores, tmp_path / "plain", **TIMM)
    mean = bags_of(stores, tmp_path / "mean", views="d4", **TIMM)
    kept = bags_of(stores, tmp_path / "kept", views="d4", keep_views=True, nproc=2, **TIMM)
    for one, averaged, each in zip(plain, mean, kept, strict=True):
        features = read_features(one)
        views = read_features(each).reshape(len(features), 8, -1)
        np.testing.assert_array_equal(views[:, 0], features)
        np.testing.assert_allclose(views.astype(np.float32).mean(1), read_features(averaged), atol=2e-3)
        np.testing.assert_array_equal(read_coords(each).reshape(len(features), 8, 2)[:, 5], read_coords(one))


def test_a_bags_recipe_tells_how_to_make_more_of_them(stores: Path, tmp_path: Path) -> None:
    options = {"select": "tissue", "tiles_per_slide": 3, "stain": "reinhard", "views": "flips"}
    first = bags_of(stores, tmp_path / "first", **options)
    again = bags_of(stores, tmp_path / "again", **options_of(read_header(first[0]).recipe))
    assert [bag.read_bytes() for bag in first] == [bag.read_bytes() for bag in again]
