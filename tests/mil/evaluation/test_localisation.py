"""Attention against drawn regions: each measure against another way to compute it."""

import numpy as np
import pytest
import shapely
from scipy.stats import mannwhitneyu

from mil.evaluation.localisation import Localised, localised, summarised
from wsi.annotations.regions import tile_shares
from wsi.errors import AnnotationError


@pytest.mark.parametrize("seed", range(4))
def test_overlap_is_that_of_the_areas_and_the_auc_that_of_mann_and_whitney(seed: int) -> None:
    rng = np.random.default_rng(seed)
    l0_yx = np.argwhere(rng.random((20, 20)) < 0.7) * 10
    tiles = [shapely.box(x, y, x + 10, y + 10) for y, x in l0_yx]
    region = shapely.Point(90, 110).buffer(60)
    share_N = tile_shares(region, l0_yx, 10)
    attention_N = rng.integers(0, 50, len(tiles)) + 20.0 * (share_N > 0.3)
    found = localised(attention_N, share_N)
    k = round(region.intersection(shapely.union_all(tiles)).area / 100)
    top = shapely.union_all([tiles[i] for i in np.argsort(-attention_N, kind="stable")[:k]])
    under = shapely.intersection(region, shapely.union_all(tiles))
    by_areas = shapely.intersection(top, under).area / shapely.union(top, under).area
    assert found["iou"] == pytest.approx(by_areas)
    inside = share_N >= 0.5
    u = mannwhitneyu(attention_N[inside], attention_N[~inside]).statistic
    assert found["auc"] == pytest.approx(u / (inside.sum() * (~inside).sum()))
    assert found["pointing"] == pytest.approx(inside[attention_N == attention_N.max()].mean())
    assert found["inside"] == inside.mean()
    assert found["region"] == pytest.approx(under.area / (100 * len(tiles)))


def test_perfect_opposite_and_by_chance() -> None:
    share_N = np.repeat([1.0, 0.0], [20, 80])
    assert localised(share_N, share_N) | {"iou_by_chance": 0} == {
        "region": 0.2, "inside": 0.2, "pointing": 1, "auc": 1, "iou": 1, "iou_by_chance": 0,
    }  # fmt: skip
    opposite = localised(-share_N, share_N)
    assert (opposite["pointing"], opposite["auc"], opposite["iou"]) == (0, 0, 0)
    rng = np.random.default_rng(0)
    random = [localised(rng.random(100), share_N) for _ in range(2000)]
    assert np.mean([own["pointing"] for own in random]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([own["iou"] for own in random]) == pytest.approx(random[0]["iou_by_chance"], abs=0.01)


def test_regions_without_an_outside_or_without_any_tile() -> None:
    assert localised(np.arange(3.0), np.ones(3))["auc"] is None
    assert localised(np.arange(3.0), np.array([0.1, 0.2, 0.2]))["auc"] is None
    with pytest.raises(AnnotationError, match="outside all tiles"):
        localised(np.arange(3.0), np.zeros(3))


def slide(patient: str, auc: float | None, pointing: float = 1) -> Localised:
    return Localised(
        image_id=f"{patient}_0", patient_id=patient, tiles=9, region=0.3, inside=0.2, pointing=pointing, auc=auc,
        iou=0.5, iou_by_chance=0.1, out_of_fold=True,
    )  # fmt: skip


def test_intervals_are_over_patients() -> None:
    told = summarised([slide("a", 0.9), slide("b", None), *[slide("c", 0.5, 0)] * 8])
    assert told["auc"]["value"] == pytest.approx((0.9 + 8 * 0.5) / 9)
    assert (told["auc"]["slides"], told["auc"]["patients"], told["auc"]["chance"]) == (9, 2, 0.5)
    assert (told["pointing"]["slides"], told["pointing"]["patients"], told["pointing"]["chance"]) == (10, 3, 0.2)
    # eight slides of one patient are one patient: they are drawn together, or not at all
    assert (told["auc"]["low"], told["auc"]["high"]) == (0.5, 0.9)
    assert summarised([slide("a", None)])["auc"]["value"] is None
