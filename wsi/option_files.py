"""Options out of files: a table of TOML as values of a verb's options, each held to what the verb itself would say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi.errors import RequestError
from wsi.options import specs


def table_values(options: type, table: Mapping[str, Any], folder: Path, verb: str, where: str) -> dict[str, Any]:
    """Return a table's values by field of a class of options; relative paths in it start at ``folder``.

    Parameters
    ----------
    options
        The class.
    table
        Keys as `gigamil config` prints them, or as the command line has them.
    folder
        Of the file that the table stands in.
    verb
        What the options are of, for messages.
    where
        What a message begins with: the file, and the table in it.

    Raises
    ------
    RequestError
        No such option, or a value does not fit.
    """
    known = {spec.field: spec for spec in specs(options)} | {spec.key: spec for spec in specs(options)}
    values = {}
    for key, value in table.items():
        spec = known.get(key.replace("-", "_"))
        if spec is None:
            new = renamed(options).get(f"--{key.replace('_', '-')}")
            told = f" is now {new[2:].replace('-', '_')}" if new else f" is no option of {verb}"
            raise RequestError(
                f"{where}: {key}{told}{'' if new else nearest(key, [own.key for own in specs(options)])}"
            )
        try:
            values[spec.field] = spec.read(placed(value, folder) if "Path" in str(spec.kind) else value)
        except RequestError as error:
            raise RequestError(f"{where}: {error}") from None
    return values


def placed(value: Any, folder: Path) -> Any:
    """Return a path of a file's table, or a list of them, as seen from its folder; URLs stay as they are."""
    if isinstance(value, list):
        return [placed(own, folder) for own in value]
    return str(folder / value) if isinstance(value, str) and "://" not in value else value


def renamed(options: type) -> dict[str, str]:
    """Return the names that options had, and those of today, with their dashes."""
    return {old: f"--{spec.name}" for spec in specs(options) for old in spec.mark.formerly}


def nearest(name: str, known: Sequence[str]) -> str:
    """Return a question after the name that is most like another, or nothing."""
    import difflib

    alike = difflib.get_close_matches(name, known, 1)
    return f": did you mean {alike[0]}?" if alike else ""
