"""Cohorts of every target whose truth is known, for reports to be looked at.

python tests/simulated.py FOLDER [PATIENTS]      writes, trains and reports one run of each target

A patient's burden, 0 to 1, is the share of tiles that lie along one axis. It sets the value; the labels' log odds; and
the log hazard of the event, with censoring by other causes and at the end of the study. Times are whole months: ties.
"""

import sys
from pathlib import Path

import numpy as np
from witness import DIM, Witness, facts, grid

from features.bags.bag import write_bag
from mil.train import train

TILES = 60
SLOPE = 3.0
"""Of the log hazard over the burden."""
TARGETS = {"survival": "time,event", "value": "value", "labels": "label"}


def write_simulated(folder: Path, target: str, patients: int = 100, seed: int = 0, first: str = "") -> Witness:
    """Write bags and manifest: one or two slides of each patient, three centers, further columns sex and age."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"image_id,patient_id,center_id,sex,age,{TARGETS[target]}"]
    for p in range(patients):
        burden = rng.random()
        cell = CELLS[target](rng, burden)
        for slide in range(1 + (p % 4 == 0)):
            image_id = f"{first}{p:03d}_{slide}"
            rows = rng.normal(size=(TILES, DIM))
            rows[: round(TILES * burden), 2] += 3
            write_bag(folder / f"{image_id}.h5", [rows.astype(np.float16)], grid(TILES), facts(image_id))
            lines.append(f"{image_id},{first}{p:03d},{p % 3},{'fm'[p % 2]},{40 + p % 37},{cell}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return Witness(folder, folder / "manifest.csv")


def _survival(rng: np.random.Generator, burden: float) -> str:
    """Return time in months and event: a Weibull hazard, seven in ten followed to their event."""
    end = 30 * (rng.exponential() * np.exp(-SLOPE * (burden - 0.5))) ** (1 / 1.3)
    seen = min(rng.exponential(90), rng.uniform(24, 72))
    return f"{max(1, np.ceil(min(end, seen))):.0f},{int(end <= seen)}"


def _value(rng: np.random.Generator, burden: float) -> str:
    return f"{20 + 60 * burden + 6 * rng.normal():.2f}"


def _labels(rng: np.random.Generator, burden: float) -> str:
    """Return two labels that follow the burden, one way and the other, and a rare one that does not; some not known."""
    odds = {"necrosis": 8 * (burden - 0.5), "inflamed": -5 * (burden - 0.4), "rare": -2.0}
    there = {name: rng.random() < 1 / (1 + np.exp(-own)) for name, own in odds.items()}
    known = {name: rng.random() > 0.15 for name in odds}
    parts = [name if there[name] else "" for name in odds if known[name]]
    return ";".join([*(own for own in parts if own), *(f"?{name}" for name in odds if not known[name])]) or "none"


CELLS = {"survival": _survival, "value": _value, "labels": _labels}


def main(folder: Path, patients: int) -> None:
    """Write, train and report a run of each target."""
    for target in TARGETS:
        cohort = write_simulated(folder / target / "bags", target, patients)
        settings = {"target": target, "folds": 4, "epochs": 25, "baselines": ()}
        sys.stdout.write(f"{train(cohort.options(folder / target / 'run', **settings)).exit_code} {target}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)
