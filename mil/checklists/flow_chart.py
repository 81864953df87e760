"""The flow of patients as a picture: boxes down a line, those who leave beside it; STARD-AI and TRIPOD+AI ask for it.

STARD-AI: Sounderajah et al., Nature Medicine 2025. Narrow, so that it can be read on a phone.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from mil.checklists.known import Known
from mil.data.flow import LeftOut
from wsi.pages import plural

WIDTH, TRUNK_X, SIDE_X = 380, 24, 48
LINE, PAD, GAP = 20, 9, 20
_CHARS, _SIDE_CHARS = 47, 42


@dataclass(frozen=True, slots=True)
class Box:
    """A box, in pixels of the picture."""

    y: int
    head: str
    """Set in bold."""
    lines: tuple[str, ...]
    side: bool
    """Whether it holds who leaves."""

    @property
    def x(self) -> int:
        """Its left end."""
        return SIDE_X if self.side else 0

    @property
    def width(self) -> int:
        """Return how wide it is."""
        return WIDTH - self.x

    @property
    def height(self) -> int:
        """Return how high it is."""
        return LINE * (len(self.lines) + 1) + 2 * PAD

    def baseline(self, line: int) -> int:
        """Return where a line of text stands; 0 is the head."""
        return self.y + PAD + LINE * line + 15


@dataclass(frozen=True)
class FlowChart:
    """The picture."""

    boxes: tuple[Box, ...]
    width = WIDTH
    trunk = TRUNK_X

    def above(self, number: int) -> int:
        """Return where the line to a box begins: below the last box that stands on it."""
        own = next(box for box in reversed(self.boxes[:number]) if not box.side)
        return own.y + own.height

    @property
    def height(self) -> int:
        """Return how high it is."""
        last = self.boxes[-1]
        return last.y + last.height + 1

    @property
    def told(self) -> str:
        """Return what it shows, for who does not see it."""
        return ". ".join(": ".join(filter(None, (box.head, " ".join(box.lines)))) for box in self.boxes) + "."


def flow_chart(known: Known) -> FlowChart:
    """Return the picture of who took part, and who did not and why."""
    boxes: list[Box] = []

    def add(head: str, lines: Sequence[str] = (), *, side: bool = False) -> None:
        y = boxes[-1].y + boxes[-1].height + GAP if boxes else 1
        wide = _SIDE_CHARS if side else _CHARS
        wrapped = [part for line in lines for part in textwrap.wrap(line, wide, subsequent_indent="  " * side)]
        boxes.append(Box(y, head, tuple(wrapped), side))

    evidence, flow = known.evidence, known.flow
    if flow is not None:
        add("In the table", [_both(flow.patients, flow.slides)])
        if flow.left_out:
            gone = _both(sum(own.patients for own in flow.left_out), sum(own.slides for own in flow.left_out))
            add(f"Left out: {gone}", [_why(own) for own in flow.left_out], side=True)
        add("In the cohort", [_both(flow.patients_left, flow.slides_left)])
        if flow.unjudged:
            add("Nothing to look at", [*map(_why, flow.unjudged), _what_of_them(known)], side=True)
    else:
        add(
            "In the cohort",
            [f"{plural(evidence.metrics['patients'], known.unit)}, {plural(evidence.metrics['slides'], 'slide')}"],
        )
    counted = evidence.truth.of(evidence.scored_P).carriers()
    told = ", ".join(f"{name}\N{NO-BREAK SPACE}{count}" for name, count in counted.items() if name != "in all")
    add(f"Counted in the results: {plural(evidence.scored, known.unit)}", [told] if told else [])
    return FlowChart(tuple(boxes))


def _both(patients: int, slides: int) -> str:
    return f"{plural(patients, 'patient')}, {plural(slides, 'slide')}"


def _why(own: LeftOut) -> str:
    gone = f" ({plural(own.patients, 'patient')} with no other)" if own.patients else ""
    return f"{plural(own.slides, 'slide')}: {own.why}{gone}"


def _what_of_them(known: Known) -> str:
    nobody = known.evidence.truth.words.nobody
    who = f"{known.unit}s without another slide" if known.unit == "patient" else "such slides"
    counted = "and count" if known.evidence.truth.counts_unjudged else "and do not count"
    return f"{who} are told {nobody}, {counted}"
