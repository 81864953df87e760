"""Pages that stand alone: jinja2 templates of this tree in one environment, which escapes whatever they are given.

A page extends ``wsi/page.html`` with its style, ``wsi/page.css``, and needs no other file and no network.
"""

import base64
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def fill(template: str, **values: object) -> str:
    """Return the page of a template, named from the tree's root (``wsi/qc/qc.html``), with values.

    Texts are escaped unless they are `markupsafe.Markup`; a value that the template names and does not get is an error.
    """
    return _environment().get_template(template).render(values)


def data_uri(data: bytes, kind: str = "jpeg") -> str:
    """Return a picture as a ``src`` that needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def natural(text: str) -> list[tuple[bool, int, str]]:
    """Return the key by which texts stand as people count: ``2`` before ``10``, ``a9`` before ``a10``."""
    parts = (part for part in re.split(r"(\d+)", text) if part)
    return [
        (False, len(own), own) if (own := part.lstrip("0")).isdecimal() or not own else (True, 0, part.casefold())
        for part in parts
    ]


def number(value: float | None, form: str = ".3f") -> str:
    """Return the number in a form of `format`, or a dash where it is not defined; templates call it as a filter."""
    return "\N{EN DASH}" if value is None else format(value, form)


_OF_ONE = {"were": "was", "are": "is", "have": "has"}


def plural(count: int, name: str, more: str = "", verb: str = "") -> str:
    """Return a number with what is counted: ``1 slide``, ``2 slides``; then ``more``, and a verb that agrees with it.

    ``verb``: were, are or have: ``plural(1, "slide", "without a bag", "were")`` is ``1 slide without a bag was``.
    """
    parts = (f"{count:,} {name}{'' if count == 1 else 's'}", more, verb and agreeing(count, verb))
    return " ".join(filter(None, parts))


def agreeing(count: int, verb: str) -> str:
    """Return were, are or have as it agrees with a number of things: ``1 of 3 slides`` is, ``2 of 3 slides`` are."""
    return _OF_ONE[verb] if count == 1 else verb


@cache
def _environment() -> "Environment":
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"number": number, "plural": plural, "agreeing": agreeing}
    return made


def _source(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return resources.files(folder.replace("/", ".")).joinpath(file).read_text("utf-8")
