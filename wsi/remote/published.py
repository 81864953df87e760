"""What was published: beside each item a record of its files with sizes and hashes, and of the request that made it.

The record of an item ``a.zarr`` is ``.gigamil/a.zarr.json`` in the folder that the item lies in. It says first that the
item is being written, last that it is whole: who finds the former takes nothing. An item without a record was put there
by other means, and is taken as it lies.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsi.errors import RemoteError, RequestError
from wsi.files.regular import file_sha256
from wsi.files.replace import PARTIAL
from wsi.remote.claim import FOLDER, Held
from wsi.remote.place import Found, Place, together
from wsi.urls import is_web

_FORMAT = "gigamil-published-1"
_DOORS = ("index.html", "config.toml", "metrics.json", "zarr.json")
"""Files that readers open first, and that are written last: without them, no reader takes a half for a whole."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a published item."""

    whole: bool
    request: str
    """Hash of what was asked, and of which inputs."""
    files: Mapping[str, tuple[int, str]]
    """Size and sha256 by key, which starts with the item's name."""
    outcomes: Sequence[Mapping[str, Any]] = field(default=())
    """What the stage told of it."""
    saved: bool = False
    """All of it lies there, and it is not whole: the command that makes it was asked to leave, and goes on from it."""

    def as_json(self) -> bytes:
        """Return the record's bytes."""
        told = {"format": _FORMAT, "whole": self.whole, "saved": self.saved, "request": self.request}
        return json.dumps(told | {"files": self.files, "outcomes": list(self.outcomes)}).encode()


def read_record(place: Place, name: str) -> Record | None:
    """Return the record of an item; None where it has none, as nothing on a web server has."""
    if is_web(place.url):
        return None
    data = place.read(_key(name))
    if data is None:
        return None
    try:
        told = json.loads(data)
        if told["format"] != _FORMAT:
            raise ValueError(f"format {told['format']!r}")
        files = {str(key): (int(size), str(sha256)) for key, (size, sha256) in told["files"].items()}
        return Record(bool(told["whole"]), str(told["request"]), files, list(told["outcomes"]), bool(told["saved"]))
    except (ValueError, TypeError, KeyError) as error:
        raise RemoteError(f"{place.at(_key(name))}: expected a record of gigamil: {error}") from None


def write_record(place: Place, name: str, record: Record) -> None:
    """Write the record of an item."""
    place.write(_key(name), record.as_json())


def lies_whole(place: Place, name: str, record: Record) -> bool:
    """Tell whether a record says so, and each of its files lies there with its size."""
    if not record.whole or not record.files:
        return False
    found = _there(place, name, record.files)
    return all(key in found and found[key].size == size for key, (size, _) in record.files.items())


def _there(place: Place, name: str, keys: Collection[str]) -> dict[str, Found]:
    """Return those of an item's objects that are there: by one listing where all lie below its name."""
    if all(key.startswith(f"{name}/") for key in keys):
        return _but_records(place.files(name))
    return {key: found for key in keys if (found := place.info(key)) is not None}


def items_files(place: Place, name: str) -> dict[str, Found]:
    """Return the objects of an item, by key: the object of that name, else all below the folder of that name."""
    alone = place.info(name)
    if is_web(place.url):
        return {name: alone} if alone else {}
    return {name: alone} if alone else _but_records(place.files(name))


def _but_records(files: Mapping[str, Found]) -> dict[str, Found]:
    return {key: found for key, found in files.items() if FOLDER not in key.split("/")}


def publish(
    local: Path,
    keys: Sequence[str],
    held: Held,
    request: str,
    outcomes: Sequence[Mapping[str, Any]] = (),
    *,
    whole: bool = True,
) -> None:
    """Publish an item: its files, those that readers open last, then the record that makes it whole.

    What lies there already as the last record says is not sent again; what belonged to it and is gone is removed.

    Parameters
    ----------
    local
        The folder that the item lies in on this machine, as ``held.place`` is the one behind the URL.
    keys
        Its files, below both.
    held
        The claim on the item.
    whole
        False to save what is there for the run that goes on: readers still take nothing.

    Raises
    ------
    ClaimedError
        Another process took the item over: nothing was made whole.
    RequestError, RemoteError
        It cannot be written.
    """
    place, name = held.place, held.name
    files = {key: ((local / key).stat().st_size, file_sha256(local / key)) for key in keys}
    before = read_record(place, name)
    there = _there(place, name, {*files, *(before.files if before else ())}) if before else items_files(place, name)
    known = before.files if before and (before.whole or before.saved) else {}
    kept = {key for key in files if known.get(key) == files[key] and key in there and there[key].size == files[key][0]}
    stale = [key for key in (before.files if before else there) if key not in files]
    if before and whole and before.whole and before.request == request and len(kept) == len(files) and not stale:
        return
    record = Record(False, request, files, outcomes)
    held.check()
    place.write(_key(name), record.as_json())
    doors = sorted((key for key in files if key not in kept), key=_order)
    first = [key for key in doors if not _is_door(key)]
    place.remove([key for key in doors if _is_door(key) and key in there])
    together(lambda key: place.put(key, local / key), first)
    place.remove(stale)
    held.check()
    for key in doors[len(first) :]:
        place.put(key, local / key)
    held.check()
    place.write(_key(name), Record(whole, request, files, outcomes, saved=not whole).as_json())


def _is_door(key: str) -> bool:
    return _order(key) > 0


def _order(key: str) -> int:
    """Return 0 for files that go first, more for those at an item's root that readers look for, in their order."""
    parts = key.split("/")
    return _DOORS.index(parts[-1]) + 1 if len(parts) == 2 and parts[-1] in _DOORS else 0


def files_of(local: Path, name: str) -> list[str]:
    """Return the keys of an item's files on this machine, without work files: locks, and what is not whole."""
    path = local / name
    if path.is_file():
        return [name]
    below = (own for own in sorted(path.rglob("*")) if own.is_file())
    keys = [own.relative_to(local).as_posix() for own in below]
    return [key for key in keys if not any(_is_work(part) for part in key.split("/"))]


def _is_work(part: str) -> bool:
    return part.endswith((PARTIAL, ".lock")) and (part.startswith(".") or part.endswith(PARTIAL))


def fetch_item(place: Place, name: str, local: Path, called: str = "", *, saved: bool = False) -> Record | None:
    """Fetch an item into ``local / name``, each file whole and, where there is a record, of its hash; return that.

    Files that are there already with that hash are not fetched again. A signed URL's file has another name here:
    ``called``. What was ``saved`` and is not whole is fetched for who goes on with it alone.

    Raises
    ------
    RequestError
        It is not there.
    RemoteError
        It is being published, or publishing it was cut off; it is not what its record says.
    """
    record = read_record(place, name)
    if record is not None and not record.whole and not (saved and record.saved):
        raise RemoteError(
            f"{place.at(name)} is being published, or publishing it was cut off: run the command that makes it again"
        )
    if record is not None:
        there, wanted = _there(place, name, record.files), dict(record.files)
    else:
        there = items_files(place, name)
        wanted = _as_they_lie(place, name, there)
    if not wanted:
        raise RequestError(f"{place.at(name)} does not exist")
    for key, (size, _) in wanted.items():
        if key not in there or there[key].size != size:
            raise RemoteError(f"{place.at(key)}: expected {size:,} bytes as published: publish it again")

    def fetch(key: str) -> None:
        target, (_, sha256) = local / (called if called and key == name else key), wanted[key]
        if not _has_hash(target, sha256):
            place.fetch(key, target, there[key])
            if sha256 and not _has_hash(target, sha256):
                raise RemoteError(f"{place.at(key)}: its bytes are not those that were published: publish it again")

    together(fetch, wanted)
    return record


def _as_they_lie(place: Place, name: str, there: Mapping[str, Found]) -> dict[str, tuple[int, str]]:
    """Return the files to take of a folder that has no record itself: those of items in it that are not whole stay."""
    wanted = {key: (found.size, "") for key, found in there.items()}
    inside = [] if name in there else sorted(place.files(f"{name}/{FOLDER}"))
    for key in inside:
        own, _, told = key.rpartition(f"/{FOLDER}/")
        if "/" in told:  # a claim
            continue
        within = Place(place.at(own), place.settings)
        record = read_record(within, told.removesuffix(".json"))
        for file, known in record.files.items() if record is not None else ():
            if record is not None and record.whole and f"{own}/{file}" in wanted:
                wanted[f"{own}/{file}"] = known
            else:
                wanted.pop(f"{own}/{file}", None)
    return wanted


def _has_hash(file: Path, sha256: str) -> bool:
    return bool(sha256) and file.is_file() and file_sha256(file) == sha256


def identity(place: Place, name: str) -> str:
    """Return a hash that changes when an item does: of its record, else of what the server tells of its objects."""
    record = read_record(place, name)
    told: Any = (
        sorted(record.files.items())
        if record is not None and record.whole
        else [(key, found.size, found.tag) for key, found in sorted(items_files(place, name).items())]
    )
    return hashlib.sha256(json.dumps(told).encode()).hexdigest() if told else ""


def _key(name: str) -> str:
    return f"{FOLDER}/{name}.json"
