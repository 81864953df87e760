"""The slides that are shown together, by id: tile stores, and slides straight from their files."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import RLock

from wsi.cohort.manifest import ManifestRow, check_id
from wsi.cohort.slides import Job, find_jobs
from wsi.errors import RequestError, ResolutionError, SlideError
from wsi.readers.resolution import resolve_mpp
from wsi.slide import open_slide
from wsi.store.folder import Location
from wsi.store.tile_store import TileStore, find_stores
from wsi.viewing.annotation_file import ENDING, AnnotationFile
from wsi.viewing.kept import Kept
from wsi.viewing.live import LivePicture
from wsi.viewing.picture import Picture, StorePicture

_CACHE_BYTES = 64 << 20
"""Of tiles that were encoded for showing."""
_OPEN_SLIDES = 4
_OPEN_STORES = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """How slides are opened that are shown from their files; see `wsi.option_groups.Reading`."""

    assume_mpp: float | None = None
    reader: str | None = None
    scene: int | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """One slide of a collection."""

    image_id: str
    source: TileStore | Job
    """A store, or a slide's file."""
    annotations: AnnotationFile | None
    """None where nothing can be kept of it."""
    lock: RLock = field(default_factory=RLock, repr=False, compare=False)
    """Held while something is made of the slide, so that two who ask at once wait for one making."""

    @property
    def store(self) -> TileStore | None:
        """The store, None for a slide's file."""
        return self.source if isinstance(self.source, TileStore) else None


class Collection:
    """Slides by id, opened when they are looked at. Safe across threads.

    Parameters
    ----------
    slides
        What is shown, in order; ids are unique.
    reading
        How files of slides are opened.
    """

    def __init__(self, slides: Iterable[Shown], reading: Reading = Reading()) -> None:
        self.slides: Mapping[str, Shown] = {own.image_id: own for own in slides}
        self._tiles = Kept(_CACHE_BYTES)
        self._stores = lru_cache(_OPEN_STORES)(StorePicture)
        self._live = lru_cache(_OPEN_SLIDES)(lambda job, _stamp: _live(job, reading))

    def picture(self, image_id: str) -> Picture:
        """Return a slide's picture.

        Raises
        ------
        KeyError
            There is no such slide.
        ItemError
            It cannot be opened.
        """
        shown = self.slides[image_id]
        with shown.lock:
            if isinstance(shown.source, TileStore):
                return self._stores(shown.source)
            return self._live(shown.source, _stamp(shown.source.path))

    def tile(self, image_id: str, level: int, row: int, column: int) -> bytes | None:
        """Return a tile as a JPEG file, None where there is none; raises as `picture` and `Picture.jpeg`."""
        picture = self.picture(image_id)
        if not 0 <= level < len(picture.levels):
            return None
        if not isinstance(picture, StorePicture) or picture.copied(level):
            return picture.jpeg(level, row, column)
        key = (image_id, level, row, column)
        file = self._tiles.get(key)
        if file is None and (file := picture.jpeg(level, row, column)) is not None:
            self._tiles.put(key, file)
        return file


def _stamp(path: Path) -> tuple[int, int]:
    """Tell one file from another that takes its place."""
    try:
        stat = os.stat(path)
    except OSError:
        return (0, 0)
    return stat.st_size, stat.st_mtime_ns


def _live(job: Job, reading: Reading) -> LivePicture:
    if job.problem:
        raise SlideError(f"{job.image_id}: {job.problem}")
    slide = open_slide(job.path, reading.reader, scene=reading.scene)
    try:
        resolution = resolve_mpp(slide.mpp_claims, objective_power=slide.objective_power, assume_mpp=reading.assume_mpp)
    except ResolutionError:
        return LivePicture(slide, job.image_id, math.nan)
    return LivePicture(slide, job.image_id, resolution.mpp)


def find_shown(
    stores: Sequence[Location], slides: Sequence[Path], annotations: Path | None, *, writable: bool = True
) -> list[Shown]:
    """Return the slides that stores and slides' files mean, in the order of their ids.

    A slide of which there is a store is shown from that.

    Parameters
    ----------
    stores
        Tile stores or folders of them, URLs too.
    slides
        Slides or folders of them.
    annotations
        The folder for what is drawn; None: beside each store or slide.
    writable
        Whether anything may be kept.

    Raises
    ------
    RequestError
        There is nothing to show, or an id cannot name a file.
    """
    found: dict[str, TileStore | Job] = {store.image_id: store for store in (find_stores(stores) if stores else ())}
    for job in find_jobs(slides, None) if slides else ():
        found.setdefault(job.image_id, job)
    if not found:
        raise RequestError("nothing to show: expected tile stores, slides, or folders of them")
    shown = []
    for name in sorted(found):
        source = found[name]
        place = source.path.parent if isinstance(source.path, Path) else None
        folder = (annotations or place) if writable else None
        check_id(name, str(source.path))
        shown.append(Shown(name, source, AnnotationFile(folder / f"{name}{ENDING}") if folder else None))
    return shown


def patients_of(names: Iterable[str], rows: Mapping[str, ManifestRow]) -> dict[str, str]:
    """Return whose slide each is: as the run says, else the id without its last number."""
    return {name: rows[name].patient_id if name in rows else default_patient(name) for name in names}


def default_patient(image_id: str) -> str:
    """Return whose slide it is where no table says it."""
    stem, _, number = image_id.rpartition("_")
    return stem if stem and number.isdigit() else image_id
