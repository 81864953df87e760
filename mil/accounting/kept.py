"""``plan.json`` in a cohort's folder: what each stage was estimated to take, what it took, and how the two compare.

    {"made": ..., "stages": {"tile": {"todo": 80, "seconds": {"low", "expected", "high"}, ...}},
     "truths": [{"stage": "tile", "todo": 80, "seconds": {"estimate", "truth", "ratio"}, ...}]}

A ratio is truth divided by estimate. Times are estimated for an idle machine; ``load`` says how much slower everything
was when the estimate was made, and the time that is compared is as much longer.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mil.accounting.spent import Spent, measured
from wsi.errors import RequestError
from wsi.files.atomic import write_text
from wsi.files.documents import parse_json, read_document

NAME = "plan.json"
COMPARED = ("seconds", "cpu_seconds", "peak_bytes", "gpu_bytes", "disk_bytes")
_KEPT = 200
"""Truths that are kept: the last ones."""


def read_kept(folder: Path) -> dict[str, Any]:
    """Return what ``plan.json`` says; empty where there is none that can be read."""
    try:
        told = parse_json(read_document(folder / NAME, RequestError))
    except (RequestError, OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def keep_estimate(folder: Path, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what the stages are estimated to take; what earlier ones took stays."""
    told = {"made": time.time(), "stages": stages, "truths": _truths(read_kept(folder))}
    write_text(folder / NAME, json.dumps(told, indent=1) + "\n")


def keep_truth(folder: Path, stage: str, done: int, spent: Spent) -> dict[str, Any] | None:
    """Put what a stage took beside its estimate; return the two and their ratio, None where there was no estimate.

    Parameters
    ----------
    folder
        That of ``plan.json``.
    stage
        ``tile``, ``extract``, ``train``.
    done
        Items that were really done. Where they are not those that were estimated, the two are not comparable.
    spent
        What was measured.
    """
    kept = read_kept(folder)
    estimate = _stages(kept).get(stage)
    if not isinstance(estimate, Mapping) or estimate.get("todo") != done or not done:
        return None
    truth: dict[str, Any] = {"stage": stage, "todo": done, "when": time.time()}
    for name in COMPARED:
        expected, found = float(estimate.get(name, {}).get("expected", 0)), float(getattr(spent, name))
        expected *= float(estimate.get("load", 1)) if name == "seconds" else 1.0
        if expected > 0 and found > 0:
            truth[name] = {"estimate": expected, "truth": round(found, 3), "ratio": round(found / expected, 3)}
    stages = {name: own for name, own in _stages(kept).items() if name != stage}
    told = {**kept, "stages": stages, "truths": [*_truths(kept), truth][-_KEPT:]}
    write_text(folder / NAME, json.dumps(told, indent=1) + "\n")
    return truth


def _stages(kept: Mapping[str, Any]) -> Mapping[str, Any]:
    found = kept.get("stages")
    return found if isinstance(found, dict) else {}


def _truths(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = kept.get("truths")
    return [own for own in found if isinstance(own, dict)] if isinstance(found, list) else []


def expected_seconds(folder: Path, stage: str) -> float:
    """Return the seconds that a stage is expected to take; 0 where no estimate is kept."""
    try:
        return float(_stages(read_kept(folder))[stage]["seconds"]["expected"])
    except (KeyError, TypeError, ValueError):
        return 0.0


def earlier(folder: Path) -> list[str]:
    """Return a line for each quantity of which estimates and truths were compared here before."""
    truths = _truths(read_kept(folder))
    lines = []
    for name, called in (("seconds", "time"), ("peak_bytes", "memory"), ("disk_bytes", "disk")):
        ratios = [1 / own[name]["ratio"] for own in truths if name in own and own[name]["ratio"]]
        if ratios:
            lines.append(f"{called}: earlier estimates here were {_spread(ratios)} of the truth ({len(ratios)} stages)")
    return lines


def _spread(ratios: Sequence[float]) -> str:
    low, high = f"{min(ratios):.2g}", f"{max(ratios):.2g}"
    return low if low == high else f"{low} to {high}"


@contextmanager
def accounted(folder: Path, stage: str, outputs: Sequence[Path]) -> Iterator["Account"]:
    """Measure a stage whose estimate may stand in the folder; `Account.done` says how many items were done."""
    account = Account()
    if stage not in _stages(read_kept(folder)):
        yield account
        return
    with measured(outputs) as spent:
        yield account
    account.truth = keep_truth(folder, stage, account.done, spent)


class Account:
    """How a measured stage ended."""

    def __init__(self) -> None:
        self.done = 0
        self.truth: dict[str, Any] | None = None

    @property
    def line(self) -> str:
        """Estimate and truth in one line; empty where nothing was compared."""
        if not self.truth:
            return ""
        told = [f"{name.partition('_')[0]} {self.truth[name]['ratio']:.2f}" for name in COMPARED if name in self.truth]
        return f"of what plan expected: {', '.join(told)} (1 is right)"
