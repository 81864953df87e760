"""The cohort on disk: tables, TIFF forms, determinism, re-runs."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from sample_data.make import make_cohort
from sample_data.options import SampleOptions
from sample_data.plan import PlannedSlide, plan_cohort
from sample_data.spec import CENTERS
from wsi.cohort.manifest import check_disjoint, load_manifest
from wsi.errors import RecipeMismatchError, RequestError
from wsi.progress.outcome import Status, Summary

PATIENTS = 12


def _options(out: Path, **changes: int) -> SampleOptions:
    return SampleOptions(**({"out": out, "patients": PATIENTS, "shortest": 1024, "size": 1500, "workers": 1} | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "cohort"
    summary = make_cohort(_options(out))
    assert summary.exit_code == 0
    assert all(outcome.status is Status.DONE for outcome in summary.outcomes)
    return out


@pytest.fixture(scope="module")
def planned(cohort: Path) -> list[PlannedSlide]:
    return plan_cohort(_options(cohort))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _hashes(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _slide(out: Path, image_id: str) -> Path:
    return out / "slides" / f"{image_id}.tif"


def test_tables_have_the_strip_ai_form(cohort: Path) -> None:
    train, test = _rows(cohort / "train.csv"), _rows(cohort / "test.csv")
    assert list(train[0]) == ["image_id", "center_id", "patient_id", "image_num", "label"]
    assert list(test[0]) == ["image_id", "center_id", "patient_id", "image_num"]
    for row in train + test:
        assert row["image_id"] == f"{row['patient_id']}_{row['image_num']}"
        assert len(row["patient_id"]) == 6
    assert any(row["patient_id"].isdigit() and row["patient_id"].startswith("0") for row in train)
    assert any(not row["patient_id"].isdigit() for row in train)
    check_disjoint(load_manifest(cohort / "train.csv"), load_manifest(cohort / "test.csv"))
    assert sorted(path.stem for path in (cohort / "slides").iterdir()) == sorted(r["image_id"] for r in train + test)


def test_every_slide_has_its_form(cohort: Path, planned: list[PlannedSlide]) -> None:
    big = 0
    for slide in planned:
        with tifffile.TiffFile(_slide(cohort, slide.image_id)) as file:
            page = file.pages.first
            big += file.is_bigtiff
            assert page.shape == (slide.spec.height_px, slide.spec.width_px, 3)
            assert page.dtype == np.uint8
            if slide.spec.kind == "deflate":
                assert len(file.pages) == 1
                assert (page.tilelength, page.tilewidth) == (128, 128)
                assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
                assert page.predictor == 1
                assert page.tags["ResolutionUnit"].value == 2
                assert np.divide(*page.tags["XResolution"].value) == pytest.approx(25.4)
            else:
                assert len(file.pages) > 1
                assert page.compression == tifffile.COMPRESSION.JPEG
                assert all(page.aspage().subfiletype == 1 for page in file.pages[1:])
    assert big == 1


def test_openslide_opens_every_slide(cohort: Path, planned: list[PlannedSlide]) -> None:
    for slide in planned:
        with openslide.OpenSlide(_slide(cohort, slide.image_id)) as opened:
            assert opened.dimensions == (slide.spec.width_px, slide.spec.height_px)
            mpp = float(opened.properties[openslide.PROPERTY_NAME_MPP_X])
            if slide.spec.kind == "deflate":
                assert opened.level_count == 1
                assert mpp == pytest.approx(1000)
            else:
                assert opened.level_count == 2
                assert mpp == pytest.approx(0.5)
            pixels = np.asarray(opened.read_region((0, 0), opened.level_count - 1, (64, 64)))
            assert (pixels[..., 3] == 255).all()


def test_odd_slides_are_there(cohort: Path, planned: list[PlannedSlide]) -> None:
    light = {slide.image_id: tifffile.imread(_slide(cohort, slide.image_id))[0, 0].astype(int) for slide in planned}
    green = [image_id for image_id, (r, g, b) in light.items() if g > max(r, b) + 15]
    assert green == [slide.image_id for slide in planned if slide.spec.background == "green"]
    assert len(green) == 1
    assert all(228 <= colour.mean() <= 246 and colour.max() < 255 for i, colour in light.items() if i not in green)
    assert sum(slide.spec.kind == "jpeg-pyramid" for slide in planned) == 1


def test_background_tiles_are_byte_identical(cohort: Path, planned: list[PlannedSlide]) -> None:
    slide = next(slide for slide in planned if slide.spec.kind == "deflate")
    with tifffile.TiffFile(_slide(cohort, slide.image_id)) as file:
        page = file.pages.first
        assert isinstance(page, tifffile.TiffPage)
        blobs = []
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.filehandle.seek(offset)
            blobs.append(file.filehandle.read(count))
    commonest = max(set(blobs), key=blobs.count)
    assert blobs.count(commonest) > 0.3 * len(blobs)
    assert len(commonest) < 1000


def test_truth_lies_in_tissue(cohort: Path, planned: list[PlannedSlide]) -> None:
    truth = _rows(cohort / "truth.csv")
    y, x = np.mgrid[:320, :320] - 159.5
    disc = np.hypot(y, x) < 130
    for slide in planned:
        squares = [row for row in truth if row["image_id"] == slide.image_id]
        assert len(squares) >= 2
        assert {row["label"] for row in squares} == {slide.spec.label}
        pixels = tifffile.imread(_slide(cohort, slide.image_id)).astype(int)
        for top, left, size in ((int(row["y"]), int(row["x"]), int(row["size"])) for row in squares):
            square = pixels[top : top + size, left : left + size]
            assert square.shape == (320, 320, 3)
            tissue = np.abs(square - pixels[0, 0]).max(axis=2) > 10
            assert tissue[disc].mean() > 0.95


@pytest.mark.slow
def test_worker_processes_make_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    assert make_cohort(_options(tmp_path / "again", workers=2)).exit_code == 0
    assert _hashes(tmp_path / "again") == _hashes(cohort)


def test_another_seed_makes_other_slides(cohort: Path) -> None:
    assert plan_cohort(_options(cohort, seed=8)) != plan_cohort(_options(cohort))


def test_rerun_makes_only_what_is_missing_or_damaged(cohort: Path, planned: list[PlannedSlide]) -> None:
    before = _hashes(cohort)
    missing, damaged = planned[0].image_id, planned[1].image_id
    _slide(cohort, missing).unlink()
    whole = _slide(cohort, damaged).read_bytes()
    _slide(cohort, damaged).write_bytes(whole[: len(whole) // 2])
    summary = make_cohort(_options(cohort))
    assert {outcome.item_id for outcome in summary.ended(Status.DONE)} == {missing, damaged}
    assert len(summary.ended(Status.SKIPPED)) == len(planned) - 2
    assert _hashes(cohort) == before


def test_other_options_are_refused(cohort: Path) -> None:
    with pytest.raises(RecipeMismatchError, match=r"seed: found 7, wanted 8"):
        make_cohort(_options(cohort, seed=8))


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_id\nmine\n")
    with pytest.raises(RequestError, match="not a sample cohort's"):
        make_cohort(_options(tmp_path))
    assert (tmp_path / "train.csv").read_text() == "image_id\nmine\n"


def test_one_failure_does_not_stop_the_rest(tmp_path: Path) -> None:
    options = _options(tmp_path / "out", size=1024)
    victim = plan_cohort(options)[0].image_id
    make_cohort(options)
    _slide(options.out, victim).unlink()
    (_slide(options.out, victim) / "in the way").mkdir(parents=True)
    summary: Summary = make_cohort(options)
    assert summary.exit_code == 1
    assert [outcome.item_id for outcome in summary.ended(Status.FAILED)] == [victim]
    assert victim not in {row["image_id"] for row in _rows(options.out / "train.csv")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patients": 3}, "at least 12"),
        ({"shortest": 200}, "1024 <= the shortest"),
        ({"shortest": 2000, "size": 1500}, "the shortest <= --size"),
        ({"workers": 0}, "workers 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        _options(tmp_path, **changes)


def test_the_default_plan_is_balanced_as_promised(tmp_path: Path) -> None:
    planned = plan_cohort(SampleOptions(out=tmp_path))
    train = [slide for slide in planned if slide.split == "train"]
    labels = {slide.patient_id: slide.spec.label for slide in train}
    assert len(labels) == 60
    assert 0.25 <= sum(label == "LAA" for label in labels.values()) / 60 <= 0.35
    for center in CENTERS:
        assert {slide.spec.label for slide in train if slide.spec.center_id == center} == {"CE", "LAA"}
    for patient in {slide.patient_id for slide in planned}:
        own = [slide for slide in planned if slide.patient_id == patient]
        assert 1 <= len(own) <= 3
        assert len({(slide.spec.label, slide.spec.center_id) for slide in own}) == 1
    assert all(min(s.spec.height_px, s.spec.width_px) >= 3000 for s in planned)
    assert all(max(s.spec.height_px, s.spec.width_px) <= 8000 for s in planned)
    assert sum(slide.spec.kind == "jpeg-pyramid" for slide in train) == 6
    assert sum(slide.spec.tissue_share < 0.08 for slide in train) == 1
