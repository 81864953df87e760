"""Recall and false tissue of the tissue finder on painted overviews: ``python tests/benchmarks/bench_tissue.py``.

Recall is the part of the tissue that is found; false tissue is what is found beside it, as a part of the tissue.
``--write docs/TISSUE.md`` writes the table.
"""

import argparse
import re
import sys
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tissue_pictures import HELD_OUT, LIKE_STAINS, TUNED, UM_PER_PX, Picture, pen, pictures

from wsi.arrays import Mask
from wsi.tissue.mask import find_tissue

_PAIR_PX = 420


def judged(picture: Picture, mask: Mask) -> tuple[float, float]:
    """Return recall and false tissue."""
    truth, found = picture.truth & ~picture.unsure, (mask > 0) & ~picture.unsure
    size = max(1, int(truth.sum()))
    return float((found & truth).sum() / size), float((found & ~truth).sum() / size)


def _outlined(picture: Picture, mask: Mask, line: str) -> np.ndarray:
    pair = [picture.rgb.copy(), picture.rgb.copy()]
    for canvas, area, colour in ((pair[0], picture.truth, (0, 160, 255)), (pair[1], mask, (0, 220, 0))):
        contours, _ = cv2.findContours(np.asarray(area, np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colour, 2)
    both = cv2.resize(np.concatenate(pair, axis=1), (2 * _PAIR_PX, _PAIR_PX), interpolation=cv2.INTER_AREA)
    cv2.putText(both, line, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 0, 255), 1)
    return both


def _kind(name: str) -> str:
    """Return a picture's name without its numbers."""
    return " ".join(re.sub(r"[\d.]+%?", "", name).replace(" ,", ",").split()).rstrip(", ")


def taken_ink(ink: str, seeds: tuple[int, ...]) -> tuple[float, float]:
    """Return the least and the largest part of an ink on glass that is taken for tissue, filled and drawn."""
    shares = []
    for seed in seeds:
        for filled in (True, False):
            picture, clean = (pen(seed, name, 0.35, filled=filled) for name in (ink, ""))
            inked = (np.abs(picture.rgb.astype(int) - clean.rgb).max(axis=2) > 25) & ~picture.truth
            shares.append(float(((find_tissue(picture.rgb, UM_PER_PX).mask > 0) & inked).sum() / inked.sum()))
    return min(shares), max(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", choices=["tuned", "held-out", "all"], default="all")
    parser.add_argument("--write", type=Path, help="write the table there")
    parser.add_argument("--show", type=Path, help="write pictures that miss a goal into this folder")
    parser.add_argument("--only", default="", help="pictures whose name holds this")
    args = parser.parse_args()
    seeds = {"tuned": TUNED, "held-out": HELD_OUT, "all": TUNED + HELD_OUT}[args.seeds]
    figures: dict[str, list[tuple[float, float]]] = defaultdict(list)
    missed, spent, shown = [], 0.0, []
    for picture in pictures(seeds):
        if args.only not in picture.name:
            continue
        start = time.perf_counter()
        tissue = find_tissue(picture.rgb, UM_PER_PX)
        spent += time.perf_counter() - start
        recall, false = judged(picture, tissue.mask)
        figures[_kind(picture.name)].append((recall, false))
        if recall < 0.95 or false > 0.1:
            missed.append(picture.name)
            line = f"{picture.name}: {recall:.3f} {false:.3f} thr {tissue.threshold:.3f} {tissue.background}"
            print(line)
            shown.append(_outlined(picture, tissue.mask, line))
    count = sum(map(len, figures.values()))
    print(
        f"{count - len(missed)} of {count} pictures reach recall 0.95 with false tissue below 0.1; "
        f"{spent / count:.3f} s each"
    )
    if args.show:
        args.show.mkdir(parents=True, exist_ok=True)
        for i in range(0, len(shown), 8):
            cells = shown[i : i + 8] + [np.zeros_like(shown[0])] * (-len(shown[i : i + 8]) % 2)
            rows = [np.concatenate(cells[j : j + 2], axis=1) for j in range(0, len(cells), 2)]
            cv2.imwrite(str(args.show / f"missed-{i // 8}.png"), np.concatenate(rows)[..., ::-1])
    if args.write:
        inks = {ink: taken_ink(ink, seeds) for ink in LIKE_STAINS}
        args.write.write_text(_page(figures, count, len(missed), inks), "utf-8")


def _page(
    figures: dict[str, list[tuple[float, float]]], count: int, missed: int, inks: dict[str, tuple[float, float]]
) -> str:
    worst = min(figures, key=lambda name: min(r - f for r, f in figures[name]))
    rows = [
        f"| {name} | {min(r for r, _ in pairs):.3f} | {max(f for _, f in pairs):.3f} | {len(pairs)} |"
        for name, pairs in figures.items()
    ]
    return "\n".join(
        [
            "# Finding tissue: recall and false tissue",
            "",
            f"{count} painted overviews with known tissue (`tests/tissue_pictures.py`), {date.today()}:",
            f"{count - missed} reach recall 0.95 with false tissue below 0.1 of the tissue. Worst: {worst}. Made by",
            "`python tests/benchmarks/bench_tissue.py --write docs/TISSUE.md`. Strengths: 0.1 to 1;",
            "the lowest recall and the most false tissue of each kind:",
            "",
            "| picture | recall | false tissue | pictures |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Ink that stays",
            "",
            "Blue, green, red, black, grey and light blue ink on glass is left out: none has the hue of a usual stain,",
            "and it is even within a stroke. Purple and pink ink has the hue of haematoxylin and eosin, brown that of",
            "DAB, orange and yellow that of saffron and picric acid: told by evenness alone, smooth tissue of these",
            "stains would go with it. Such ink, and light blue that has faded, becomes tissue: leave it out by `--roi`",
            "(`gigamil qc` shows it). The part of the ink on glass that is taken for tissue:",
            "",
            "| ink | least | most |",
            "|---|---|---|",
            *(f"| {ink} | {least:.2f} | {most:.2f} |" for ink, (least, most) in inks.items()),
            "",
        ]
    )


if __name__ == "__main__":
    main()
