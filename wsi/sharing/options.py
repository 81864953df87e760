"""What the search of a bundle can be told."""

from dataclasses import dataclass
from pathlib import Path

from wsi.errors import RequestError
from wsi.options import check


@dataclass(frozen=True, kw_only=True)
class PhiSearch:
    """Of a bundle that is to be shared."""

    phi: bool = False
    """Search names, texts and metadata of every file for what tells whose slides these are."""
    against: Path | None = None
    """Of --phi: the cohort table with the original ids, names, dates and paths."""
    slides: tuple[Path, ...] = ()
    """Of --phi: the original slides, or folders of them, whose own metadata must not be found either."""


@dataclass(frozen=True, kw_only=True)
class PhiOptions:
    """Options of `wsi.sharing.phi.search.verify_phi`."""

    folders: tuple[Path, ...]
    """Folders, or files."""
    against: Path
    """The cohort table with the original ids, names, dates and paths."""
    slides: tuple[Path, ...] = ()
    """The original slides, or folders of them."""

    def __post_init__(self) -> None:
        check(self)
        if not self.folders:
            raise RequestError("expected a folder to search, found none")
