"""What readers say of slides: kept in a file that only grows, a line of JSON each; the last of a reader's counts.

A judgement is on the disk before it is confirmed. A line that a crash cut short is left out, and said so; the next one
begins on a line of its own.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

from wsi.errors import RequestError
from wsi.files.claim import claim
from wsi.files.documents import parse_json, read_document

Verdict = Literal["agree", "disagree", "unsure", "label"]
"""Of what the run says; ``label``: the reader's own label, where no run says anything to agree with."""
VERDICTS = get_args(Verdict)
NAME = "judgements.jsonl"
MOST_NOTE, MOST_READER, MOST_LABEL = 4000, 80, 200
"""Characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one reader said of one slide at one time."""

    slide: str
    """Image id."""
    patient: str | None
    reader: str
    """As typed by the reader."""
    verdict: Verdict
    """Of what the run says; where the reader had not seen it, found by comparing the reader's label with it."""
    label: str | None
    """What the reader holds to be right; None where nothing was said."""
    note: str | None
    when: str
    """ISO 8601, UTC."""
    blind: bool
    """Whether the reader judged before seeing what the run says."""
    predicted: str | None
    """The label that the run gave when it was judged; None without a run."""
    revision: int
    """1 for the reader's first judgement of this slide, 2 for the next, ..."""


def check_reader(name: object) -> str:
    """Return a reader's name without spaces around it, or raise `RequestError`."""
    text = " ".join(name.split()) if isinstance(name, str) else ""
    if not 1 <= len(text) <= MOST_READER or not text.isprintable():
        raise RequestError(f"a reader's name: expected 1 to {MOST_READER} printable characters")
    return text


def check_text(value: object, name: str, most: int) -> str | None:
    """Return an optional text without spaces around it, None where it is empty, or raise `RequestError`."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > most or "\0" in value:
        raise RequestError(f"{name}: expected a text of at most {most} characters")
    return value.strip() or None


class JudgementFile:
    """The judgements of a cohort; may be used from several threads and processes.

    Parameters
    ----------
    path
        Of the file, which need not be there; its folder must.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()

    def all(self) -> list[Judgement]:
        """Return every judgement, oldest first; lines that a crash cut short are left out.

        Raises
        ------
        RequestError
            The file is no judgements of ours.
        OSError
            The storage fails.
        """
        return self._read()[0]

    def torn(self) -> int:
        """Return how many lines were cut short."""
        return self._read()[1]

    def add(self, make: "Made") -> Judgement:
        """Append a judgement, and return it when it is on the disk.

        Raises
        ------
        ClaimedError
            Another program is writing the file.
        OSError
            The storage fails.
        """
        with self._lock, claim(self.path):
            before = [own for own in self.all() if (own.slide, own.reader) == (make.slide, make.reader)]
            added = Judgement(
                **asdict(make), when=datetime.now(UTC).isoformat(timespec="seconds"), revision=len(before) + 1
            )
            line = json.dumps({"version": 1, **asdict(added)}, ensure_ascii=False).encode() + b"\n"
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line
                if os.write(descriptor, line) != len(line):
                    raise OSError(28, "no space left for the whole judgement", str(self.path))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return added

    def _read(self) -> tuple[list[Judgement], int]:
        if not self.path.exists():
            return [], 0
        data = read_document(self.path, RequestError)
        *lines, last = data.split(b"\n")
        found, torn = [], int(bool(last))
        for number, line in enumerate(lines, start=1):
            try:
                told = parse_json(line)
            except ValueError:
                torn += bool(line)
                continue
            found.append(_judgement(told, f"{self.path}, line {number}"))
        return found, torn


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A judgement as a reader makes it; fields as in `Judgement`."""

    slide: str
    patient: str | None
    reader: str
    verdict: Verdict
    label: str | None
    note: str | None
    blind: bool
    predicted: str | None


def _judgement(told: Any, where: str) -> Judgement:
    names = [own.name for own in fields(Judgement)]
    if not isinstance(told, dict) or told.get("version") != 1 or not set(names) <= set(told):
        raise RequestError(f"{where}: expected a judgement with {', '.join(names)}: is it another program's file?")
    optional = {"patient", "label", "note", "predicted"}
    kinds: dict[str, type] = {"revision": int, "blind": bool}
    for name in names:
        value = told[name]
        fits = (value is None and name in optional) or type(value) is kinds.get(name, str)
        if not fits or (name == "verdict" and value not in VERDICTS):
            raise RequestError(f"{where}: {name} {str(value)[:60]!r} cannot be true")
    return Judgement(**{name: told[name] for name in names})


def latest(judgements: Iterable[Judgement]) -> dict[tuple[str, str], Judgement]:
    """Return the judgement that counts, by slide and reader, in the order in which they were made."""
    counts: dict[tuple[str, str], Judgement] = {}
    for own in judgements:
        counts.pop((own.slide, own.reader), None)
        counts[own.slide, own.reader] = own
    return counts


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two readers agree on the slides that both answered."""

    readers: tuple[str, str]
    n: int
    """Slides that count: both answered."""
    kappa: float | None
    """Cohen's, unweighted; None where it is not defined."""
    said: str


def agreements(judgements: Iterable[Judgement], *, blind: bool, labels: bool) -> list[Agreement]:
    """Return Cohen's kappa of every pair of readers.

    Parameters
    ----------
    judgements
        All of them; the last of each reader and slide counts.
    blind
        Only what was said before the prediction was seen counts.
    labels
        Readers give labels: a slide of which a reader is unsure, or disagrees without naming the right label, does not
        count for that reader. Else agreeing and disagreeing are compared where no label was given.
    """
    by_reader: dict[str, dict[str, str]] = {}
    for own in latest(one for one in judgements if one.blind or not blind).values():
        given = by_reader.setdefault(own.reader, {})
        answer = own.label or (None if labels else own.verdict)
        if answer is not None and own.verdict != "unsure":
            given[own.slide] = answer
    return [_agreement(one, other, by_reader) for one, other in combinations(sorted(by_reader), 2)]


def _agreement(one: str, other: str, given: Mapping[str, Mapping[str, str]]) -> Agreement:
    both = sorted(set(given[one]) & set(given[other]))
    labels = [[given[reader][slide] for slide in both] for reader in (one, other)]
    same = sum(a == b for a, b in zip(*labels, strict=True))
    if not both:
        return Agreement((one, other), 0, None, "no slide was answered by both")
    told = f"the same answer on {same} of {len(both)} slides"
    if len({*labels[0], *labels[1]}) < 2:
        return Agreement((one, other), len(both), None, f"{told}; kappa is not defined, as all answers are alike")
    return Agreement((one, other), len(both), _kappa(*labels), told)


def _kappa(one: Sequence[str], other: Sequence[str]) -> float:
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(one, other))
