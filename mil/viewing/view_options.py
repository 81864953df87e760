"""What the local server can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi.errors import RequestError
from wsi.option_groups import Claims, Reading
from wsi.options import Option, check


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Who may look."""

    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine's own want a token, which the printed URL has."""
    port: Annotated[int, Option(least=0, most=65535)] = 0
    """Port to listen on; 0: one that is free."""
    token: bool = False
    """Ask for a token on this machine, too: other people who work on it could look otherwise."""
    cors: Annotated[tuple[str, ...], Option(expected="an origin such as https://example.org, or *")] = ()
    """Origin whose pages may read the stores' files (neuroglancer, vizarr); * for all."""
    open: bool = False
    """Open the browser."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions(Serving, Reading, Claims):
    """Options of `mil.viewing.view.view`."""

    items: Annotated[tuple[str, ...], Option(argument="ITEMS...")]
    """Tile stores, slides, or folders of them; a run with its stores and bags; a table of `gigamil similar`; a folder
    that holds such folders. Stores may lie behind s3:// or http://."""
    annotations: Path | None = None
    """Folder for what is drawn and judged; otherwise beside each store or slide, and in the run's folder."""
    blind: bool = False
    """Show what the run says of a patient only when the reader has judged all slides of the patient."""
    export_judgements: Path | None = None
    """Write the judgements as a table that `gigamil train -m` takes, and end; nothing is served."""

    def __post_init__(self) -> None:
        check(self)
        if not self.items:
            raise RequestError("expected tile stores, slides, a run, or folders of them, found none")
        if self.export_judgements and self.export_judgements.suffix != ".csv":
            raise RequestError(f"--export-judgements {self.export_judgements}: expected a name that ends in .csv")
        odd = next((own for own in self.cors if own != "*" and not own.startswith(("http://", "https://"))), None)
        if odd is not None or any(own.rstrip("/").count("/") > 2 for own in self.cors):
            raise RequestError(f"--cors {odd or self.cors[0]}: expected an origin such as https://example.org, or *")
