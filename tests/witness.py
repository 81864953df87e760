"""A cohort with a known answer: one instance in twenty carries the class, in a direction that cancels in the mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from features.bags.bag import BagFacts, write_bag
from mil.training.options import TrainOptions
from wsi.progress.outcome import Summary

DIM = 24


@dataclass(frozen=True)
class Witness:
    """Where the cohort lies."""

    bags: Path
    manifest: Path

    def options(self, out: Path, **changes: object) -> TrainOptions:
        settings = {"folds": 3, "epochs": 40, "hidden": 64, "attention": 32, "lr": 3e-3} | changes
        return TrainOptions(bags=(self.bags,), manifest=self.manifest, out=out, **settings)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    witness: Witness
    out: Path
    summary: Summary


def facts(image_id: str, recipe: str = "one") -> BagFacts:
    return BagFacts(
        image_id=image_id,
        encoder="made",
        recipe={"settings": recipe},
        provenance={},
        tile_px=256,
        l0_px_per_px=1.0,
        level0_shape_yx=(5000, 5000),
        mpp=0.5,
    )


def grid(n_tiles: int) -> np.ndarray:
    return np.stack(np.divmod(np.arange(n_tiles), 16), axis=1) * 256


def instances(rng: np.random.Generator, n_tiles: int, *, positive: bool) -> np.ndarray:
    """Noise; in a positive bag 5 % of the instances lie along one axis, half of them on either side."""
    rows = rng.normal(size=(n_tiles, DIM))
    if positive:
        share = max(2, 2 * round(n_tiles * 0.025))
        rows[:share, 0] += np.where(np.arange(share) % 2 == 0, 9.0, -9.0)
    return rng.permutation(rows).astype(np.float16)


def write_noise(folder: Path, patients: int, n_tiles: int) -> None:
    """Write a bag of noise for each patient, whose labels are CE and LAA in turns, and train.csv."""
    rng = np.random.default_rng(0)
    lines = ["image_id,patient_id,label"]
    for patient in range(patients):
        rows = rng.normal(size=(n_tiles, DIM)).astype(np.float16)
        write_bag(folder / f"{patient:02d}_0.h5", [rows], grid(n_tiles), facts(f"{patient:02d}_0"))
        lines.append(f"{patient:02d}_0,{patient:02d},{('CE', 'LAA')[patient % 2]}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")


def train_killed_after_each_checkpoint(options: TrainOptions, kills: int) -> None:
    """Train; the process ends right after its next checkpoint, so many times, and then goes through."""
    from mil.train import train
    from mil.training import checkpoint, fit

    class Killed(BaseException):
        pass

    write = checkpoint.write_checkpoint

    def dying(folder: Path, state: checkpoint.Progression, recipe_hash: str) -> NoReturn:
        write(folder, state, recipe_hash)
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fit, "write_checkpoint", dying)
        for _ in range(kills):
            with pytest.raises(Killed):
                train(options)
    train(options)
