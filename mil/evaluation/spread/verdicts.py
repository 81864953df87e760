"""One sentence for a person: which of the compared runs is better, and how far the repeats of one lie apart.

A run is told better or worse than the first only where both agree: the corrected p is below `ERROR`, and the interval
of the difference holds no 0. Of repeats the difference, interval and p are all those of the corrected resampled t.
"""

from collections.abc import Mapping, Sequence

from mil.targets import Target
from wsi.pages import number, plural
from wsi.recipe import Json

TESTS = ("delong", "resampled", "t")
"""Of a difference; a row has one of them."""
ERROR = 0.05
"""How often a difference may be told where there is none."""


def verdict_of_runs(rows: Mapping[str, Json], runs: Sequence[str], truth: Target, patients: int) -> str:
    """Return which runs are better or worse than the first, by how much, and which cannot be told from it.

    Parameters
    ----------
    rows
        What `compared` returns.
    runs
        Those to speak of, the first before the others; ensembles of them are left out.
    """
    first, *others = runs
    found = {other: _gap(rows[other], truth.shown[0]) for other in others}
    name = truth.words.ranked if "resampled" in rows[others[0]] else truth.metrics[truth.shown[0]][0]
    on = f"on the same {plural(patients, 'patient')}"
    if len(others) == 1:
        return _of_two(first, others[0], found[others[0]], name, on)
    better = [f"{other} by {_how_far(gap, name)}" for other, gap in found.items() if _side(gap) > 0]
    worse = [f"{other} by {_how_far(gap, name)}" for other, gap in found.items() if _side(gap) < 0]
    alike = [other for other, gap in found.items() if _side(gap) == 0]
    parts = [f"{how} than {first}: {', '.join(own)}" for how, own in (("better", better), ("worse", worse)) if own]
    parts += [f"no difference to {first} can be told of {', '.join(alike)}"] if alike else []
    return f"{on.capitalize()}: {'; '.join(parts)}."


def _of_two(first: str, other: str, gap: Json, name: str, on: str) -> str:
    side = _side(gap)
    if side == 0:
        told = "" if gap["value"] is None else f": {other} less {first} is {_how_far(gap, name, '+.3f')}"
        return f"No difference between {first} and {other} can be told {on}{told}."
    better, worse = (other, first) if side > 0 else (first, other)
    return f"{better} is better than {worse} {on}, by {_how_far(gap, name)}."


def _gap(row: Json, metric: str) -> Json:
    """Return value, low, high and corrected p of a row's difference to the first run."""
    test = next(row[kind] for kind in TESTS if kind in row)
    about = test if "resampled" in row else row["difference"][metric]
    return {part: about.get(part) for part in ("value", "low", "high")} | {"p": test["corrected_p"]}


def _side(gap: Json) -> int:
    """Return 1 for better than the first, -1 for worse, 0 where no difference can be told."""
    if gap["p"] is None or gap["p"] >= ERROR or gap["low"] is None or gap["low"] <= 0 <= gap["high"]:
        return 0
    return 1 if gap["value"] > 0 else -1


def _how_far(gap: Json, name: str, form: str = ".3f") -> str:
    """Return the difference in a metric with interval and corrected p; without a sign in ``form``, how far from 0."""
    signed = form.startswith("+")
    ends = [gap["low"], gap["high"]] if signed or gap["value"] > 0 else [-gap["high"], -gap["low"]]
    low, high = (number(own, form) for own in ends)
    p = "no p" if gap["p"] is None else f"corrected p {'< 0.001' if gap['p'] < 0.001 else number(gap['p'])}"
    return (
        f"{number(gap['value'] if signed else abs(gap['value']), form)} in {name} (95 % interval {low} to {high}, {p})"
    )


def verdict_of_repeats(spread: Json, truth: type[Target]) -> str:
    """Return how far repeats lie apart, and whether above chance; ``spread``: as `spread_of_repeats` has it."""
    said = (
        f"{truth.words.ranked} {spread['mean']:.3f} on average of {spread['repeats']} divisions of the patients, from "
        f"{spread['least']:.3f} to {spread['most']:.3f} (standard deviation {spread['sd']:.3f})"
    )
    over = spread["over_folds"] or {"low": None, "high": None}
    if over["low"] is None:
        return f"{said}; its folds are too few, or too much alike, to tell what other training sets would give."
    chance = "better than chance" if over["low"] > truth.chance else "not shown to be better than chance"
    return f"{said}; with other training sets {over['low']:.3f} to {over['high']:.3f} (95 % interval): {chance}."
