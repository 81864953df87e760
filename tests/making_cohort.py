"""A cohort of eight small slides and a ninth to predict, and cohort files of it."""

import shutil
from pathlib import Path

from making import picture, write_pyramid

PATIENTS = 8
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


def make_slides(folder: Path) -> Path:
    """Write slides/ of eight patients, train.csv, and new/ with a ninth; return the folder."""
    lines = ["image_id,patient_id,center_id,label"]
    for number in range(PATIENTS + 1):
        where = folder / ("slides" if number < PATIENTS else "new")
        where.mkdir(exist_ok=True)
        write_pyramid(where / f"p{number}_0.tif", picture(400 + 20 * number, 500, seed=number), levels=2)
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
