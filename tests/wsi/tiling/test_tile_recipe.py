"""A store's recipe says what took effect: outputs that differ differ in it, and what had no effect does not refuse."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from colour_cells import SIDE, to_ycbcr, write_tiff
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import picture, spoil_tile, write_deflate, write_pyramid

from wsi.cohort.fingerprint import fingerprint
from wsi.cohort.slides import Job
from wsi.errors import DamagedSlideError, GigamilError, RecipeMismatchError
from wsi.progress.outcome import Status
from wsi.recipe import canonical, recipe_hash
from wsi.scores.drop import parse_rules
from wsi.store.tile_store import TileStore
from wsi.tiling.engine import check_finished
from wsi.tiling.options import TileOptions
from wsi.tiling.plan import SlidePlan, make_plan
from wsi.tiling.tasks.finish import finish
from wsi.tiling.tasks.masking import make_band, make_tissue
from wsi.tiling.tasks.region import make_region
from wsi.tiling.tasks.settle import make_region_once, settle_region, unsettled_regions
from wsi.tiling.tiler import tile

CHOICES: dict[str, tuple[Any, ...]] = {
    "target_mpp": (0.5, 0.505, 1.0),
    "tile_px": (128, "native", 64),
    "codec": ("auto", "jpeg", "zstd"),
    "downscale": ("area", "dct"),
    "min_tissue": (0.1, 0.1000001, 0.6, 0.01),
    "keep_background": (False, True),
    "assume_mpp": (0.5, 0.25, 0.50000001),
    "on_damage": ("skip", "fail"),
    "fill_holes": (False, True),
    "drop": ((), ("pen>0.99",), ("darkness>0.1",), ("darkness>0.1000001",), ("focus<1e-9",)),
    "scores": ("auto", "all"),
    "reader": (None, "tiff", "openslide"),
}


def make(job: Job, options: TileOptions) -> SlidePlan:
    """Make one store, step by step, as the tiler does."""
    options.out.mkdir(exist_ok=True)
    plan = make_plan(job, options)
    plan.start()
    if plan.single_pass:
        for region in plan.regions:
            make_region_once(plan, region)
    else:
        for band in range(plan.overview.bands):
            make_band(plan, band)
    regions = make_tissue(plan)
    for region in unsettled_regions(plan) if plan.single_pass else regions:
        (settle_region if plan.single_pass else make_region)(plan, region)
    finish(plan, regions)
    return plan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[SlidePlan, dict[str, bytes]] | str]:
    """Give a function that makes a store of a slide by options, once each: plan and content, or why not."""
    folder = tmp_path_factory.mktemp("recipes")
    pixels, holed = picture(400, 420), picture(1800, 1820)
    holed[430:830, 366:726] = (236, 238, 237)  # a hole too large to be taken for tissue anyway
    slides = {
        "plain": write_deflate(folder / "plain.tif", pixels, resolution=None),
        "holed": write_deflate(folder / "holed.tif", holed, resolution=None),
        "jpeg": write_pyramid(folder / "jpeg.tif", pixels, 0.25, tile=(128, 128)),
        "bad": write_deflate(folder / "bad.tif", pixels, resolution=None),
    }
    spoil_tile(slides["bad"], 5)

    @cache
    def run(slide: str, chosen: tuple[Any, ...]) -> tuple[SlidePlan, dict[str, bytes]] | str:
        path = slides[slide]
        out = folder / f"{slide}{abs(hash(chosen))}"
        options = TileOptions(slides=(path,), out=out, workers=0, **dict(zip(CHOICES, chosen, strict=True)))
        try:
            plan = make(Job(slide, path), options)
        except GigamilError as error:
            return str(error)
        return plan, content(plan.out)

    return run


def content(store: Path) -> dict[str, bytes]:
    """Return every file of a store, without what tells how it came about."""
    found = {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}
    root = json.loads(found.pop("zarr.json"))["attributes"]
    for name in ("recipe", "recipe_hash", "provenance", "image_id", "sha256"):
        del root["gigamil"][name]
    return found | {"root": json.dumps(root).encode()}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Draw two option sets that differ in one field."""
    few = {name: values[:2] for name, values in CHOICES.items()}
    first = {name: draw(st.sampled_from(values)) for name, values in few.items()}
    field = draw(st.sampled_from(list(CHOICES)))
    other = draw(st.sampled_from([value for value in CHOICES[field] if value != first[field]]))
    return tuple(first.values()), tuple((first | {field: other}).values())


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(slide=st.sampled_from(["plain", "jpeg", "bad"]), pair=pairs())
def test_the_recipe_is_what_took_effect(made: Any, slide: str, pair: tuple[tuple[Any, ...], tuple[Any, ...]]) -> None:
    one, other = (made(slide, chosen) for chosen in pair)
    if isinstance(one, str) or isinstance(other, str):
        return
    (plan, found), (wanted, would_be) = one, other
    here = replace(wanted, out=plan.out)
    if found == would_be:
        facts = check_finished(here)
        assert isinstance(facts, dict), facts
    else:
        assert canonical(TileStore(plan.out).recipe) != canonical(TileStore(wanted.out).recipe)
        with pytest.raises(RecipeMismatchError):
            check_finished(here)


BASE = tuple(values[0] for values in CHOICES.values())


@pytest.mark.parametrize(
    ("slide", "field", "value", "same"),
    [
        ("plain", "assume_mpp", 0.25, False),
        ("jpeg", "assume_mpp", 0.3, True),
        ("plain", "on_damage", "fail", True),
        ("plain", "drop", ("pen>0.99",), True),
        ("plain", "fill_holes", True, True),
        ("holed", "fill_holes", True, False),
        ("jpeg", "target_mpp", 0.505, True),
        ("jpeg", "tile_px", "native", True),
        ("plain", "codec", "zstd", True),
        ("plain", "downscale", "dct", True),
        ("plain", "scores", "all", True),
        ("plain", "reader", "tiff", True),
        ("plain", "min_tissue", 0.6, False),
        ("plain", "keep_background", True, False),
    ],
)
def test_each_option_refuses_only_where_it_matters(made: Any, slide: str, field: str, value: Any, same: bool) -> None:
    plan, _ = made(slide, BASE)
    chosen = dict(zip(CHOICES, BASE, strict=True)) | {field: value}
    options = TileOptions(slides=(plan.path,), out=plan.out.parent, workers=0, **chosen)
    wanted = make_plan(Job(slide, plan.path), options)
    assert wanted.out == plan.out
    if same:
        assert isinstance(check_finished(wanted), dict)
    else:
        with pytest.raises(RecipeMismatchError):
            check_finished(wanted)


@pytest.mark.parametrize(
    ("slide", "first", "then", "same"),
    [
        ("holed", {"fill_holes": True}, {"fill_holes": True, "scores": "all"}, True),
        ("holed", {"fill_holes": True}, {"fill_holes": False}, False),
        ("plain", {"drop": ("darkness>0.1",)}, {"drop": ("darkness>0.1", "pen>0.99")}, True),
        ("plain", {"drop": ("darkness>0.1", "pen>0.99")}, {"drop": ("darkness>0.1",)}, True),
        ("plain", {"drop": ("darkness>0.1",)}, {"drop": ("pen>0.99",)}, False),
        ("jpeg", {"target_mpp": 0.25}, {"target_mpp": 0.25, "drop": ("focus<1e-9",)}, False),  # not scored: who knows
    ],
)
def test_what_took_effect_before_is_asked_for_again(
    made: Any, slide: str, first: dict[str, Any], then: dict[str, Any], same: bool
) -> None:
    chosen = dict(zip(CHOICES, BASE, strict=True))
    plan, _ = made(slide, tuple((chosen | first).values()))
    recipe = TileStore(plan.out).recipe["effect"]
    assert "drop" not in first or recipe["drop"] == ["darkness>0.1"]
    options = TileOptions(slides=(plan.path,), out=plan.out.parent, workers=0, **(chosen | then))
    wanted = make_plan(Job(slide, plan.path), options)
    if same:
        assert isinstance(check_finished(wanted), dict)
    else:
        with pytest.raises(RecipeMismatchError):
            check_finished(wanted)


def test_skipped_damage_stands_in_the_recipe(made: Any) -> None:
    chosen = dict(zip(CHOICES, BASE, strict=True))
    assert "on_damage" not in TileStore(made("plain", BASE)[0].out).recipe
    plan, _ = made("bad", BASE)
    assert TileStore(plan.out).recipe["on_damage"] == "skip"
    options = TileOptions(slides=(plan.path,), out=plan.out.parent, workers=0, **(chosen | {"on_damage": "fail"}))
    with pytest.raises(RecipeMismatchError, match='on_damage: found "skip", wanted "fail"'):
        check_finished(make_plan(Job("bad", plan.path), options))


@pytest.mark.parametrize("slide", ["plain", "holed"])
def test_filled_holes_stand_in_the_recipe(made: Any, slide: str) -> None:
    filled = tuple((dict(zip(CHOICES, BASE, strict=True)) | {"fill_holes": True}).values())
    (plan, without), (other, within) = made(slide, BASE), made(slide, filled)
    recipes = [TileStore(one.out).recipe for one in (plan, other)]
    assert [recipe["effect"]["fill_holes"] for recipe in recipes] == [False, slide == "holed"]
    assert [recipe["fill_holes"] for recipe in recipes] == [False, True]
    assert (without == within) == (slide == "plain")


def test_rules_keep_every_digit() -> None:
    one, other = parse_rules(["focus<0.040000001"]), parse_rules(["focus<0.040000002"])
    assert str(one[0]) != str(other[0])
    assert parse_rules([str(one[0])]) == one


def runs(slide: Path, out: Path, **options: Any) -> tuple[Status, str]:
    settings = {"assume_mpp": 0.5, "workers": 0} | options
    outcome = tile(TileOptions(slides=(slide,), out=out, **settings)).outcomes[0]
    return outcome.status, outcome.reason


def remove_a_shard(store: Path) -> None:
    next(p for p in sorted((store / "0").rglob("*")) if p.is_file() and p.name.isdigit()).unlink()


def cut_a_shard(store: Path) -> None:
    shard = next(p for p in sorted((store / "1").rglob("*")) if p.is_file() and p.name.isdigit())
    shard.write_bytes(shard.read_bytes()[:-7])


def remove_the_tile_list(store: Path) -> None:
    shutil.rmtree(store / "tiles" / "yx")


@pytest.mark.parametrize("hurt", [remove_a_shard, cut_a_shard, remove_the_tile_list])
def test_a_store_that_is_not_whole_is_made_anew(
    tmp_path: Path, small_store: TileStore, deflate_slide: Path, hurt: Callable[[Path], None]
) -> None:
    store = tmp_path / "049194_0.zarr"
    shutil.copytree(small_store.path, store)
    hurt(store)
    status, reason = runs(deflate_slide, tmp_path)
    assert status is Status.DONE
    assert "was there is not whole and is made anew" in reason
    assert content(store) == content(Path(small_store.path))
    assert runs(deflate_slide, tmp_path, overwrite=True)[0] is Status.SKIPPED


def test_another_slide_of_that_name_is_refused(tmp_path: Path, deflate_slide: Path) -> None:
    slide = tmp_path / deflate_slide.name
    slide.write_bytes(deflate_slide.read_bytes())
    assert runs(slide, tmp_path / "out")[0] is Status.DONE
    write_deflate(slide, picture(1500, 1900, 7))
    with pytest.raises(RecipeMismatchError, match="slide: found"):
        runs(slide, tmp_path / "out")


def test_stores_with_the_wrong_colours_of_libvips_are_refused_and_no_others(
    tmp_path: Path, deflate_slide: Path
) -> None:
    """A slide whose JPEG 2000 is YCbCr that it calls RGB, and a store of it from before that was seen."""
    slide, shown = tmp_path / "a.tif", picture(SIDE, SIDE)
    tile_of = bytes(imagecodecs.jpeg2k_encode(to_ycbcr(shown), level=0, mct=True, codecformat="j2k"))
    write_tiff(slide, tile_of, 33004, "RGB", software="")
    plan = make(Job("a", slide), TileOptions(slides=(slide,), out=tmp_path / "out", assume_mpp=0.5, workers=0))
    assert isinstance(check_finished(plan), dict)
    root = plan.out / "zarr.json"
    told = json.loads(root.read_text())
    recipe = told["attributes"]["gigamil"]["recipe"]
    assert recipe.pop("colours") == "ycbcr"
    told["attributes"]["gigamil"]["recipe_hash"] = recipe_hash(recipe)
    root.write_text(json.dumps(told))
    with pytest.raises(RecipeMismatchError, match='colours: found null, wanted "ycbcr"'):
        check_finished(plan)
    assert "colours" not in make_plan(Job("b", deflate_slide), plan.options).recipe


def test_an_unfinished_store_of_another_recipe_is_not_taken_up(tmp_path: Path, deflate_slide: Path) -> None:
    def options(**chosen: Any) -> TileOptions:
        return TileOptions(slides=(deflate_slide,), out=tmp_path, assume_mpp=0.5, workers=0, **chosen)

    def started(**chosen: Any) -> Path:
        plan = make_plan(Job("a", deflate_slide), options(**chosen))
        plan.start()
        return plan.work.folder / "mark"

    started().touch()
    assert started().exists()
    for other in ({"fill_holes": True}, {"on_damage": "skip"}, {"min_tissue": 0.2}, {"drop": ("pen>0.5",)}):
        started().touch()
        assert not started(**other).exists()
    started().touch()
    slide = shutil.copy(deflate_slide, tmp_path / "copy.tif")
    write_deflate(tmp_path / "copy.tif", picture(1500, 1900, 8))
    plan = make_plan(Job("a", Path(slide)), options())
    plan.start()
    assert not (plan.work.folder / "mark").exists()


def spoil(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)


def test_the_fingerprint_covers_every_file_of_a_slide(tmp_path: Path) -> None:
    mirax = tmp_path / "a.mrxs"
    mirax.write_bytes(b"thumbnail")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"x" * 5000)
    zarr = tmp_path / "b.zarr"
    (zarr / "0").mkdir(parents=True)
    (zarr / "0" / "0").write_bytes(b"y" * 5000)
    index = tmp_path / "c.vms"
    index.write_text("[Virtual Microscope Specimen]\nImageFile(1,0)=c1.jpg\n")
    (tmp_path / "c1.jpg").write_bytes(b"z" * 5000)
    parts = {mirax: tmp_path / "a" / "Data0000.dat", zarr: zarr / "0" / "0", index: tmp_path / "c1.jpg"}
    for slide, part in parts.items():
        before = fingerprint(slide)
        assert fingerprint(slide) == before
        spoil(part, 2500)
        assert fingerprint(slide) != before


def test_large_files_are_sampled_throughout(tmp_path: Path) -> None:
    slide = tmp_path / "a.tif"
    rng = np.random.default_rng(3)
    slide.write_bytes(rng.bytes(9 << 20))
    before = fingerprint(slide)
    middle = bytearray(slide.read_bytes())
    middle[4 << 20 : 5 << 20] = rng.bytes(1 << 20)  # the size and both edges stay
    slide.write_bytes(middle)
    assert fingerprint(slide) != before


def test_a_slide_that_is_damaged_still_fails_by_default(made: Any) -> None:
    plan, _ = made("bad", BASE)
    options = replace(plan.options, on_damage="fail", out=plan.out.parent / "x")
    with pytest.raises(DamagedSlideError):
        make(Job("bad", plan.path), options)
