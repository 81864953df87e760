"""One line of the doctor: what was looked at, what was found, how good that is, what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    found: str
    advice: str = ""
    """What to do; empty where all is well."""


def judged(check: str, found: str, *, wrong: bool = False, warning: bool = False, advice: str = "") -> Finding:
    """Return a finding; the advice is kept only where something is to be done."""
    level: Level = "wrong" if wrong else "warning" if warning else "ok"
    return Finding(check, level, found, advice if level != "ok" else "")


Check = Callable[[], Iterator[Finding]]


def findings_of(name: str, check: Check) -> Iterator[Finding]:
    """Give what a check finds; that it could not be carried out is a finding, too."""
    try:
        yield from check()
    except Exception as error:  # whatever is broken enough to break the check
        told = (str(error).splitlines() or [""])[0][:300]
        yield Finding(name, "wrong", f"could not be tried: {type(error).__name__}: {told}", "see to that first")
