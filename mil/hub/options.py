"""What pushing and pulling can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi.errors import RequestError
from wsi.option_groups import Overwriting
from wsi.options import Option, check


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Options of `mil.hub.push.push`."""

    item: Annotated[Path, Option(argument="RUN|BAGS|WEIGHTS")]
    """A finished run, a folder of bags in a bundle of `gigamil share`, or a file of weights (.safetensors)."""
    to: Annotated[str, Option(argument="hf://OWNER/NAME[/PATH]")]
    """hf://OWNER/NAME, or hf://OWNER/NAME/PATH: the repository, made where it is missing, and a folder in it."""
    licence: str = ""
    """Under which it is shared, as the hub names it (mit, cc-by-4.0); needed for weights of unknown origin."""
    permission: str = ""
    """Who allowed it, where an encoder's licence does not: it is written into the card. Never of weights themselves."""
    keep_lineage: bool = False
    """Let the sha256 of patients' ids go up, which weights that were trained here carry, and bags made with them."""
    public_ids: bool = False
    """The slides' ids are public or pseudonyms already: bags need no bundle of `gigamil share`."""
    private: bool = False
    """Make a missing repository a private one."""

    def __post_init__(self) -> None:
        check(self)
        from mil.hub.address import address_of

        address_of(self.to)


@dataclass(frozen=True, kw_only=True)
class PullOptions(Overwriting):
    """Options of `mil.hub.pull.pull`."""

    source: Annotated[str, Option(argument="hf://OWNER/NAME[/PATH]")]
    """What `gigamil push` made, or any repository of the hub, or a folder in it."""
    out: Annotated[Path, Option(short="-o")]
    """Folder to make."""

    def __post_init__(self) -> None:
        check(self)
        from mil.hub.address import address_of

        if self.out == Path():
            raise RequestError("--out: expected the name of a folder")
        address_of(self.source)
