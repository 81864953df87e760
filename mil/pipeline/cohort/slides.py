"""The slides of a cohort file: what is to be tiled, which stores and bags of it are there."""

from collections.abc import Mapping
from pathlib import Path

from mil.pipeline.cohort.cohort_file import CohortFile
from wsi.cohort.manifest import load_manifest
from wsi.cohort.slides import Job, find_jobs
from wsi.errors import RequestError
from wsi.files.claim import held_by
from wsi.tiling.options import TileOptions
from wsi.urls import path_of, url_of


def cohort_slides(file: CohortFile) -> dict[str, Job]:
    """Return the slides of a cohort, and those that [predict] names, by image id.

    Where the slides' folder is gone, for all is tiled long since, those of the table are told, each with that problem.

    Raises
    ------
    RequestError
        They cannot be listed.
    """
    jobs: dict[str, Job] = {}
    for tiling in file.tilings:
        jobs |= {job.image_id: job for job in _jobs(tiling) if job.image_id not in jobs}
    return jobs


def _jobs(tiling: TileOptions) -> list[Job]:
    if tiling.manifest is not None and any(map(url_of, tiling.slides)):  # listed when they are tiled
        return [Job(row.image_id, row.path or path_of(row.image_id), row.mpp) for row in load_manifest(tiling.manifest)]
    try:
        return find_jobs(tiling.slides, tiling.manifest)
    except RequestError as error:
        if tiling.manifest is None or all(path.exists() for path in tiling.slides):
            raise
        rows = load_manifest(tiling.manifest)
        return [Job(row.image_id, row.path or Path(row.image_id), row.mpp, str(error)) for row in rows]


def stores_there(file: CohortFile, jobs: Mapping[str, Job]) -> tuple[Path, ...]:
    """Return the tile stores of these slides that are there."""
    paths = (file.store(image_id) for image_id in jobs)
    return tuple(path for path in paths if path.exists())


def without_store(file: CohortFile, jobs: Mapping[str, Job]) -> dict[str, str]:
    """Return the slides that have no tile store: image id -> who is writing it, "" where nobody is."""
    paths = {image_id: file.store(image_id) for image_id in jobs}
    return {image_id: held_by(path) for image_id, path in paths.items() if not path.exists()}


def bags_under_way(file: CohortFile) -> dict[str, str]:
    """Return the slides whose bag, or tile store, another process is making: image id -> who."""
    found = {}
    for image_id in cohort_slides(file):
        for options in file.extract:
            bag = options.out / f"{image_id}.h5"
            if not bag.exists() and (holder := held_by(bag) or held_by(file.store(image_id))):
                found[image_id] = holder
    return found
