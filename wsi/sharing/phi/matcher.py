"""Finds many values in one pass over a text or over raw bytes (Aho and Corasick 1975)."""

import base64
import mmap
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

import ahocorasick

from wsi.sharing.phi.needles import Needle
from wsi.sharing.phi.spellings import Edge, squeezed

_BLOCK = 8 << 20
"""Characters looked at at once."""
_OVERLAP = 1 << 12
_SURE_BITS = 48
"""Of a spelling that is looked for in any bytes: by chance it stands nowhere."""
_BETWEEN = ("", " ", "_", "-", "^", ", ", ".", "/", "\\")
_HEX = {Edge.DIGIT: "0123456789", Edge.HEX: "0123456789abcdef"}
_HEX_RUN = re.compile("[0-9a-f]*")
_HASH = 24
"""Hexadecimal digits in a row from which they are a hash, and no id is looked for inside."""
_BLOB = re.compile(r"[A-Za-z0-9+/]{200,}={0,2}")
"""Numbers in base64: what they hold is looked at by itself."""
_MOST_PARTS = 4
_NUMBER = re.compile(r"(?<=[\[,:\s])-?\d{1,5}(?=\s*[\],}])")
"""A number of a JSON array or object, which is no id."""


class Matcher:
    """The needles, ready to be found."""

    def __init__(self, needles: Iterable[Needle]) -> None:
        self.needles = tuple(needles)
        self._texts, self._literal, self._raw = (_Automaton() for _ in range(3))
        for index, needle in enumerate(self.needles):
            for text, edge in needle.spelt:
                self._texts.add(text, index, edge)
            for text in needle.literal:
                self._literal.add(text, index, Edge.DIGIT)
            for data, edge in _as_bytes(needle):
                self._raw.add(data.decode("latin-1").lower(), index, edge)
        for automaton in (self._texts, self._literal, self._raw):
            automaton.finish()

    def in_text(self, text: str, *, json: bool = False) -> set[int]:
        """Return which needles stand in a text, by their place; numbers of ``json`` with few digits are no ids."""
        found = set[int]()
        for block in _blocks(text):
            plain = _BLOB.sub(" ", _NUMBER.sub(" ", block) if json else block)
            found |= self._texts.find(squeezed(plain))
            found |= self._literal.find(plain.lower())
        return found

    def in_bytes(self, data: bytes | mmap.mmap) -> set[int]:
        """Return which needles stand in any bytes, in UTF-8, UTF-16, UTF-32, base64, hexadecimal or as in a URL.

        Only those that are long enough not to stand there by chance.
        """
        found = set[int]()
        for start in range(0, len(data), _BLOCK):
            found |= self._raw.find(bytes(data[start : start + _BLOCK + _OVERLAP]).decode("latin-1").lower())
        return found


class _Automaton:
    """Spellings, each with who it belongs to and what may not stand beside it."""

    def __init__(self) -> None:
        self._words: dict[str, set[tuple[int, Edge]]] = {}
        self._automaton = ahocorasick.Automaton()

    def add(self, word: str, index: int, edge: Edge) -> None:
        self._words.setdefault(word, set()).add((index, edge))

    def finish(self) -> None:
        for word, owners in self._words.items():
            self._automaton.add_word(word, (len(word), owners))
        self._automaton.make_automaton()

    def find(self, text: str) -> set[int]:
        if not self._words:
            return set()
        found = set()
        for end, (length, owners) in self._automaton.iter(text):
            place = slice(end - length + 1, end + 1)
            found |= {index for index, edge in owners if index not in found and _stands(text, place, edge)}
        return found


def _stands(text: str, place: slice, edge: Edge) -> bool:
    """Tell whether what stands beside a hit lets it count."""
    if edge is Edge.FREE:
        return True
    start, stop = place.start, place.stop
    before, after = text[start - 1 : start] if start else "", text[stop : stop + 1]
    if edge is Edge.BEFORE:
        return not before.isdigit()
    if edge is Edge.WORD:
        return not before.isalnum() and not after.isalnum()
    if any(beside in _HEX[edge] for beside in (before, after) if beside):
        return False
    if before == "." and text[start - 2 : start - 1].isdigit():
        return False  # decimals
    around = _run(text[max(0, start - _HASH) : start][::-1]) + _run(text[stop : stop + _HASH])
    return not around or around + stop - start < _HASH


def _run(text: str) -> int:
    """Return how many hexadecimal digits a text begins with, of those that matter."""
    found = _HEX_RUN.match(text[:_HASH])
    return found.end() if found else 0


def _blocks(text: str) -> Iterator[str]:
    for start in range(0, max(1, len(text)), _BLOCK):
        yield text[start : start + _BLOCK + _OVERLAP]


def _as_bytes(needle: Needle) -> Iterator[tuple[bytes, Edge]]:
    """Yield the spellings that are long enough to be looked for in any bytes; the value itself also encoded."""
    texts = {needle.value, *needle.literal}
    for text, _ in needle.spelt:
        parts = text.split()
        texts |= {between.join(parts) for between in _BETWEEN} if len(parts) <= _MOST_PARTS else {text}
    for text in texts:
        if _bits(text) >= _SURE_BITS:
            yield text.encode(), Edge.DIGIT if text.isdigit() else Edge.HEX if _HEX_RUN.fullmatch(text) else Edge.FREE
    if _bits(needle.value) >= _SURE_BITS:
        yield from ((own, Edge.FREE) for own in _encoded(needle.value))


def _encoded(value: str) -> Iterator[bytes]:
    for form in ("utf-16-le", "utf-16-be", "utf-32-le"):
        yield value.encode(form).strip(b"\0")
    if not value.isascii():
        yield value.encode("latin-1", "ignore")
    if quote(value) != value:
        yield quote(value).encode()
    for spelt in {value, value.upper(), value.lower()}:
        yield from _in_base64(spelt.encode())
        yield spelt.encode().hex().encode()


def _bits(text: str) -> float:
    """Return how much a spelling tells, in bits; a letter may be small or capital."""
    return sum(7 if own.isalpha() else 8 for own in text)


def _in_base64(data: bytes) -> Iterator[bytes]:
    """Yield what is sure to stand in the base64 of a text that holds these bytes, by where they begin in it."""
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + data)
        first, last = -(-shift * 8 // 6), (shift + len(data)) * 8 // 6
        if last - first >= 8:
            yield coded[first:last]
