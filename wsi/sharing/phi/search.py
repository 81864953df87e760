"""`gigamil verify --phi`: whether anything in a folder tells whose slides these are.

Every file's name, every text and every place where metadata can stand is compared with each value that must not be
there; long values are looked for in all of the bytes, too. A picture of a label, or a field that holds a date or a
person, is a finding by being there: what is written in pixels is not read.
"""

import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsi.cohort.slides import find_jobs
from wsi.errors import RequestError
from wsi.files.regular import check_regular
from wsi.pages import plural
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.sharing.options import PhiOptions
from wsi.sharing.phi.matcher import Matcher
from wsi.sharing.phi.needles import needles_of, values_of_table
from wsi.sharing.phi.places import places
from wsi.sharing.phi.slides import values_of_slides
from wsi.sharing.phi.texts import Remark, Unpacked

_MOST_TOLD = 5
"""Findings of one file that are told one by one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should not be there."""

    where: str
    """Inside the file; empty for its text."""
    what: str

    def __str__(self) -> str:
        return f"{self.where or 'text'}: {self.what}"


def verify_phi(options: PhiOptions, progress: Progress | None = None) -> Summary:
    """Search folders and files; each file with a finding FAILED, with place and kind of what was found.

    Raises
    ------
    RequestError
        A path is not there, or the cohort table cannot be read or names nobody.
    """
    start, progress = time.perf_counter(), progress or Silent()
    values = values_of_table(options.against)
    if options.slides:
        values += values_of_slides([job.path for job in find_jobs(options.slides, None)])
    needles = needles_of(values)
    if not needles.found:
        raise RequestError(
            f"{options.against}: expected ids, names or dates to look for, found none that is long enough"
        )
    matcher = Matcher(needles.found)
    outcomes, n_files, n_bytes = list[Outcome](), 0, 0
    files = [(root, path) for root in options.folders for path in _files(root)]
    progress.begin("verify --phi", len(files), "files")
    for root, path in files:
        name = path.relative_to(root.parent).as_posix()
        size, found = _findings(matcher, path, path.relative_to(root).as_posix() if path != root else path.name)
        n_files, n_bytes = n_files + 1, n_bytes + size
        if found:
            outcomes.append(Outcome(name, Status.FAILED, _told(found), {"findings": [str(own) for own in found]}))
        progress.advance(1)
    progress.end()
    facts = {"files": n_files, "bytes": n_bytes, "values": len(needles.found), "too_short": needles.skipped}
    if not outcomes:
        short = f"; {needles.skipped} are too short to tell from other numbers and words" if needles.skipped else ""
        told = f"{plural(n_files, 'file')}, none holds one of {plural(len(needles.found), 'value')}{short}"
        outcomes = [Outcome(str(root), Status.DONE, told, facts) for root in options.folders]
    return Summary("verify --phi", outcomes, time.perf_counter() - start)


def _told(found: list[Finding]) -> str:
    more = f"; and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
    return "; ".join(map(str, found[:_MOST_TOLD])) + more


def _files(root: Path) -> Iterator[Path]:
    """Yield a path and every file and folder below it, sorted; links are given, and not followed."""
    if not os.path.lexists(root):
        raise RequestError(f"{root}: expected a folder or a file, found nothing")
    yield root
    for base, folders, names in os.walk(root):
        folders.sort()
        yield from (Path(base, own) for own in sorted([*names, *folders]))


def _findings(matcher: Matcher, path: Path, name: str) -> tuple[int, list[Finding]]:
    """Return the size of a file, and what was found in it and its name, each once; of a folder, in its name."""
    found = dict[Finding, None]()
    found |= {Finding("name", matcher.needles[index].masked): None for index in matcher.in_text(path.name)}
    if path.is_symlink():
        found[Finding("link", "it tells a path, and what it leads to was not looked at")] = None
    if path.is_symlink() or path.is_dir():
        return 0, list(found)
    check_regular(path)
    with path.open("rb") as file:
        told = set[int]()
        for own in places(file, name):
            if isinstance(own, Remark):
                found[Finding(own.where, own.what)] = None
                continue
            if isinstance(own, Unpacked):
                indices = matcher.in_bytes(own.data)
            else:
                indices = matcher.in_text(own.text, json=own.json)
            where = own.where.split(" ")[0] if indices and matcher.in_text(own.where) else own.where
            found |= {Finding(where, matcher.needles[index].masked): None for index in sorted(indices)}
            told |= indices
    size = path.stat().st_size
    if size:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            others = matcher.in_bytes(data) - told
        found |= {Finding("bytes", matcher.needles[index].masked): None for index in sorted(others)}
    return size, list(found)
