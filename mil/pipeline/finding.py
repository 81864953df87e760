"""Where each stage of a cohort stands: what is there, what is missing."""

from collections.abc import Iterator
from pathlib import Path

from mil.pipeline.cohort_file import CohortFile
from mil.pipeline.experiments import DONE, FAILED, RUNNING, Experiments
from mil.pipeline.outputs import chosen_experiments, output_of
from mil.pipeline.stages import StageState
from wsi.cohort.manifest import load_manifest
from wsi.cohort.slides import find_jobs
from wsi.errors import RequestError
from wsi.tiling.plan import partial_path, store_path


def image_ids(file: CohortFile) -> dict[str, str]:
    """Return the slides of a cohort, and what is known against each; by the tables alone where slides are gone."""
    found: dict[str, str] = {}
    for tiling in file.tilings:
        try:
            found |= {job.image_id: job.problem for job in find_jobs(tiling.slides, tiling.manifest)}
        except RequestError:
            if tiling.manifest is None:
                raise
            found |= {row.image_id: "" for row in load_manifest(tiling.manifest)}
    return found


def store_state(file: CohortFile, thorough: bool) -> StageState:
    """Return how far tiling is."""
    waiting, done = {}, []
    for image_id, problem in image_ids(file).items():
        path = store_path(file.stores, image_id)
        if path.exists():
            done.append(image_id)
        else:
            waiting[image_id] = problem or ("begun" if partial_path(path).exists() else "missing")
    return StageState("tile", waiting, tuple(done))


def bag_states(file: CohortFile, thorough: bool) -> Iterator[StageState]:
    """Give how far extraction with each encoder is."""
    ids = image_ids(file)
    for options in file.extract:
        waiting, done = {}, []
        for image_id in ids:
            if (options.out / f"{image_id}.h5").exists():
                done.append(image_id)
            else:
                waiting[image_id] = "missing" if store_path(file.stores, image_id).exists() else "its store is missing"
        name = f"extract {options.joined}" if len(file.extract) > 1 else "extract"
        yield StageState(name, waiting, tuple(done))


def row_state(file: CohortFile) -> StageState:
    """Return how far the experiments are."""
    rows = {row.name: row for row in Experiments(file.folder).rows()}
    waiting, done = {}, []
    for experiment in file.experiments:
        row = rows.get(experiment.name)
        if row is None:
            waiting[experiment.name] = "not begun"
        elif row.recipe_hash != experiment.recipe_hash:
            waiting[experiment.name] = "other settings"
        elif row.state == DONE:
            done.append(experiment.name)
        else:
            told = {RUNNING: f"running: {row.where}", FAILED: f"failed: {row.reason}"}
            waiting[experiment.name] = told.get(row.state, "not begun")
    return StageState("train", waiting, tuple(done))


def after_states(file: CohortFile) -> Iterator[StageState]:
    """Give how far what is made of trained runs is."""
    for verb in file.after:
        waiting, done = {}, []
        for name in chosen_experiments(file, verb):
            if _is_there(output_of(file, verb, name)):
                done.append(name)
            else:
                waiting[name] = "missing"
        yield StageState(verb, waiting, tuple(done))


def _is_there(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))
