"""A verb whose options name URLs, run on this machine's copies of them.

Inputs are fetched, unless a reader streams them; outputs are claimed, made in scratch and published. Where the record
of an output says that it was made by the same request from the same inputs, nothing is fetched and nothing is done.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from glob import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wsi.errors import ItemError, RequestError
from wsi.machine.interrupt import Leaving
from wsi.options import Spec, specs
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.remote.claim import Held, claim_remotely
from wsi.remote.place import Place
from wsi.remote.published import Record, fetch_item, files_of, identity, items_files, lies_whole, publish, read_record
from wsi.remote.scratch import Scratch, scratch_of
from wsi.urls import is_web, path_of, url_of

STREAMED, OUTPUT, ITEMS, LOCAL = "streamed", "output", "items", "local"
"""What a field's mark says of URLs in it: read by ranges; written as one item; the verb's own matter; refused."""
_SHAPES_NOTHING = frozenset({"workers", "nproc", "prefetch_mib", "no_lock", "overwrite"})
"""Fields that no output depends on."""


@dataclass(frozen=True, slots=True)
class Given:
    """One URL among a verb's options."""

    spec: Spec
    url: str
    role: str

    @property
    def parts(self) -> tuple[Place, str]:
        """The folder that it lies in, and its name there."""
        return apart(self.url)


def apart(url: str) -> tuple[Place, str]:
    """Return the folder behind a URL, and the name of what lies in it."""
    whole, mark, query = url.partition("?") if is_web(url) else (url, "", "")
    parent, _, name = whole.rpartition("/")
    if not parent.partition("://")[2]:
        raise RequestError(f"{url}: expected a name below the bucket")
    return Place(parent), f"{name}{mark}{query}"


def urls_of(options: Any) -> list[Given]:
    """Return the URLs that stand in options, in the order of their fields."""
    kind: Any = type(options)
    found = []
    for spec in specs(kind):
        if not (spec.mark.remote or "Path" in str(spec.kind)):
            continue
        value = getattr(options, spec.field)
        several = [own for own in (value if isinstance(value, tuple) else (value,)) if isinstance(own, str | Path)]
        found += [Given(spec, url, spec.mark.remote) for own in several if (url := url_of(own))]
    return found


def run_staged(function: Callable[..., Any], options: Any, *arguments: Any, **named: Any) -> Any:
    """Call a verb's function with this machine's copies of what its options name by URLs; return what it returns.

    Raises
    ------
    RequestError
        A URL leads to nothing, may not be read or written, or stands where only paths can.
    ClaimedError
        Another process writes an output.
    RemoteError
        An input is not whole, or the network failed for too long.
    """
    given = [_seen(own) for own in urls_of(options) if own.role != ITEMS]
    _check(given)
    if not any(own.role != STREAMED for own in given):
        return function(options, *arguments, **named)
    progress: Progress = next((own for own in (*arguments, *named.values()) if hasattr(own, "advance")), Silent())
    outputs, inputs = [own for own in given if own.role == OUTPUT], [own for own in given if not own.role]
    with ExitStack() as stack:
        held = [stack.enter_context(claim_remotely(*own.parts)) for own in outputs]
        request = request_of(function.__name__, options)
        told = [] if _has_items(options) else [done_already(*own.parts, request) for own in outputs]
        if told and all(own is not None for own in told):
            return _replayed(function.__name__, told)
        scratch = stack.enter_context(
            scratch_of(function.__name__, *(own.url for own in outputs or given), options.__class__)
        )
        for own in inputs:
            progress.note(f"fetching {own.url}")
            fetch(own.url, scratch)
        others = [scratch.path(own.url) for own in inputs]
        for own in outputs:
            fetch_earlier(*own.parts, scratch.path(own.url).parent, others)
        try:
            with scratch.telling():
                found = function(_placed(options, given, scratch), *arguments, **named)
        except (Leaving, ItemError) as error:  # perhaps the next run is another machine's
            for own, claim in zip(outputs, held, strict=True):
                if isinstance(error, Leaving) or not scratch.path(own.url).is_dir():
                    _save(own.url, claim, scratch, others)
            raise
        if isinstance(found, Summary):
            found = replace(found, outcomes=scratch.told_of(found.outcomes))
        for own, claim in zip(outputs, held, strict=True):
            progress.note(f"publishing {own.url}")
            _publish(own.url, claim, scratch, request, found, others)
    return found


def _has_items(options: Any) -> bool:
    """Tell whether a verb looks after the items of a folder itself, which no record of another output vouches for."""
    kind: Any = type(options)
    return any(spec.mark.remote == ITEMS for spec in specs(kind))


def _seen(given: Given) -> Given:
    """Return a URL with its role: what can be streamed is fetched where it is no store and holds none."""
    if given.role != STREAMED or given.url.endswith(".zarr"):
        return given
    holds = not is_web(given.url) and any(own.endswith(".zarr") for own in Place(given.url).folders())
    return given if holds else replace(given, role="")


def _check(given: list[Given]) -> None:
    for own in given:
        if own.role == LOCAL:
            raise RequestError(f"{own.spec.shown} {own.url}: expected a path of this machine")
    if given and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError(
            f"{given[0].url}: URLs and torchrun exclude each other: give --nproc, and start one command a node: they "
            "share the work by claims"
        )


def request_of(stage: str, options: Any, *more: str) -> str:
    """Return a hash of what is asked: the options, and what the paths and URLs among them lead to."""
    kind: Any = type(options)
    told: dict[str, Any] = {"stage": stage, "version": version("gigamil"), "more": more}
    for spec in specs(kind):
        if spec.field in _SHAPES_NOTHING:
            continue
        value = getattr(options, spec.field)
        several = value if isinstance(value, tuple) else (value,)
        told[spec.field] = [str(own) for own in several]
        if "Path" in str(spec.kind) and spec.mark.remote not in {OUTPUT, ITEMS}:
            told[spec.field] += [led_to(own) for own in several if own is not None]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def led_to(place: str | Path) -> str:
    """Return what changes when that changes which a path or URL leads to."""
    if url := url_of(place):
        return identity(*apart(url))
    path = Path(place)
    below = sorted(path.rglob("*")) if path.is_dir() else [path]
    return json.dumps([own for file in below if (own := _stamp(file))])


def _stamp(file: Path) -> tuple[str, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return (str(file), found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def done_already(place: Place, name: str, request: str) -> Record | None:
    """Return the record of an item that the same request made, if all of it lies there."""
    record = read_record(place, name)
    return record if record is not None and record.request == request and lies_whole(place, name, record) else None


def replayed(record: Record) -> list[Outcome]:
    """Return what a stage told of an item, as finished by an earlier run."""
    known = {own.name for own in fields(Outcome)}
    return [
        Outcome(str(own["id"]), Status.SKIPPED, "", {key: own[key] for key in own if key not in known | {"id"}})
        for own in record.outcomes
    ]


def _replayed(stage: str, records: list[Record | None]) -> Any:
    outcomes = {own.item_id: own for record in records if record for own in replayed(record)}
    return Summary(stage, list(outcomes.values()), 0.0)


def fetch(url: str, scratch: Scratch) -> Path:
    """Fetch what a URL leads to; return where it lies."""
    place, name = apart(url)
    target = scratch.path(url)
    fetch_item(place, name, target.parent, called=target.name)
    return target


def fetch_earlier(place: Place, name: str, local: Path, others: Sequence[Path] = ()) -> None:
    """Fetch an output of an earlier run, so that it is kept, refused or replaced as one of this machine would be.

    What was not published whole is made anew, of what lies in scratch. Of ``others`` there none is the output's.
    """
    record = read_record(place, name)
    if record is None and not items_files(place, name):
        return
    if record is None or record.whole or (record.saved and not _keys(local / name, others)):
        fetch_item(place, name, local, saved=True)


def _placed(options: Any, given: list[Given], scratch: Scratch) -> Any:
    """Return the options with this machine's paths in the URLs' place."""
    here = {own.url: scratch.path(own.url) for own in given if own.role != STREAMED}
    changed: dict[str, Any] = {}
    for field in {own.spec.field for own in given}:
        value = getattr(options, field)
        changed[field] = tuple(_as(own, here) for own in value) if isinstance(value, tuple) else _as(value, here)
    return replace(options, **changed)


def _as(value: Any, here: Mapping[str, Path]) -> Any:
    url = url_of(value) if isinstance(value, str | Path) else ""
    if not url:
        return value
    place: Path = here.get(url) or path_of(url)
    return str(place) if isinstance(value, str) else place


def _publish(url: str, held: Held, scratch: Scratch, request: str, found: Any, others: Sequence[Path]) -> None:
    local = scratch.path(url)
    outcomes = found.as_dict()["items"] if isinstance(found, Summary) else []
    whole = found.exit_code == 0 if isinstance(found, Summary) else found == 0
    keys = _keys(local, others)
    if not keys:
        raise ItemError(f"{url}: the command made nothing")
    publish(local.parent, keys, held, request if whole else "", outcomes)


def _save(url: str, held: Held, scratch: Scratch, others: Sequence[Path]) -> None:
    """Save what there is of an output that is not whole; a file that is there is an earlier run's, and stays whole."""
    local = scratch.path(url)
    keys = [] if local.is_file() else _keys(local, others)
    if keys:
        publish(local.parent, keys, held, "", whole=False)


def _keys(local: Path, others: Sequence[Path]) -> list[str]:
    """Return the files of an output: a folder's, or a file and what lies beside it under its stem, but for inputs.

    Beside ``w.safetensors`` these are ``w.json``, ``w.history.csv``, and what the folder ``w.tensorboard`` holds.
    """
    if local.is_dir():
        return files_of(local.parent, local.name)
    beside = {local, *local.parent.glob(f"{escape(local.stem)}.*")}
    own = (path for path in beside if path.exists() and not any(other.is_relative_to(path) for other in others))
    return sorted(key for path in own for key in files_of(local.parent, path.name))
