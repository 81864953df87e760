"""What was learnt of bags by reading them, kept beside the run, so that the next run does not read them for it.

Our bags carry their moments and their hash. Other tools' and older ones do not: they are read once, and what was found
stands in a hidden file of the folder that the run lies in, by path, size and time of change. It is a cache: it may be
deleted at any time, what is not sound in it is not believed, and where it cannot be written nothing is lost but time.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.bags.bag import BagHeader, measured
from features.bags.hdf5 import Attributes, dataset_of, read_hdf5, writing_hdf5
from features.bags.moments import packed, seal, unpacked
from mil.data.cohort import BagSet
from wsi.errors import BagError, RequestError
from wsi.machine.cpu import usable_cpus
from wsi.progress.stalls import moved

NAME = ".gigamil-bag-facts"
"""Of the file."""
KEEP_SECONDS = 60.0
"""Between two times that it is written while bags are read: what has been read must not be lost with a killed run."""
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one bag's rows: its header with what reading told, or why they cannot be used."""

    header: BagHeader
    damage: str = ""


class KnownFacts:
    """The file, and what is added to it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._entries: dict[str, tuple[np.ndarray[Any, Any], str, str]] = {}
        """Key -> moments as stored, content hash, damage."""
        with suppress(BagError, OSError):
            if self._path.is_file():
                self._entries = _entries_of(self._path)

    def of(self, header: BagHeader) -> Known | None:
        """Return what is known of a bag, if its file is in the state in which it was read."""
        table, sha256, damage = self._entries.get(_key(header), (np.empty((0, 0)), "", ""))
        if damage:
            return Known(header, damage)
        moments = unpacked(header.n_tiles, table) if table.shape == (2, header.dim) else None
        return None if moments is None else Known(replace(header, moments=moments, content_sha256=sha256))

    def add(self, known: Known) -> None:
        """Take in what was learnt."""
        moments = known.header.moments
        table = np.empty((0, 0)) if moments is None else packed(moments)
        self._entries[_key(known.header)] = (table, known.header.content_sha256, known.damage)

    def write(self) -> None:
        """Write the file anew, with what another run has added meanwhile; nothing where that cannot be."""
        with suppress(BagError, OSError, RequestError):
            own = self._entries
            if self._path.is_file():
                with suppress(BagError, OSError):
                    self._entries = _entries_of(self._path) | own
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with writing_hdf5(self._path) as file:
                for key, (table, sha256, damage) in self._entries.items():
                    entry = file.create_dataset(key, data=table, dtype="<f8")
                    entry.attrs.update({"content_sha256": sha256, "damage": damage, "sha256": seal(table, sha256)})


def _key(header: BagHeader) -> str:
    place = header.place
    state = place.state[1:] if place else ()
    return seal(np.array(state, np.float64), f"{header.path.resolve()} {state}")


def _entries_of(path: Path) -> dict[str, tuple[np.ndarray[Any, Any], str, str]]:
    return read_hdf5(path, lambda file: dict(_entries(file, path)))


def _entries(file: Any, path: Path) -> Iterator[tuple[str, tuple[np.ndarray[Any, Any], str, str]]]:
    for key in file:
        entry = dataset_of(file, key, path)
        if entry is not None and entry.dtype == np.float64:
            table, told = np.asarray(entry[()]), Attributes(entry, path)
            if told.text("sha256") == seal(table, told.text("content_sha256")):
                yield key, (table, told.text("content_sha256"), told.text("damage"))


def with_facts(sets: Iterable[BagSet], folder: Path) -> tuple[BagSet, ...]:
    """Return the sets with the moments of all bags, reading those that neither tell them nor are known.

    Raises
    ------
    OSError
        The storage fails.
    """
    found, facts = tuple(sets), KnownFacts(folder)
    return tuple(_completed(own, facts) for own in found)


def _completed(bags: BagSet, facts: KnownFacts) -> BagSet:
    known = {i: own for i, header in bags.headers.items() if (own := facts.of(header)) is not None}
    unknown = {i: header for i, header in bags.headers.items() if i not in known and header.moments is None}
    known |= _learnt(unknown, facts)
    headers = {i: known[i].header if i in known else header for i, header in bags.headers.items()}
    damaged = {i: own.damage for i, own in known.items() if own.damage}
    return replace(bags, headers=headers, damaged=damaged)


def _learnt(headers: Mapping[str, BagHeader], facts: KnownFacts) -> dict[str, Known]:
    """Read bags, and keep what was found."""
    found: dict[str, Known] = {}
    if not headers:
        return found
    written = time.monotonic()
    with ThreadPoolExecutor(min(_THREADS, usable_cpus())) as pool:
        for image_id, known in zip(headers, pool.map(_read, headers.values()), strict=True):
            moved()
            found[image_id] = known
            facts.add(known)
            if time.monotonic() - written > KEEP_SECONDS:
                facts.write()
                written = time.monotonic()
    facts.write()
    return found


def _read(header: BagHeader) -> Known:
    try:
        return Known(measured(header))
    except BagError as error:
        return Known(header, str(error))


def note_damage(folder: Path, header: BagHeader, why: str) -> None:
    """Keep that a bag's rows cannot be used, as was found when they were read."""
    facts = KnownFacts(folder)
    facts.add(Known(replace(header, moments=None), why))
    facts.write()
