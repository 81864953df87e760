"""What is done and what is left to do of each stage of a cohort file, item by item; nothing is written."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from features.extraction.options import ExtractOptions
from mil.pipeline.afterwards import why_not_made
from mil.pipeline.cohort.cohort_file import CohortFile
from mil.pipeline.cohort.slides import cohort_slides
from mil.pipeline.experiments import DONE, FAILED, RUNNING, Experiments
from mil.pipeline.outputs import chosen_experiments
from mil.pipeline.settling import is_finished, is_row_begun, other_settings
from wsi.cohort.slides import Job
from wsi.files.atomic import PARTIAL
from wsi.options import in_environment
from wsi.urls import url_of

MISSING = "missing"


@dataclass(frozen=True, slots=True)
class StageState:
    """How far a stage is."""

    stage: str
    """tile, extract with the encoder after a space where there are several, train, predict, heatmap, page, report."""
    waiting: Mapping[str, str]
    """Item (slide or experiment) -> why it is not done: missing, other settings with the fields named, damaged."""
    done: tuple[str, ...]


def states(file: CohortFile, *, thorough: bool = False) -> list[StageState]:
    """Return how far each stage is.

    Parameters
    ----------
    file
        The cohort file.
    thorough
        Open slides, stores and bags as the stages themselves would, to tell other settings and damage; otherwise
        only what is there, which is quick.

    Raises
    ------
    RequestError
        The slides cannot be listed, or the table of experiments cannot be understood.
    """
    with in_environment(file.tile):
        return _states(file, thorough)


def _states(file: CohortFile, thorough: bool) -> list[StageState]:
    jobs = cohort_slides(file)
    extraction = [
        _sorted_out(_title(file, options), jobs, partial(_why_not_bag, file, options, thorough))
        for options in file.extract
    ]
    tiling = _sorted_out("tile", jobs, lambda image_id: _why_not_store(file, jobs[image_id], thorough))
    return [tiling, *extraction, _training(file), *_after(file)]


def _title(file: CohortFile, options: ExtractOptions) -> str:
    return f"extract {options.joined}" if len(file.extract) > 1 else "extract"


def _sorted_out(stage: str, items: Iterable[str], why: Callable[[str], str]) -> StageState:
    """Return the state of a stage from a function that tells why an item is not done, "" where it is."""
    whys = {item: why(item) for item in items}
    waiting = {item: told for item, told in whys.items() if told}
    return StageState(stage, waiting, tuple(item for item, told in whys.items() if not told))


def _why_not_store(file: CohortFile, job: Job, thorough: bool) -> str:
    path = file.store(job.image_id)
    if not path.exists():
        return job.problem or (f"{MISSING}, begun" if path.with_name(path.name + PARTIAL).exists() else MISSING)
    if not thorough or any(map(url_of, file.slides)):
        return ""
    from mil.pipeline.whys import why_not_store

    return why_not_store(file, job)


def _why_not_bag(file: CohortFile, options: ExtractOptions, thorough: bool, image_id: str) -> str:
    store, bag = file.store(image_id), options.out / f"{image_id}.h5"
    if not bag.exists():
        return MISSING if store.exists() else f"{MISSING}, as its tile store is"
    if not thorough:
        return ""
    from mil.pipeline.whys import why_not_bag

    return why_not_bag(options, bag, store)


def _training(file: CohortFile) -> StageState:
    table = Experiments(file.folder)
    rows = {row.name: row for row in table.rows()}
    known = {own.name: own for own in file.experiments}

    def why(name: str) -> str:
        row = rows.get(name)
        if row is None:
            return "not begun"
        if row.recipe_hash != known[name].recipe_hash:
            return other_settings(file.folder, row, known[name]) if is_row_begun(file, row) else "not begun"
        if row.state == DONE and not is_finished(file, name):
            return "its run folder is gone"
        if row.state == RUNNING:
            holder = table.holder(name)
            return f"running: {row.where}" if holder else f"begun by {row.where}, which stopped"
        told = {DONE: "", FAILED: f"failed: {row.reason}; is tried again"}
        return told.get(row.state, "not begun")

    return _sorted_out("train", known, why)


def _after(file: CohortFile) -> Iterator[StageState]:
    for verb in file.after:
        names = chosen_experiments(file, verb)
        if names:
            yield _sorted_out(verb, names, partial(why_not_made, file, verb))
        else:
            yield StageState(verb, {"the best experiment": "none is trained yet"}, ())
