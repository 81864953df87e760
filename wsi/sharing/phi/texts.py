"""A text that stands somewhere in a file, and how bytes become one."""

from collections.abc import Iterator
from dataclasses import dataclass

MOST_UNPACKED = 256 << 20
"""Bytes of one packed file that are looked at."""
PRINTABLE = bytes(range(0x20, 0x7F)) + b"\t\n\r\f"
_LATIN = bytes(range(0xA0, 0x100))
_CONTROLS = 0.02
"""Share of bytes that stand in no text, up to which a file is one."""


@dataclass(frozen=True, slots=True)
class Place:
    """A text inside a file."""

    where: str
    """For a person: ``tag ImageDescription of page 1``."""
    text: str
    json: bool = False
    """It is JSON, or a script of values."""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something whose being there is the finding: a picture of a label, a field that holds a date."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What was packed inside a file and is no text."""

    where: str
    data: bytes


Found = Iterator[Place | Remark | Unpacked]


def as_text(data: bytes) -> str | None:
    """Return a file's text where it is one: UTF-8, UTF-16 with its mark, or mostly printable Latin."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:4096]:
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        head = data[:65536]
        foreign = head.translate(None, PRINTABLE)
        controls = len(foreign.translate(None, _LATIN))
        return data.decode("latin-1") if controls <= _CONTROLS * len(head) and 2 * len(foreign) < len(head) else None


def binary_text(data: bytes) -> str:
    """Return what can be read in a piece of metadata, as Latin, UTF-8 and UTF-16 of either byte."""
    texts = [data.decode("latin-1")]
    if not data.isascii():
        texts.append(data.decode("utf-8", "ignore"))
    if b"\0" in data:
        for start in (0, 1):
            texts += [data[start:].decode(form, "ignore") for form in ("utf-16-le", "utf-16-be")]
    return "\n".join(texts)
