"""From samples and measured steps to words: where the time went, and what to do."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mil.watching.profiling.places import STARTING, WAITING, Frame, advice_for, step_of
from mil.watching.profiling.samples import frames_of

_WORKING = 0.05
"""A thread that does anything in less than this part of its samples only waits, and is left out."""
_PLACES = 5
_SMALL = 0.01
_IDLE = 0.6
"""Part of the time from which on waiting is what is to be said."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the time of a profile went."""

    shares: Mapping[str, float]
    """Step -> part of the time of the threads that work, waiting included; largest first."""
    loading: float
    """Part of all their time that went into loading programs; the shares leave it out."""
    places: tuple[tuple[float, str, str], ...]
    """Part of the work, step, function and file: those seen most."""
    threads: int
    """That did any work."""
    samples: int
    advice: str

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        places = [{"share": round(share, 4), "step": step, "place": place} for share, step, place in self.places]
        shares = {step: round(share, 4) for step, share in self.shares.items()}
        counts = {"loading": round(self.loading, 4), "threads": self.threads, "samples": self.samples}
        return {"shares": shares, "places": places, **counts, "advice": self.advice}


def judge(stacks: Mapping[str, int]) -> Verdict:
    """Return the verdict on stacks with their counts."""
    steps, places = dict[str, Counter[str]](), Counter[tuple[str, str]]()
    for stack, count in stacks.items():
        label, frames = frames_of(stack)
        step = step_of(frames)
        steps.setdefault(label, Counter())[step] += count
        if step not in (WAITING, STARTING):
            places[step, _place(frames)] += count
    working = {label: own for label, own in steps.items() if _work(own) > _WORKING * own.total()}
    total = sum(working.values(), Counter[str]())
    loading = total.pop(STARTING, 0)
    shares = {step: count / total.total() for step, count in total.most_common()}
    seen = max(1, places.total())
    top = tuple((count / seen, step, place) for (step, place), count in places.most_common(_PLACES))
    worked = [step for step in shares if step != WAITING] or [WAITING]
    first = WAITING if shares.get(WAITING, 0) > _IDLE else worked[0]
    loaded = loading / max(1, loading + total.total())
    return Verdict(shares, loaded, top, len(working), total.total(), advice_for(first) if shares else "")


def _work(steps: Counter[str]) -> int:
    return steps.total() - steps[WAITING] - steps[STARTING]


def _place(frames: tuple[Frame, ...]) -> str:
    """Return the innermost frame, of our own where there is one, without its line: lines of one function add up."""
    own = [frame for frame in frames if frame[1].startswith(("wsi/", "features/", "mil/"))]
    function, place = [("?", "?"), *frames, *own][-1]
    return f"{function} ({place.rpartition(':')[0] or place})"


def lines_of(verdict: Verdict, measured: Mapping[str, float]) -> list[str]:
    """Return the verdict for a person."""
    shown = {step: share for step, share in verdict.shares.items() if share >= _SMALL}
    loading = f" (loading programs, {verdict.loading:.0%}, left out)" if verdict.loading > _SMALL else ""
    lines = [f"where the time of {verdict.threads} working threads went{loading}:"]
    lines += [f"  {share:5.0%}  {step}" for step, share in shown.items()]
    if measured:
        ordered = sorted(measured.items(), key=lambda own: -own[1])
        told = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in ordered)
        lines.append(f"as the stage itself measured it, over all threads: {told}")
    if verdict.places:
        lines.append("seen most, of what is work:")
        lines += [f"  {share:5.0%}  {step}: {place}" for share, step, place in verdict.places]
    return [*lines, *([f"-> {verdict.advice}"] if verdict.advice else [])]
