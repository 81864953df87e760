"""How one value may be spelt: case, accents, separators, the order of a name's parts, forms of a date, leading zeros.

Texts and values are compared as `squeezed` leaves them: without case and accents, a single space for whatever parts
words. How sure a hit must be depends on what a value is made of (`Edge`): digits alone must stand for themselves, what
could be part of a hash must not lie in hexadecimal digits, short words must be whole words.
"""

import re
import unicodedata
from collections.abc import Iterator
from datetime import date
from enum import Enum
from itertools import permutations

_PARTING = re.compile(r"[^0-9a-z]+")
_UUID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])")
_FRACTION = re.compile(r"(?<![\d.])(\d+)\.\d+(?:e[+-]?\d+)?(?![\d.])")
_DECIMAL = re.compile(r"[+-]?\d*[.,]\d+(?:e[+-]?\d+)?", re.IGNORECASE)
_ISO = re.compile(r"(\d{4})[-/.: ]?(\d{2})[-/.: ]?(\d{2})(?:[T ].*|\d{6}.*)?")
_OTHER = re.compile(r"(\d{1,2})[-/. ](\d{1,2})[-/. ](\d{4}|\d{2})(?:[T ,].*)?")
_WORDED = re.compile(r"(\d{1,2})[-/. ]+([a-z]{3})[a-z]*[-/., ]+(\d{4}|\d{2})(?:[T ,].*)?", re.IGNORECASE)
_MONTHS = "january february march april may june july august september october november december".split()  # noqa: SIM905
_UMLAUTS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "å": "aa", "ø": "oe", "æ": "ae"}
)
_MOST_PARTS = 4
"""Parts of a name whose orders are all tried."""
_SHORT, _LONG = 4, 6
"""Characters below which a value is short, and from which it is found inside longer words."""


class Edge(Enum):
    """What may not stand beside a hit."""

    FREE = ""
    DIGIT = "0-9"
    HEX = "0-9a-f"
    WORD = "0-9a-z"
    BEFORE = "before"
    """Digits may follow: a time behind a date."""


def squeezed(text: str) -> str:
    """Return a text as it is compared; a UUID is one word, and decimals of a number are taken out: nobody's id."""
    if not text.isascii():
        plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
        text = "".join(c for c in plain if not unicodedata.combining(c))
    joined = _UUID.sub(lambda found: found[0].replace("-", ""), text.lower())
    return _PARTING.sub(" ", _FRACTION.sub(r"\1 ", joined))


def is_decimal(value: str) -> bool:
    """Tell whether a value is a number with decimals, which is no id."""
    return bool(_DECIMAL.fullmatch(value.strip()))


def spellings(value: str, *, name: bool = False) -> dict[str, Edge]:
    """Return the squeezed spellings of a value, and what may not stand beside each; none where it is too short.

    Parameters
    ----------
    value
        An id, name, date, path or free text.
    name
        It names a person: each part of it counts by itself, too.
    """
    found = dict.fromkeys(_dates(value), Edge.BEFORE)
    if found or is_decimal(value):
        return found
    wholes = dict.fromkeys((squeezed(value).strip(), squeezed(value.translate(_UMLAUTS)).strip()))
    return {text: edge for whole in wholes if whole for text, edge in _of_whole(whole, name).items()}


def _of_whole(whole: str, name: bool) -> dict[str, Edge]:
    """Return the spellings of a squeezed value that is no date."""
    parts = whole.split()
    texts = {whole, "".join(parts)} if len(parts) > 1 else {whole}
    if 1 < len(parts) <= _MOST_PARTS and not whole.replace(" ", "").isdigit():
        texts |= {joint.join(own) for own in permutations(parts) for joint in (" ", "")} if name else set()
    if name:
        texts |= {part for part in parts if len(part) >= _SHORT and part.isalpha()}
    if whole.isdigit() and len(whole.lstrip("0")) > _SHORT:
        texts.add(whole.lstrip("0"))  # as spreadsheets write it
    return {text: edge for text in texts if (edge := _edge(text)) is not None}


def _edge(text: str) -> Edge | None:
    """Return what may not stand beside a spelling; None where it cannot be told from anything else."""
    plain = text.replace(" ", "")
    if plain.isdigit():
        return None if len(plain) < _SHORT else Edge.DIGIT
    if len(plain) < 2:
        return None
    if len(plain) < _LONG:
        return Edge.WORD
    return Edge.HEX if re.fullmatch("[0-9a-f]+", plain) else Edge.FREE


def _dates(value: str) -> Iterator[str]:
    """Yield the squeezed spellings of a date; nothing where the value is none."""
    for day in set(_days(value.strip())):
        y, m, d = f"{day.year:04}", f"{day.month:02}", f"{day.day:02}"
        month = _MONTHS[day.month - 1]
        for order in ((y, m, d), (d, m, y), (m, d, y)):
            yield " ".join(order)
            yield "".join(order)
            yield " ".join(own.lstrip("0") for own in order)
        for word in (month, month[:3]):
            yield from (f"{day.day} {word} {y}", f"{d} {word} {y}", f"{word} {day.day} {y}", f"{word} {d} {y}")
            yield from (f"{d}{word}{y}", f"{d} {word} {y[2:]}")


def short_dates(value: str) -> set[str]:
    """Return the spellings of a date with two digits for the year; they count only as they stand here."""
    found = set()
    for day in _days(value.strip()):
        y, m, d = f"{day.year % 100:02}", f"{day.month:02}", f"{day.day:02}"
        for between in "/.-":
            found |= {between.join(order) for order in ((d, m, y), (m, d, y), (y, m, d))}
            found |= {
                between.join((own.lstrip("0") or "0") for own in order[:2]) + between + y for order in ((d, m), (m, d))
            }
    return found


def is_date(value: str) -> bool:
    """Tell whether a value is a date, with or without a time behind it."""
    return bool(list(_days(value.strip())))


def _days(value: str) -> Iterator[date]:
    """Yield the days that a date can mean: 03/04/2021 means two."""
    if match := _ISO.fullmatch(value):
        yield from _day(match[1], match[2], match[3])
    elif match := _WORDED.fullmatch(value):
        names = [name[:3] for name in _MONTHS]
        if match[2].lower() in names:
            yield from _day(match[3], str(names.index(match[2].lower()) + 1), match[1])
    elif match := _OTHER.fullmatch(value):
        yield from _day(match[3], match[2], match[1])
        yield from _day(match[3], match[1], match[2])
        if len(match[3]) == 2:
            yield from _day(match[1], match[2], match[3])


def _day(year: str, month: str, day: str) -> Iterator[date]:
    whole = int(year) + (0 if len(year) == 4 else 1900 if int(year) > 50 else 2000)
    try:
        found = date(whole, int(month), int(day))
    except ValueError:
        return
    if 1880 <= found.year <= 2100:
        yield found
