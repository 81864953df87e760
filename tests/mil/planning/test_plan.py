"""Plans of small slides beside what tiling, extraction and training then take."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import picture, write_deflate, write_pyramid

from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from mil.accounting.kept import NAME
from mil.accounting.spent import disk_use
from mil.planning.estimate import Plan, StagePlan
from mil.planning.headers import HEADER_SECONDS, read_headers
from mil.planning.options import PlanOptions
from mil.planning.plan import plan
from mil.planning.trials.heads import try_heads
from mil.planning.trials.slide import sketched
from mil.training.options import TrainOptions
from wsi.cohort.slides import find_jobs
from wsi.errors import RequestError
from wsi.progress.outcome import Silent
from wsi.slide import open_slide
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.overview import overview_band, plan_overview
from wsi.tiling.tiler import tile

pytestmark = pytest.mark.timeout(600)  # processes that start, and measure, on machines that may be busy


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed in range(2):
        write_deflate(folder / f"deflate{seed}.tif", picture(2600, 3000, seed))
        write_pyramid(folder / f"jpeg{seed}.tif", picture(2600, 3000, seed))
    blank = np.full((1500, 1900, 3), (236, 238, 237), np.uint8)
    write_deflate(folder / "blank.tif", blank)
    cut = (folder / "deflate0.tif").read_bytes()
    (folder / "cut.tif").write_bytes(cut[: len(cut) // 2])
    (folder / "text.svs").write_text("no slide")
    return folder


@pytest.fixture(scope="module")
def made(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    folder = tmp_path_factory.mktemp("work")
    told: dict[str, Any] = {"assume_mpp": 0.5, "workers": 1, "encoder": "texture", "tile_px": 128}
    measured = plan(
        PlanOptions(what=(slides,), folder=folder, seconds=2.0, price=3.6, calibrate=folder / "here.json", **told)
    )
    return folder, measured


def stage(made: Plan, name: str) -> StagePlan:
    (own,) = [own for own in made.stages if own.stage == name]
    return own


def test_slides_that_cannot_be_read_are_named_and_left_out(made: tuple[Path, Plan]) -> None:
    assert set(made[1].failures) == {"cut", "text"}
    assert made[1].slides == 7
    assert stage(made[1], "tile").todo == 5


def test_where_no_slide_can_be_read_there_is_nothing_to_plan(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"x")
    with pytest.raises(RequestError, match=r"no slide can be read, of 1: a\.tif cannot be read"):
        plan(PlanOptions(what=(tmp_path,)))


def test_a_plan_beside_the_truth(slides: Path, made: tuple[Path, Plan]) -> None:
    """Counts and bytes are those that come; times within a wide margin, for machines are busy."""
    folder, told = made
    tile_options = TileOptions(slides=(slides,), out=folder / "stores", assume_mpp=0.5, workers=0, tile_px=128)
    summary = tile(tile_options)
    stores = [TileStore(path) for path in sorted((folder / "stores").glob("*.zarr"))]
    assert len(stores) == 5
    listed = sum(store.n_tiles for store in stores)
    assert stage(told, "extract").tiles.expected == pytest.approx(listed, rel=0.1)
    assert stage(told, "tile").disk_bytes.expected == pytest.approx(disk_use([folder / "stores"]), rel=0.2)
    assert stage(told, "tile").seconds.expected < 60
    assert summary.seconds < 60 * stage(told, "tile").seconds.expected
    extract(ExtractOptions(stores=(folder / "stores",), out=folder / "bags", encoder="texture"))
    assert stage(told, "extract").disk_bytes.expected == pytest.approx(disk_use([folder / "bags"]), rel=0.25)
    assert told.cost.expected == pytest.approx(told.seconds.expected / 1000)


def test_only_what_is_left_is_counted(slides: Path, made: tuple[Path, Plan]) -> None:
    folder, _ = made
    assert (folder / "stores").is_dir(), "the test before tiles"
    (folder / "bags" / "jpeg0.h5").unlink()
    kept = json.loads((folder / NAME).read_text())["stages"]
    assert (kept["tile"]["todo"], kept["extract"]["todo"]) == (5, 5)
    again = plan(_as(slides, folder / "here.json", folder=folder))
    assert (stage(again, "tile").todo, stage(again, "tile").done) == (0, 5)
    left = stage(again, "extract")
    assert (left.todo, left.done) == (1, 4)
    assert left.tiles.expected == left.tiles.high == TileStore(folder / "stores" / "jpeg0.zarr").n_tiles
    assert json.loads((folder / NAME).read_text())["stages"] == kept, "of another machine nothing is kept"


def _as(slides: Path, calibration: Path, **more: object) -> PlanOptions:
    told: dict[str, Any] = {"assume_mpp": 0.5, "workers": 1, "encoder": "texture", "tile_px": 128}
    return PlanOptions(what=(slides,), calibrated=calibration, **(told | more))


def test_a_calibration_of_another_machine_is_planned_with_and_nothing_runs(
    slides: Path, made: tuple[Path, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, measured = made
    told = json.loads((folder / "here.json").read_text())
    told["machine"]["name"] = "elsewhere"
    (tmp_path / "there.json").write_text(json.dumps(told))
    monkeypatch.setattr("mil.planning.trials.measuring.apart", lambda *_: pytest.fail("something is measured"))
    found = plan(_as(slides, tmp_path / "there.json"))
    assert found.machine.name == "elsewhere"
    assert stage(found, "tile").disk_bytes.expected == pytest.approx(stage(measured, "tile").disk_bytes.expected)
    assert not list(folder.glob(".gigamil-plan*"))
    unknown = plan(_as(slides, tmp_path / "there.json", encoder="uni"))
    assert any("uni was not measured there" in note for note in unknown.notes)


def test_of_many_headers_a_part_is_read(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert HEADER_SECONDS < 60
    for number in range(12):
        shutil.copy(slides / "deflate0.tif", tmp_path / f"s{number}.tif")
    monkeypatch.setattr("mil.planning.headers.HEADER_SECONDS", 0.0)
    options = TileOptions(slides=(tmp_path,), assume_mpp=0.5)
    found = read_headers(find_jobs([tmp_path], None), options, tmp_path, Silent())
    assert len(found.slides) == 1
    assert (found.unread, found.todo) == (11, 12)
    assert found.scale == pytest.approx(12)


@pytest.mark.parametrize("write", [write_deflate, write_pyramid])
def test_a_sketch_is_the_overview_and_a_coarse_one_has_its_tissue(write: object, tmp_path: Path) -> None:
    assert callable(write)
    path = write(tmp_path / "s.tif", picture(3000, 4000))
    with open_slide(path) as slide:
        overview = plan_overview(slide, 0.5)
        whole = np.concatenate([overview_band(slide, overview, i)[0] for i in range(overview.bands)])
        exact, damaged = sketched(slide, overview)
        coarse, _ = sketched(slide, overview, most=200)
    assert not damaged.any()
    assert np.array_equal(exact, whole)
    dark, found = (float((own.mean(axis=2) < 200).mean()) for own in (whole, coarse))
    assert found == pytest.approx(dark, rel=0.15)


def test_epochs_and_reports_of_a_training_take_what_was_measured(small_store: TileStore, tmp_path: Path) -> None:
    told = {"bags": (tmp_path,), "manifest": tmp_path / "m", "out": tmp_path / "o", "stores": (tmp_path,)}
    options = TrainOptions(**told, baselines=(), device="cpu", head="abmil", folds=2)  # type: ignore[arg-type]
    trial = try_heads([options], [300] * 30, 48, tmp_path / "trial", 0.1, (Path(small_store.path),))
    (cost,) = trial.costs
    assert cost.key.startswith("abmil, 48 features")
    assert 0 < cost.row_seconds.expected < 1e-3
    assert trial.fixed["model_bytes"] > 4096
    assert trial.fixed["train_seconds"] > 0
    assert trial.fixed["slide_seconds"] > 0
    assert not (tmp_path / "o").exists()
    pictures = [len([*own.glob("heatmaps/*.png")]) for own in (tmp_path / "trial" / "runs").iterdir()]
    assert len(pictures) == 4
    assert min(pictures) >= 4


def test_what_excludes_each_other_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--as and --calibrate exclude each other"):
        PlanOptions(what=(tmp_path,), calibrated=tmp_path / "a", calibrate=tmp_path / "b")
    with pytest.raises(RequestError, match=r"expected one COHORT\.toml by itself"):
        PlanOptions(what=(tmp_path / "c.toml", tmp_path))
