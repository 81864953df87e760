"""Make the sample cohort: slides, train.csv, test.csv, and truth.csv for judging what a model looked at."""

import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2
import tifffile

from sample_data.options import SampleOptions
from sample_data.paint import Painter
from sample_data.plan import PlannedSlide, plan_cohort
from sample_data.spec import SlideSpec, Square
from sample_data.tiff import write_slide
from sample_data.tissue import lay_out
from wsi.errors import GigamilError, RecipeMismatchError, RequestError
from wsi.files.atomic import make_folder, replacing, write_text
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import Recipe, differences

RECIPE_NAME = "recipe.json"
SLIDES_NAME = "slides"

_ID_COLUMNS = ("image_id", "center_id", "patient_id", "image_num")
_SILENT = Silent()
_Result = tuple[Outcome, tuple[Square, ...]]


def make_slide(path: Path, spec: SlideSpec, threads: int = 1) -> tuple[Square, ...]:
    """Paint one slide to ``path``, whole or not at all, in memory that does not grow with its height.

    Parameters
    ----------
    path
        The TIFF to write; an existing file is replaced.
    spec
        Size (any, up to gigapixels), form (``deflate`` or ``jpeg-pyramid``), class, center, seed.
    threads
        Blocks painted at a time; the file's bytes do not depend on it.

    Returns
    -------
    The squares that carry the class, level-0 pixels.
    """
    cv2.setNumThreads(1)
    tissue_map = lay_out(spec)
    with replacing(path) as temporary:
        write_slide(temporary, Painter(tissue_map), spec, threads)
    return tissue_map.truth


@stage
def make_cohort(options: SampleOptions, progress: Progress = _SILENT) -> Summary:
    """Make the cohort in ``options.out``; slides that a run with the same options finished are kept.

    Raises
    ------
    RecipeMismatchError
        The folder holds a cohort made with other options.
    RequestError
        The folder holds a train.csv, test.csv or slides that are not a sample cohort's.
    ClaimedError
        Another process is making this cohort.
    """
    started = time.perf_counter()
    make_folder(options.out)
    with claim(options.out):
        _check_folder(options.out, options.recipe())
        write_text(options.out / RECIPE_NAME, json.dumps(options.recipe(), indent=1) + "\n")
        planned = plan_cohort(options)
        progress.begin("sample slides", len(planned), "slides")
        results: dict[str, _Result] = {}
        for slide, result in _each(options, planned):
            results[slide.image_id] = result
            progress.advance(1)
        progress.end()
        _write_tables(options.out, planned, results)
    outcomes = [results[slide.image_id][0] for slide in planned]
    return Summary(stage="sample", outcomes=outcomes, seconds=time.perf_counter() - started)


def _check_folder(out: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds anything of these names which this recipe did not make."""
    recorded = out / RECIPE_NAME
    if recorded.exists():
        try:
            found = json.loads(recorded.read_text())
        except (OSError, ValueError) as error:
            raise RequestError(f"{recorded}: cannot be read ({error}); choose another folder") from None
        lines = differences(found if isinstance(found, dict) else {}, recipe)
        if lines:
            raise RecipeMismatchError(f"{out} was made with other options ({'; '.join(lines)}); choose another folder")
        return
    for name in ("train.csv", "test.csv", SLIDES_NAME):
        if (out / name).exists():
            raise RequestError(f"{out / name} exists and is not a sample cohort's; choose an empty or new folder")


def _each(options: SampleOptions, planned: Sequence[PlannedSlide]) -> Iterator[tuple[PlannedSlide, _Result]]:
    """Make every slide, the largest first; yield each as it ends."""
    largest_first = sorted(planned, key=lambda slide: -slide.spec.height_px * slide.spec.width_px)
    folder = options.out / SLIDES_NAME
    if options.processes == 1:
        for slide in largest_first:
            yield slide, _make_one(folder, slide)
        return
    pool = ProcessPoolExecutor(min(options.processes, len(planned)), mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(_make_one, folder, slide): slide for slide in largest_first}
        for future in as_completed(futures):
            slide, error = futures[future], future.exception()
            failed = Outcome(slide.image_id, Status.FAILED, f"{type(error).__name__}: {error}")
            yield slide, (failed, ()) if error else future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # on an interrupt, slides that did not start are dropped


def _make_one(folder: Path, slide: PlannedSlide) -> _Result:
    """Make one slide, unless it is there and whole."""
    path = folder / f"{slide.image_id}.tif"
    facts: dict[str, Any] = {name: getattr(slide.spec, name) for name in ("height_px", "width_px", "kind")}
    if _is_whole(path):
        return Outcome(slide.image_id, Status.SKIPPED, facts=facts), lay_out(slide.spec).truth
    started = time.perf_counter()
    try:
        truth = make_slide(path, slide.spec)
    except (GigamilError, OSError, MemoryError) as error:
        return Outcome(slide.image_id, Status.FAILED, f"{path}: {error}", facts), ()
    facts |= {"bytes": path.stat().st_size, "seconds": round(time.perf_counter() - started, 3)}
    return Outcome(slide.image_id, Status.DONE, facts=facts), truth


def _is_whole(path: Path) -> bool:
    """Whether the file is a TIFF all of whose tiles lie inside it."""
    if not path.is_file():
        return False
    try:
        with tifffile.TiffFile(path) as file:
            pages = [page.aspage() for page in file.pages]
            ends = [max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)), default=0) for page in pages]
    except Exception:  # tifffile raises whatever a damaged file makes it stumble over: the slide is made again
        return False
    return 0 < max(ends, default=0) <= path.stat().st_size


def _write_tables(out: Path, planned: Sequence[PlannedSlide], results: dict[str, _Result]) -> None:
    """Write train.csv and test.csv of the slides that exist, and truth.csv."""
    there = [slide for slide in planned if results[slide.image_id][0].status is not Status.FAILED]
    train = [(*_ids(slide), slide.spec.label) for slide in there if slide.split == "train"]
    test = [_ids(slide) for slide in there if slide.split == "test"]
    truth = [
        (slide.image_id, square.l0_y, square.l0_x, square.size_px, slide.spec.label)
        for slide in there
        for square in results[slide.image_id][1]
    ]
    write_text(out / "train.csv", csv_text([(*_ID_COLUMNS, "label"), *train]))
    write_text(out / "test.csv", csv_text([_ID_COLUMNS, *test]))
    write_text(out / "truth.csv", csv_text([("image_id", "y", "x", "size", "label"), *truth]))


def _ids(slide: PlannedSlide) -> tuple[str, str, str, int]:
    return slide.image_id, slide.spec.center_id, slide.patient_id, slide.image_num
