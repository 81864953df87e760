"""`gigamil push`: a run, bags or weights to a repository of the Hugging Face hub.

What goes is an allow-list (`mil.hub.contents`), checked before the first byte: the licences of the encoders, that no
file tells an id of the run's patients and slides, and that hashes of patients' ids go only where that was said. It goes
up in commits of a few files; a push that broke off goes on with what is missing or differs. The manifest with every
file's sha256 comes last: without it `gigamil pull` takes nothing for whole.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mil.hub.address import FORMAT, MANIFEST, Address, address_of, endpoint, refusals
from mil.hub.contents import Contents, contents_of
from mil.hub.licences import checked
from mil.hub.options import PushOptions
from wsi.errors import RequestError
from wsi.files.regular import file_sha256
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary

CARD = "README.md"
MOST_FILES = 50
MOST_BYTES = 256 << 20
"""Of one commit."""


@dataclass(frozen=True, slots=True)
class _File:
    """One file to be there."""

    name: str
    content: Path | bytes
    size: int
    sha256: str

    @property
    def git_sha1(self) -> str:
        """Return the hash by which git knows it."""
        data = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@stage
def push(options: PushOptions, progress: Progress | None = None) -> Summary:
    """Put a run, bags or weights on the hub; files that are there already are SKIPPED.

    Raises
    ------
    RequestError
        It may not be shared, or names patients, or the hub refuses.
    RemoteError
        The connection failed: given again, the push goes on.
    """
    start, progress = time.perf_counter(), progress or Silent()
    address, contents = address_of(options.to), contents_of(options)
    licence = checked(contents.kind, contents.sources, options.licence, options.permission)
    _check_lineage(contents, options)
    _check_names(contents)
    files = _files(contents, licence, options)
    with refusals(address, "the push"):
        outcomes = _sent(address, files, options, progress)
    return Summary("push", outcomes, time.perf_counter() - start)


def _check_lineage(contents: Contents, options: PushOptions) -> None:
    if contents.lineages and not options.keep_lineage:
        raise RequestError(
            f"{options.item}: it carries the sha256 of the ids of patients that an encoder was trained on, by which "
            "who holds a list of candidates can tell who was among them: say --keep-lineage where that may be known"
        )


def _check_names(contents: Contents) -> None:
    """Refuse files that hold an id of the patients or slides behind them, by the search of `gigamil verify --phi`."""
    if contents.names is None:
        return
    if not contents.names.is_file():
        raise RequestError(f"{contents.names}: expected the run's table of patients, to look for their ids; found none")
    from wsi.sharing.options import PhiOptions
    from wsi.sharing.phi.needles import needles_of, values_of_table
    from wsi.sharing.phi.search import verify_phi

    if not needles_of(values_of_table(contents.names)).found:
        return  # ids so short that they would be found anywhere
    with tempfile.TemporaryDirectory(prefix="gigamil-push-") as folder:
        for name, content in {**contents.files, "card.md": contents.card.encode()}.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        found = verify_phi(PhiOptions(folders=(Path(folder),), against=contents.names)).ended(Status.FAILED)
    if found:
        where = found[0].item_id.partition("/")[2]
        raise RequestError(f"{where} would tell whose slides these are ({found[0].reason}): nothing was sent")


def _files(contents: Contents, licence: str, options: PushOptions) -> list[_File]:
    """Return all files, card and manifest last."""
    found = [_file(name, content) for name, content in sorted(contents.files.items())]
    found.append(_file(CARD, _card(contents, licence, options).encode()))
    sums = {own.name: own.sha256 for own in found}
    about = {"format": FORMAT, "kind": contents.kind, "licence": licence, **contents.about, "sha256": sums}
    return [*found, _file(MANIFEST, (json.dumps(about, indent=1) + "\n").encode())]


def _file(name: str, content: Path | bytes) -> _File:
    if isinstance(content, bytes):
        return _File(name, content, len(content), hashlib.sha256(content).hexdigest())
    return _File(name, content, content.stat().st_size, file_sha256(content))


def _card(contents: Contents, licence: str, options: PushOptions) -> str:
    """Return the card with the head that the hub reads: a run's own, with the licence."""
    from huggingface_hub import ModelCard, ModelCardData

    known: dict[str, Any] = {}
    text = contents.card
    if text.startswith("---\n"):
        card = ModelCard(text)
        known, text = vars(card.data), card.text
    tags = [*(known.get("tags") or ()), "histopathology", "whole-slide-imaging", f"gigamil-{contents.kind}"]
    ours = {"license": licence, "library_name": "gigamil", "tags": list(dict.fromkeys(tags))}
    head = [
        "---",
        ModelCardData(**ours | {name: own for name, own in known.items() if name not in ours}).to_yaml(),
        "---",
    ]
    made = [f"- {own.name}: {own.licence or 'licence not told'}" for own in contents.sources]
    lines = ["", text.strip(), "", "## Encoders and their licences", "", *(made or ["- none told"])]
    if options.permission:
        lines += ["", f"Shared with permission: {' '.join(options.permission.split())}"]
    return "\n".join([*head, *lines, "", f"`gigamil pull {options.to} --out FOLDER` checks every file.", ""])


def _sent(address: Address, files: list[_File], options: PushOptions, progress: Progress) -> list[Outcome]:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint())
    api.create_repo(address.repo, private=options.private or None, exist_ok=True)
    there = _there(api, address)
    left = [own for own in files if not _same(own, there.get(address.of(own.name)))]
    progress.begin("push", sum(own.size for own in left), "B")
    for batch in _batches(left):
        told = f"{batch[0].name}" + (f" and {len(batch) - 1} more" if len(batch) > 1 else "")
        operations = [CommitOperationAdd(address.of(own.name), _content(own)) for own in batch]
        api.create_commit(address.repo, operations, commit_message=f"gigamil push: {told}")
        progress.advance(sum(own.size for own in batch))
    progress.end()
    sent = {own.name for own in left}
    statuses = {True: Status.DONE, False: Status.SKIPPED}
    return [Outcome(own.name, statuses[own.name in sent], facts={"bytes": own.size}) for own in files]


def _content(file: _File) -> str | bytes:
    return file.content if isinstance(file.content, bytes) else str(file.content)


def _there(api: Any, address: Address) -> Mapping[str, Any]:
    """Return what the repository holds below the folder, by path."""
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    try:
        found = api.list_repo_tree(address.repo, path_in_repo=address.folder or None, recursive=True)
        return {own.path: own for own in found if hasattr(own, "blob_id")}
    except (EntryNotFoundError, RevisionNotFoundError):
        return {}


def _same(file: _File, there: Any) -> bool:
    if there is None or there.size != file.size:
        return False
    return bool(there.lfs.sha256 == file.sha256 if there.lfs else there.blob_id == file.git_sha1)


def _batches(files: list[_File]) -> Iterator[list[_File]]:
    """Yield files a few at a time; the manifest, which is last, by itself."""
    batch: list[_File] = []
    for file in files:
        full = len(batch) >= MOST_FILES or sum(own.size for own in batch) + file.size > MOST_BYTES
        if batch and (full or file.name == MANIFEST):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch
