"""A cohort of ten small slides and an eleventh to predict, and cohort files of it."""

import shutil
from pathlib import Path

from making import picture, write_pyramid

from mil.run.folder import MEASURED

PATIENTS = 10
BEGINNING = """
folder = "{folder}"
slides = "slides"
manifest = "train.csv"
[tile]
workers = 0
tile_px = 128
[train]
folds = 2
epochs = 2
baselines = []
hidden = 16
attention = 8
[grid]
head = ["gated_abmil", "mean_pool"]
"""
AFTER = '[predict]\nslides = "new"\n[heatmap]\nexperiments = ["texture-gated_abmil"]\n[report]\n'
NAMES = ("texture-gated_abmil", "texture-mean_pool")


def make_slides(folder: Path) -> Path:
    """Write slides/ of ten patients, train.csv, and new/ with an eleventh; return the folder."""
    lines = ["image_id,patient_id,center_id,label"]
    for number in range(PATIENTS + 1):
        where = folder / ("slides" if number < PATIENTS else "new")
        where.mkdir(exist_ok=True)
        write_pyramid(where / f"p{number}_0.tif", picture(400 + 10 * number, 500, seed=number), levels=2)
        if number < PATIENTS:
            lines.append(f"p{number}_0,p{number},{number % 2},{('CE', 'LAA')[number % 2]}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_cohort(slides: Path, folder: Path, text: str = "", name: str = "c", out: str = "work") -> Path:
    """Write a cohort file beside a copy of the slides; return its path."""
    shutil.copytree(slides, folder, dirs_exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(BEGINNING.format(folder=out) + text)
    return path


def content(folder: Path, *, alone: bool = True) -> dict[str, bytes]:
    """Return the bytes of all that the stages made, but for what tells when and where, and how long it took.

    ``alone``: with what a run says of the runs that stood beside it when it was judged.
    """
    apart = {"experiments.csv", "events.jsonl", *MEASURED, *(() if alone else ("spread.json", "report.html"))}
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".", "events.out"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in apart}
