"""What a person means by the names given to be shown: runs, stores, bags, slides, in one folder or in several."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wsi.cohort.slides import find_jobs
from wsi.errors import RequestError
from wsi.files.atomic import PARTIAL
from wsi.files.regular import read_regular
from wsi.store.folder import Location
from wsi.store.layout import SUFFIX
from wsi.store.metadata import is_our_store
from wsi.store.storage import locate

_Place = TypeVar("_Place")


@dataclass(frozen=True, slots=True)
class Items:
    """Things to be shown, by kind; each list in order, nothing twice."""

    runs: tuple[Path, ...] = ()
    stores: tuple[Location, ...] = ()
    """Each a store, or a URL of a folder of them."""
    bags: tuple[Path, ...] = ()
    """Each a bag or a folder of them."""
    slides: tuple[Path, ...] = ()
    """Each a slide or a folder of them."""
    similar: tuple[Path, ...] = ()
    """Tables of `gigamil similar`."""

    def __add__(self, other: "Items") -> "Items":
        """Return both together."""
        return Items(
            _both(self.runs, other.runs),
            _both(self.stores, other.stores),
            _both(self.bags, other.bags),
            _both(self.slides, other.slides),
            _both(self.similar, other.similar),
        )

    def __bool__(self) -> bool:
        return any((self.runs, self.stores, self.bags, self.slides, self.similar))


def _both(one: tuple[_Place, ...], other: tuple[_Place, ...]) -> tuple[_Place, ...]:
    return tuple(dict.fromkeys((*one, *other)))


def sort_items(names: Sequence[str]) -> Items:
    """Tell what each name means; a folder that is none of these is looked into, one level deep.

    Raises
    ------
    RequestError
        A name leads to nothing that can be shown.
    """
    return _sum(_meant(locate(name)) for name in names)


def _meant(place: Location) -> Items:
    if isinstance(place, str):
        return Items(stores=(place,))
    if not place.exists():
        raise RequestError(f"{place} does not exist: expected tile stores, slides, a run, or a folder of them")
    if place.is_file() or place.suffix == SUFFIX:
        return _file(place)
    found = _folder(place)
    if not found:
        inside = [own for own in sorted(place.iterdir()) if own.is_dir() and not own.name.startswith(".")]
        found = _sum(map(_folder, inside))
        found += Items(slides=tuple(own for own in inside if found and not _folder(own) and _holds_slides(own)))
    if not found and _holds_slides(place):
        found = Items(slides=(place,))
    if not found:
        raise RequestError(f"{place} holds nothing to show: expected tile stores, slides, a run, or folders of them")
    return found


def _file(place: Path) -> Items:
    """Return what a file, or a folder that is one thing, is."""
    if _is_store(place):
        return Items(stores=(place,))
    kinds = {".h5": Items(bags=(place,)), ".csv": Items(similar=(place,))}
    return kinds.get(place.suffix, Items(slides=(place,)))


def _folder(place: Path) -> Items:
    """Return the run, stores and bags that lie in a folder itself; slides are looked for otherwise, at any depth."""
    if place.suffix == SUFFIX:
        return Items(stores=(place,)) if _is_store(place) else Items()
    inside = [own for own in sorted(place.glob(f"*{SUFFIX}")) if not own.name.endswith(PARTIAL) and _is_store(own)]
    is_run, has_bags = (place / "config.toml").is_file(), any(place.glob("*.h5"))
    return Items(runs=(place,) * is_run, stores=tuple(inside), bags=(place,) * has_bags)


def _is_store(place: Path) -> bool:
    """Tell whether a path is a tile store, whole or damaged; what says of itself that it is something else is none."""
    if is_our_store(place):
        return True
    if place.suffix != SUFFIX or not place.is_dir() or (place / ".zattrs").exists() or (place / ".zgroup").exists():
        return False
    try:
        return not isinstance(json.loads(read_regular(place / "zarr.json", 16 << 20)), dict)
    except (OSError, ValueError, RecursionError):
        return True


def _holds_slides(folder: Path) -> bool:
    try:
        return bool(find_jobs([folder], None))
    except RequestError:
        return False


def _sum(items: Iterable[Items]) -> Items:
    return sum(items, Items())
