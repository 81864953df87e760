"""The features of a GeoJSON, one at a time: what is held of a large file is its text and one feature's values."""

import json
import re
from collections.abc import Generator, Iterator
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
COLLECTION = "FeatureCollection"


def features(text: str) -> Iterator[tuple[str, Any]]:
    """Yield each feature's text and value: of a FeatureCollection, an array, or the one object that the text is.

    Raises
    ------
    ValueError
        The text is not JSON, or a collection by another name; its line and column are told.
    RecursionError
        It is nested too deeply.
    """
    at = _skip(text, 0)
    end = yield from _elements(text, at) if text[at : at + 1] == "[" else _collection(text, at)
    if _skip(text, end) != len(text):
        raise json.JSONDecodeError("Extra data", text, _skip(text, end))


def _collection(text: str, start: int) -> Generator[tuple[str, Any], None, int]:
    """Yield the members of ``features``; of an object without them the object itself. Return where it ends."""
    object_: dict[str, Any] = {}
    at, several = _after(text, start, "{"), False
    while text[at : at + 1] != "}":
        if object_ or several:
            at = _after(text, at, ",")
        name, end = _DECODER.raw_decode(text, at)
        if not isinstance(name, str):
            raise json.JSONDecodeError("Expecting a member's name", text, at)
        at = _after(text, _skip(text, end), ":")
        if name == "features" and text[at : at + 1] == "[":
            several = True
            at = yield from _elements(text, at)
        else:
            object_[name], at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
    if several and object_.get("type") != COLLECTION:
        raise ValueError(f"expected the type {COLLECTION}, found {object_.get('type')!r}")
    if object_.get("type") != COLLECTION:
        yield text[start : at + 1], object_
    return at + 1


def _elements(text: str, start: int) -> Generator[tuple[str, Any], None, int]:
    """Yield the values of the array that begins at ``start``; return where it ends."""
    at = _after(text, start, "[")
    if text[at : at + 1] == "]":
        return at + 1
    while True:
        value, end = _DECODER.raw_decode(text, at)
        yield text[at:end], value
        at = _skip(text, end)
        if text[at : at + 1] == "]":
            return at + 1
        at = _after(text, at, ",")


def _after(text: str, at: int, character: str) -> int:
    """Return where the next value begins behind a character that must stand at ``at``."""
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(f"Expecting {character!r}", text, at)
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
