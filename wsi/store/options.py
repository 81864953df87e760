"""What verifying tile stores can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi.errors import RequestError
from wsi.options import at_least, check


@dataclass(frozen=True, kw_only=True)
class Thoroughness:
    """How thoroughly."""

    quick: bool = False
    """Of stores, check the shards' indexes only, without decoding every chunk."""
    threads: Annotated[int | None, at_least(1)] = None
    """Shards checked at once; otherwise one per usable CPU."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Thoroughness):
    """Options of `wsi.store.verify.verify`."""

    stores: tuple[str | Path, ...]
    """Stores, or folders that hold them; URLs too."""

    def __post_init__(self) -> None:
        check(self)
        if not self.stores:
            raise RequestError("give at least one tile store, or a folder of them")
