"""Which slides the report shows: the surest right answers and the surest wrong ones."""

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
