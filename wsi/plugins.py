"""What other packages add by entry points: encoders, heads, slide readers. Each is imported when it is asked for."""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeGuard, TypeVar

from wsi.errors import RequestError

T = TypeVar("T")


def plugins(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=group)}


def told(point: EntryPoint) -> str:
    """Return which entry point it is, for a person."""
    return f"entry point {point.name} of {point.group} ({point.value})"


def load_plugin(point: EntryPoint, fits: Callable[[object], TypeGuard[T]], wanted: str) -> T:
    """Import what an entry point names.

    Raises
    ------
    RequestError
        Its package cannot be imported, or it is not what is ``wanted``; one line that names it.
    """
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # a foreign package may do anything while it is imported
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(f"{told(point)} cannot be loaded ({why}); repair or uninstall its package") from error
    if not fits(found):
        raise RequestError(f"{told(point)}: expected {wanted}, found {type(found).__name__}: repair it")
    return found
