"""Options that several verbs share, spelled once."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder (or file) to write; made when missing.")]
Manifest = Annotated[Path | None, typer.Option("--manifest", "-m", help="Cohort table (CSV) in the STRIP AI form.")]
Workers = Annotated[int | None, typer.Option("--workers", "-w", help="Worker processes; default: one per usable CPU.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that were made with other settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]
