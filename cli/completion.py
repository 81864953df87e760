"""Completion of verbs, options and choices in bash, zsh and fish, by click's own programs."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from wsi.errors import RequestError
from wsi.files.atomic import write_text

SHELLS = ("bash", "zsh", "fish")
_NAME, _VARIABLE = "gigamil", "_GIGAMIL_COMPLETE"


def source(app: click.Command, shell: str) -> str:
    """Return the program that lets a shell complete."""
    known = get_completion_class(shell) if shell in SHELLS else None
    if known is None:
        raise RequestError(f"completion for {shell}: expected one of {', '.join(SHELLS)}")
    return known(app, {}, _NAME, _VARIABLE).source()


def install(app: click.Command, shell: str) -> str:
    """Write the program, let the shell read it when it starts, and return what was done."""
    program, home = source(app, shell), Path.home()
    if shell == "fish":
        file = Path(os.environ.get("XDG_CONFIG_HOME", home / ".config")) / "fish" / "completions" / f"{_NAME}.fish"
    else:
        file = Path(os.environ.get("XDG_DATA_HOME", home / ".local" / "share")) / _NAME / f"completion.{shell}"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, program)
    if shell == "fish":
        return f"{file} is written: fish completes from its next start"
    start, line = home / f".{shell}rc", f'. "{file}"'
    told = start.read_text("utf-8") if start.exists() else ""
    if line not in told.splitlines():
        with start.open("a", encoding="utf-8") as lines:
            lines.write(f"{'' if not told or told.endswith(chr(10)) else chr(10)}{line}\n")
    return f"{file} is written, and {start} reads it: {shell} completes from its next start"
