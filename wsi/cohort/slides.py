"""Which slides a request means: files, folders and manifests become one list of jobs with safe, unique ids.

A folder that ends in .zarr is one slide. DICOM instances of one series that lie in one folder are one slide: its
largest file stands for it, and it is named by the folder where nothing else lies in it, else by that file. Where no
file of a folder is called as slides are, DICOM is told by what files begin with.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wsi.cohort.manifest import ManifestRow, check_id, load_manifest, slide_name
from wsi.errors import ManifestError, RequestError, UnreadableSlideError
from wsi.files.atomic import PARTIAL
from wsi.files.regular import first_bytes
from wsi.readers.dicom.layout import DICOM_ENDINGS, series_of
from wsi.store.metadata import is_our_store

EXTENSIONS = frozenset(
    ".svs .tif .tiff .ndpi .mrxs .scn .vms .vmu .bif .dcm .dicom .svslide .czi .qptiff .vsi .isyntax".split()  # noqa: SIM905
)
"""What is taken for a slide in a folder; a file that is named outright may be called anything."""
_ZARR = ".zarr"


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

    An id is the manifest's ``image_id``, else the file name without its ending, or the folder's name for a DICOM series
    that has the folder to itself. Tile stores that this package wrote count only where they are named outright.

    Raises
    ------
    RequestError
        A path is missing, a folder holds no slide, two slides have one id, or not one slide of the manifest is found.
        A few missing ones become jobs with a ``problem``: the others go on.
    """
    files = dict(found for path in slides for found in _files(path))
    if manifest is None:
        jobs = [Job(name, file.absolute(), problem=_problem(file, name)) for file, name in files.items()]
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


def _problem(file: Path, name: str) -> str:
    """Return why a slide cannot be tiled, as far as its name and place tell; "" where nothing is known against it."""
    if file.is_symlink() and not file.exists():
        return f"a link to {file.readlink()}, which is not there"
    try:
        check_id(name, "its name")
    except ManifestError as error:
        return f"{error}: give it an id in a --manifest with a path column"
    return ""


def _stem(file: Path) -> str:
    """Return a slide's name; that of a file which was named outright may end in anything."""
    name = slide_name(file.name)
    return file.stem if name == file.name else name


def _files(path: Path) -> list[tuple[Path, str]]:
    """List the slides that a path means, and what each is called."""
    if not path.exists():
        raise RequestError(f"{path} does not exist: expected a slide or a folder of slides")
    if not path.is_dir() or path.suffix.lower() == _ZARR:
        return [(path, _stem(path))]
    called = sorted(_below(path))
    found = called or sorted(_dicom_below(path))
    if not found:
        endings = ", ".join(sorted(EXTENSIONS | {_ZARR}))
        raise RequestError(f"{path} holds no slide: expected names that end in {endings}")
    dicom = [file for file in found if not called or file.suffix.lower() in DICOM_ENDINGS]
    others = [(file, _stem(file)) for file in called if file.suffix.lower() not in DICOM_ENDINGS]
    return sorted(others + _dicom_slides(dicom, {file.parent for file, _ in others}))


def _below(folder: Path) -> Iterable[Path]:
    """Give the slides under a folder, without looking into zarr folders or hidden ones.

    Linked folders are followed, each folder once. Links that lead nowhere are given where they may have been a slide or
    a folder of slides, and so are pipes and the like that are called as slides are: they are named when they fail.
    """
    seen: set[tuple[int, int]] = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        stat = os.stat(base)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        for name in sorted(folders):
            path = Path(base, name)
            if name.lower().endswith(_ZARR) and not name.startswith(".") and not is_our_store(path):
                yield path
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not n.lower().endswith((_ZARR, PARTIAL)))
        for name in names:
            path = Path(base, name)
            dangling = path.is_symlink() and not path.exists() and not path.suffix
            if not name.startswith(".") and (path.suffix.lower() in EXTENSIONS | {_ZARR} or dangling):
                yield path


def _dicom_below(folder: Path) -> Iterable[Path]:
    """Give the DICOM slides under a folder that are called anything: what a PACS exports has numbers for names."""
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base, name)
            if first_bytes(path, 132)[128:] != b"DICM":
                continue
            with suppress(UnreadableSlideError):  # DICOMDIR, and pictures that are no slides
                series_of(path)
                yield path


def _dicom_slides(files: list[Path], shared: set[Path]) -> list[tuple[Path, str]]:
    """Return one file for each series of each folder; a file that cannot be parsed stands for itself."""
    by_series: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        try:
            series = series_of(file)[0]
        except UnreadableSlideError:
            series = ""
        by_series.setdefault((file.parent, series or file.name), []).append(file)
    folders = [folder for folder, _ in by_series]
    slides = []
    for (folder, _), group in by_series.items():
        largest = max(group, key=lambda file: file.stat().st_size)
        alone = len(group) > 1 and folders.count(folder) == 1 and folder not in shared
        own = _stem(largest) if largest.suffix.lower() in DICOM_ENDINGS else largest.name
        slides.append((largest, folder.name if alone else own))
    return slides


def _manifest_jobs(rows: Iterable[ManifestRow], files: dict[Path, str], manifest: Path) -> list[Job]:
    by_id: dict[str, Path] = {}
    for file, name in files.items():
        other = by_id.setdefault(name, file)
        if other != file:
            raise RequestError(f"{other} and {file} both fit image_id {name}: name one in the manifest's path column")
    jobs, lost = [], 0
    for row in rows:
        path = row.path or by_id.get(row.image_id) or _of_other_case(row.image_id, by_id)
        problem = "" if path else f"no slide of that name under the given folders, and no path here in {manifest.name}"
        lost += path is None
        if path:
            problem = _problem(path, row.image_id)
        jobs.append(Job(row.image_id, (path or Path(row.image_id)).absolute(), row.mpp, problem))
    if jobs and lost == len(jobs):
        raise RequestError(
            f"{manifest}: not one of its {len(jobs)} slides was found: name their folder, or add a path column"
        )
    return jobs


def _of_other_case(image_id: str, by_id: Mapping[str, Path]) -> Path | None:
    """Return the one slide whose name differs in capitals only."""
    found = [path for name, path in by_id.items() if name.casefold() == image_id.casefold()]
    return found[0] if len(found) == 1 else None
