"""Which slides a request means: files, folders and manifests become one list of jobs with safe, unique ids."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wsi.errors import RequestError
from wsi.manifest import ManifestRow, check_id, load_manifest

EXTENSIONS = frozenset(
    ".svs .tif .tiff .ndpi .mrxs .scn .vms .vmu .bif .dcm .svslide .czi .qptiff".split()  # noqa: SIM905
)
"""What is taken for a slide in a folder; a file that is named outright may be called anything."""


@dataclass(frozen=True, slots=True)
class Job:
    """One slide to be tiled."""

    image_id: str
    path: Path
    """Absolute path."""
    mpp: float | None = None
    """um/px from the manifest."""
    problem: str = ""
    """Why it cannot be tiled at all; empty where nothing is known against it."""


def find_jobs(slides: Iterable[Path], manifest: Path | None) -> list[Job]:
    """List the slides to be tiled, in the order of the manifest, else of the arguments and of the file names.

    An id is the manifest's ``image_id``, else the file name without its ending.

    Raises
    ------
    RequestError
        A path is missing, a folder holds no slide, two slides have one id, or not one slide of the manifest is found.
        A few missing ones become jobs with a ``problem``: the others go on.
    """
    files = [file for path in slides for file in _files(path)]
    if manifest is None:
        jobs = [Job(check_id(_stem(file), str(file)), file.absolute()) for file in dict.fromkeys(files)]
    else:
        jobs = _manifest_jobs(load_manifest(manifest), files, manifest)
    seen: dict[str, Path] = {}
    for job in jobs:
        if job.image_id in seen:
            raise RequestError(
                f"{seen[job.image_id]} and {job.path} would both be stored as {job.image_id}: "
                "give a manifest with image_id and path, or tile them into two folders"
            )
        seen[job.image_id] = job.path
    return jobs


def _stem(file: Path) -> str:
    name = file.name
    for ending in (".ome.tiff", ".ome.tif"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return file.stem


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise RequestError(f"{path} does not exist: expected a slide or a folder of slides")
        return [path]
    found = sorted(
        p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file() and not p.name.startswith(".")
    )
    if not found:
        raise RequestError(f"{path} holds no slide: expected files that end in {', '.join(sorted(EXTENSIONS))}")
    return found


def _manifest_jobs(rows: Iterable[ManifestRow], files: list[Path], manifest: Path) -> list[Job]:
    by_id: dict[str, Path] = {}
    for file in dict.fromkeys(files):
        other = by_id.setdefault(_stem(file), file)
        if other != file:
            raise RequestError(
                f"{other} and {file} both fit image_id {_stem(file)}: name one in the manifest's path column"
            )
    jobs = []
    for row in rows:
        path = row.path or by_id.get(row.image_id)
        problem = "" if path else f"no slide of that name under the given folders, and no path in {manifest.name}"
        jobs.append(Job(row.image_id, (path or Path(row.image_id)).absolute(), row.mpp, problem))
    if jobs and all(job.problem for job in jobs):
        raise RequestError(
            f"{manifest}: not one of its {len(jobs)} slides was found: name their folder, or add a path column"
        )
    return jobs
