"""The scratch folder: where what comes from URLs, and what goes there, lies on this machine meanwhile.

Each command has a folder of its own in it, named by what it makes: a command that was killed finds its things again.
Below that everything lies as it lies behind its URL, so that relative names between inputs and outputs hold.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from wsi.errors import ClaimedError, GigamilError, RequestError
from wsi.files.claim import claim
from wsi.files.replace import PARTIAL, discard
from wsi.progress.outcome import Outcome

SCRATCH = "GIGAMIL_SCRATCH"
"""Environment variable: the folder; otherwise one of this user's beside the system's temporary files."""
ITEMS = "GIGAMIL_SCRATCH_ITEMS"
"""Environment variable: slides that may lie in scratch at once."""
_ITEMS = 3
_MOST_AT_ONCE = 64
"""Of one command's copies on one machine that share no output."""


def scratch_folder() -> Path:
    """Return the scratch folder, absolute; it may not be there yet."""
    told = os.environ.get(SCRATCH)
    return Path(told).absolute() if told else Path(tempfile.gettempdir()) / f"gigamil-scratch-{os.getuid()}"


def scratch_items() -> int:
    """Return how many slides may lie in scratch at once."""
    try:
        return max(1, int(os.environ.get(ITEMS, "")))
    except ValueError:
        return _ITEMS


@dataclass(slots=True)
class Scratch:
    """One command's scratch folder."""

    root: Path
    keep: bool = False
    """Whether something in it may be taken up by the next run."""

    def path(self, url: str) -> Path:
        """Return where what lies behind a URL lies here."""
        parts = urlsplit(url)
        host = re.sub(r"[^\w.-]", "_", parts.netloc.rpartition("@")[2])
        return self.root / parts.scheme / (host or "_") / _safe(parts.path)

    def told(self, text: str) -> str:
        """Return a text with URLs where it names what lies here."""
        return re.sub(re.escape(f"{self.root}/") + r"([a-z][a-z0-9+.-]+)/", r"\1://", text)

    def told_of(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Return outcomes whose ids and reasons name URLs."""
        return [replace(own, item_id=self.told(own.item_id), reason=self.told(own.reason)) for own in outcomes]

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Let errors of ours that the block raises name URLs."""
        try:
            yield
        except GigamilError as error:
            if (text := self.told(str(error))) == str(error):
                raise
            raise type(error)(text) from None

    def discard(self) -> None:
        """Remove everything."""
        discard(self.root)


def _safe(path: str) -> Path:
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise RequestError(f"{path}: expected a URL without ..")
    return Path(*parts)


@contextmanager
def scratch_of(*told: object) -> Iterator[Scratch]:
    """Give the scratch folder of a command, which nobody else on this machine uses meanwhile.

    It is removed at the end, but where the command was stopped, or an item failed that may be taken up again.
    """
    name = hashlib.sha256(json.dumps([str(own) for own in told]).encode()).hexdigest()[:16]
    folder = scratch_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--scratch {folder}: the folder cannot be made: {error.strerror}") from None
    with ExitStack() as held:
        scratch = _claimed(folder, name, held)
        try:
            yield scratch
        except RequestError:
            scratch.discard()
            raise
        if not scratch.keep:
            scratch.discard()


def _claimed(folder: Path, name: str, held: ExitStack) -> Scratch:
    """Claim the first folder of that name that no other process of this machine uses."""
    for number in range(_MOST_AT_ONCE):
        root = folder / f"{name}{f'-{number}' if number else ''}{PARTIAL}"
        with suppress(ClaimedError):
            held.enter_context(claim(root))
            return Scratch(root)
    raise ClaimedError(f"{folder}: {_MOST_AT_ONCE} processes of this machine do the same there: wait for them")
