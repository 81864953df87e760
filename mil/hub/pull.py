"""`gigamil pull`: what was pushed to the Hugging Face hub, whole and checked, or not at all.

Files come through the hub's own cache (HF_HOME), where a download that broke off goes on, and which alone is asked with
HF_HUB_OFFLINE; then they are copied to the folder and checked by the manifest's sha256.
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.encoders.hub import quick_without_network
from mil.hub.address import FORMAT, MANIFEST, Address, address_of, endpoint, refusals
from mil.hub.options import PullOptions
from mil.hub.resume import fetch_large
from wsi.errors import RequestError, one_line
from wsi.files.atomic import replacing
from wsi.files.claim import claim
from wsi.files.documents import parse_json, read_document
from wsi.files.regular import file_sha256
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary

_MARK = ".gigamil-pull.json"
"""In a folder that this verb made: where it is from, and each file's sha256."""
NAMED = 5
"""Files named in a note."""


@stage
def pull(options: PullOptions, progress: Progress | None = None) -> Summary:
    """Fetch what `gigamil push` made, or a repository of the hub, into a folder.

    Raises
    ------
    RequestError
        The hub refuses, there is nothing, what is there is not whole, or the folder holds something else.
    RemoteError
        The connection failed: given again, the pull goes on.
    """
    start, progress = time.perf_counter(), progress or Silent()
    address = address_of(options.source)
    with claim(options.out):
        if options.out.exists() and not (is_pulled(options.out) and options.overwrite):
            if is_pulled(options.out) and _is_whole(options.out, address):
                return Summary("pull", [Outcome(str(options.out), Status.SKIPPED)], time.perf_counter() - start)
            hint = "give --overwrite, or choose another --out" if is_pulled(options.out) else "choose another --out"
            raise RequestError(f"{options.out} holds something else than {address}: {hint}")
        with refusals(address, "the pull"), quick_without_network():
            fetch_large(address)
            found = _fetched(address)
        sums, others = _checked(address, found)
        with replacing(options.out, is_pulled) as folder:
            folder.mkdir()
            for name, sha256 in sums.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found[name], target)
                if file_sha256(target) != sha256:
                    raise RequestError(f"{options.out}: {name} changed while it was copied: give the command again")
            (folder / _MARK).write_text(json.dumps({"format": FORMAT, "from": str(address), "sha256": sums}) + "\n")
    if MANIFEST not in found:
        progress.note(f"{address} was not pushed by gigamil: there are no checksums to hold its files to")
    if others:
        told = one_line(", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if others[NAMED:] else ""), 300)
        progress.note(f"left there, for {MANIFEST} does not vouch for them: {told}")
    facts = {"files": len(sums), "bytes": sum((options.out / name).stat().st_size for name in sums)}
    return Summary("pull", [Outcome(str(options.out), Status.DONE, facts=facts)], time.perf_counter() - start)


def is_pulled(folder: Path) -> bool:
    """Tell whether a folder was made by this verb."""
    return bool(_told(folder / _MARK).get("format") == FORMAT)


def _told(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_document(path, RequestError))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sums(told: Mapping[str, Any]) -> dict[str, str]:
    """Return what a manifest or mark says of its files; none where it says nothing that can be."""
    found = told.get("sha256")
    return {str(name): str(sha256) for name, sha256 in found.items()} if isinstance(found, dict) else {}


def _is_whole(folder: Path, address: Address) -> bool:
    told = _told(folder / _MARK)
    files = _sums(told)
    return (
        bool(files)
        and told.get("from") == str(address)
        and all((folder / name).is_file() and file_sha256(folder / name) == sha256 for name, sha256 in files.items())
    )


def _fetched(address: Address) -> dict[str, Path]:
    """Return the files of the folder, by their path in it, as they lie in the hub's cache."""
    from huggingface_hub import constants, snapshot_download

    wanted = f"{address.folder}/*" if address.folder else None
    root = Path(
        snapshot_download(
            address.repo,
            allow_patterns=wanted,
            endpoint=endpoint(),
            local_files_only=constants.HF_HUB_OFFLINE,
        ),
        address.folder,
    )
    found = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    for own in (".gitattributes", _MARK):
        found.pop(own, None)
    if not found:
        raise RequestError(f"{address}: expected files there, found none")
    return found


def _checked(address: Address, found: Mapping[str, Path]) -> tuple[dict[str, str], list[str]]:
    """Return the sha256 of each file to take, held to the manifest where there is one, and which others are left.

    Raises
    ------
    RequestError
        A file is not as the manifest tells, or the push has not ended.
    """
    sums = {name: file_sha256(path) for name, path in found.items()}
    for name, sha256 in sums.items():
        blob = found[name].resolve()
        if len(blob.name) == len(sha256) and blob.name != sha256:  # the cache names large files by their sha256
            raise RequestError(
                f"{address}: the hub's cache holds {one_line(name, 100)} otherwise than it was fetched: "
                f"remove {blob}, and give the command again"
            )
    if MANIFEST not in found:
        if any("gigamil-" in line for line in _head(found)):
            raise RequestError(f"{address}: its push has not ended (no {MANIFEST}): push it to its end")
        return sums, []
    told = _told(found[MANIFEST])
    vouched = _sums(told)
    if told.get("format") != FORMAT or not vouched:
        raise RequestError(
            f"{address}: expected a manifest of `gigamil push` in {MANIFEST} ({FORMAT}), found another file of that "
            "name: push it again, or with a newer gigamil pull it"
        )
    for name, sha256 in vouched.items():
        if sums.get(name) != sha256:
            what = "is missing" if name not in sums else "is not the file that was pushed (sha256)"
            raise RequestError(f"{address}: {one_line(name, 100)} {what}: push it again")
    taken = {name: sums[name] for name in (*vouched, MANIFEST)}
    return taken, sorted(sums.keys() - taken.keys())


def _head(found: Mapping[str, Path]) -> list[str]:
    return found["README.md"].read_text("utf-8", "replace").splitlines()[:12] if "README.md" in found else []
