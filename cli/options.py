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

Scene = Annotated[
    int | None,
    typer.Option("--scene", help="Of files with several scans: which, from 0, as `gigamil info` lists them."),
]

Columns = Annotated[
    str | None,
    typer.Option("--columns", help="The table's names of columns: image_id=slide_id,label=Diagnosis."),
]
NoLock = Annotated[
    bool,
    typer.Option("--no-lock", help="Do without file locks, where the disk has none: only one run may write there."),
]


def with_columns(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb that reads a manifest the option `--columns`."""

    def choose(columns: str | None) -> None:
        if columns:
            from cli.console import one_line_errors
            from wsi.cohort.manifest import NAMES, parse_columns

            with one_line_errors():
                parse_columns(columns)
            os.environ[NAMES] = columns  # for the processes that this one starts, too

    return _with_option(verb, "columns", Columns, None, choose)


def claiming(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb that claims what it writes the option `--no-lock`."""

    def choose(no_lock: bool) -> None:
        if no_lock:
            from wsi.files.claim import NO_LOCK

            os.environ[NO_LOCK] = "1"  # for the processes that this one starts, too

    return _with_option(verb, "no_lock", NoLock, False, choose)


def _with_option(
    verb: Callable[..., None], name: str, annotation: Any, default: Any, choose: Callable[[Any], None]
) -> Callable[..., None]:
    """Return a verb with one option more, whose value goes to ``choose`` before the verb runs."""

    @wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        choose(options.pop(name))
        verb(*arguments, **options)

    known = inspect.signature(verb)
    option = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    run.__signature__ = known.replace(parameters=[*known.parameters.values(), option])  # type: ignore[attr-defined]
    run.__annotations__ = verb.__annotations__ | {name: annotation}
    return run
