"""Options that several verbs share, spelled once."""

import inspect
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder (or file) to write; made when missing.")]
Manifest = Annotated[Path | None, typer.Option("--manifest", "-m", help="Cohort table (CSV) in the STRIP AI form.")]
Workers = Annotated[int | None, typer.Option("--workers", "-w", help="Worker processes; default: one per usable CPU.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that were made with other settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]

NoLock = Annotated[
    bool,
    typer.Option("--no-lock", help="Do without file locks, where the disk has none: only one run may write there."),
]


def claiming(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb that claims what it writes the option `--no-lock`."""

    @wraps(verb)
    def run(*arguments: Any, no_lock: bool, **options: Any) -> None:
        if no_lock:
            from wsi.claim import NO_LOCK

            os.environ[NO_LOCK] = "1"  # for the processes that this one starts, too
        verb(*arguments, **options)

    known = inspect.signature(verb)
    option = inspect.Parameter("no_lock", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=NoLock)
    run.__signature__ = known.replace(parameters=[*known.parameters.values(), option])  # type: ignore[attr-defined]
    run.__annotations__ = verb.__annotations__ | {"no_lock": NoLock}
    return run
