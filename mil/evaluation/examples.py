"""Which slides are worth looking at: the surest right answers, the surest wrong ones, and the least sure."""

from collections.abc import Collection, Mapping, Sequence


def choose(
    slides: Sequence[Mapping[str, str]], classes: Sequence[str], available: Collection[str], each: int = 2
) -> list[tuple[str, str]]:
    """Return (image id, caption) of up to ``each`` right and ``each`` wrong slides, the surest first.

    ``slides`` are the slide rows of oof.csv. Among the right ones every class comes once before one comes twice.
    """
    known = [row for row in slides if row["image_id"] in available and int(row["n_tiles"]) > 0]
    right: list[tuple[float, str, str, str]] = []
    wrong: list[tuple[float, str, str, str]] = []
    for row in known:
        sure, guess = max((float(row[f"p_{name}"]), name) for name in classes)
        entry = (sure, row["image_id"], row["label"], guess)
        (right if guess == row["label"] else wrong).append(entry)
    right.sort(key=lambda entry: (-entry[0], entry[1]))
    wrong.sort(key=lambda entry: (-entry[0], entry[1]))
    firsts = [next((e for e in right if e[2] == name), None) for name in classes]
    ordered = [e for e in firsts if e is not None] + [e for e in right if e not in firsts]
    return [(e[1], f"Right: {e[2]}, predicted {e[3]} with {e[0]:.0%}") for e in ordered[:each]] + [
        (e[1], f"Wrong: {e[2]}, but predicted {e[3]} with {e[0]:.0%}") for e in wrong[:each]
    ]


MOST = 12
"""Slides that are drawn where none is asked for by name."""


def of_interest(slides: Sequence[Mapping[str, str]], outputs: Sequence[str], available: Collection[str]) -> list[str]:
    """Return up to `MOST` of the slides available, those of most interest first.

    ``slides`` are the slide rows of oof.csv, ``outputs`` what the run tells of each. Of classes, one class after the
    other in turns: its surest right slide, its surest wrong one, its least sure one. Of other targets those told the
    highest, the lowest and the middle of the first output. Slides that the run does not know come after these.
    """
    known = [row for row in slides if row["image_id"] in available and int(row["n_tiles"]) > 0]
    turns = _by_class(known, outputs) if known and "label" in known[0] else _by_height(known, outputs[0])
    longest = max(map(len, turns), default=0)
    picked = [turn[place] for place in range(longest) for turn in turns if place < len(turn)]
    new = sorted(set(available) - {row["image_id"] for row in slides})
    return list(dict.fromkeys([*picked, *new]))[:MOST]


def _by_class(slides: Sequence[Mapping[str, str]], classes: Sequence[str]) -> list[list[str]]:
    """Return, for each class, its slides right, wrong and unsure, the most telling first."""
    turns: list[list[str]] = []
    for wanted in ("right", "wrong", "unsure"):
        for name in classes:
            told = []
            for row in slides:
                sure, guess = max((float(row[f"p_{own}"]), own) for own in classes)
                if row["label"] == name and (wanted == "unsure" or (guess == name) == (wanted == "right")):
                    told.append((sure if wanted == "unsure" else -sure, row["image_id"]))
            turns.append([image_id for _, image_id in sorted(told)])
    return turns


def _by_height(slides: Sequence[Mapping[str, str]], output: str) -> list[list[str]]:
    ranked = [row["image_id"] for row in sorted(slides, key=lambda row: (float(row[f"p_{output}"]), row["image_id"]))]
    middle = sorted(range(len(ranked)), key=lambda place: abs(2 * place - len(ranked) + 1))
    return [ranked[::-1], ranked, [ranked[place] for place in middle]]
