"""Pages that stand alone: a template of this package, filled, with the one style that all of them have."""

from importlib import resources
from string import Template


def fill(template: str, **parts: str) -> str:
    """Return the template with its parts, ready HTML; the page needs no other file and no network."""
    files = resources.files("mil.report")
    style = files.joinpath("page_style.css").read_text("utf-8")
    return Template(files.joinpath(template).read_text("utf-8")).substitute(style=style, **parts)
