"""The same weights whatever the number of cores."""

from pathlib import Path

import numpy as np
import torch
from witness import DIM, Witness, facts, grid

from features.bags.bag import write_bag
from mil.training.jobs import FitJob
from mil.training.options import resolve
from mil.training.processes import fit_all
from mil.training.training_data import gather

N_TILES = 4000
"""Enough for torch to divide the sums among its threads."""


def cohort(folder: Path) -> Witness:
    rng = np.random.default_rng(0)
    lines = ["image_id,patient_id,label"]
    for patient in range(8):
        name = f"{patient:03d}_0"
        rows = rng.normal(size=(N_TILES, DIM)).astype(np.float16)
        write_bag(folder / f"{name}.h5", [rows], grid(N_TILES), facts(name))
        lines.append(f"{name},{patient:03d},{'AB'[patient % 2]}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return Witness(folder, folder / "train.csv")


def test_other_numbers_of_cores_train_the_same_weights(tmp_path: Path) -> None:
    options = resolve(cohort(tmp_path).options(tmp_path / "run", folds=2, epochs=1, baselines=()))
    data = gather(options)
    trained, before = [], torch.get_num_threads()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            folder = tmp_path / str(threads)
            job = FitJob(head=options.head, fold=0, seed=0, folder=folder, options=options, recipe_hash="")
            fit_all([job], data.open(), data.folds, lambda *_: None)
            assert torch.get_num_threads() == threads  # the caller's, put back
            trained.append((folder / "weights.safetensors").read_bytes())
    finally:
        torch.set_num_threads(before)
    assert trained[0] == trained[1]
