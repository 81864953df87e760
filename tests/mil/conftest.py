"""The witness cohort, written and trained on once."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from making import SEED
from witness import DIM, Trained, Witness, facts, grid, instances

from features.bags import content, rows
from features.bags.bag import write_bag
from features.bags.content import fill as content_fill
from mil.train import train
from wsi.arrays import Features
from wsi.store.tile_store import TileStore


@pytest.fixture(scope="session")
def write_cohort() -> Callable[..., Witness]:
    """Give a function that writes a cohort of ``n_patients`` into a folder."""

    def write(folder: Path, n_patients: int = 45, seed: int = SEED) -> Witness:
        rng = np.random.default_rng(seed)
        lines = ["image_id,patient_id,label,center_id"]
        for patient in range(n_patients):
            label = "LAA" if patient % 3 == 0 else "CE"
            for slide in range(1 + (patient % 5 == 0)):
                image_id = f"{patient:04d}_{slide}"
                n_tiles = int(rng.integers(30, 90))
                rows = instances(rng, n_tiles, positive=label == "LAA")
                write_bag(folder / f"{image_id}.h5", [rows], grid(n_tiles), facts(image_id))
                lines.append(f"{image_id},{patient:04d},{label},{patient % 2}")
        (folder / "train.csv").write_text("\n".join(lines) + "\n")
        return Witness(folder, folder / "train.csv")

    return write


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    write_cohort: Callable[..., Witness],
    small_store: TileStore,
    shared: Callable[[Path], None],
) -> Trained:
    """A run on the cohort, to which an empty slide and a slide with a tile store were added."""
    folder = tmp_path_factory.mktemp("witness")
    witness = write_cohort(folder)
    write_bag(folder / "0900_0.h5", [np.empty((0, DIM), np.float16)], grid(0), facts("0900_0"))
    own = instances(np.random.default_rng(SEED), small_store.n_tiles, positive=True)
    image_id = small_store.image_id
    write_bag(folder / f"{image_id}.h5", [own], small_store.coords_l0_yx(), facts(image_id))
    with witness.manifest.open("a") as file:
        file.write(f"0900_0,0900,CE,0\n{image_id},{image_id[:-2]},LAA,1\n")
    out = tmp_path_factory.mktemp("runs") / "run"
    summary = train(witness.options(out, stores=(small_store.path,)))
    shared(folder)
    shared(out)
    return Trained(witness, out, summary)


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the bytes of features that are read from files, read after read."""
    read: list[int] = []

    def counted(file: io.FileIO, block: Features, path: Path) -> None:
        read.append(block.nbytes)
        content_fill(file, block, path)

    for module in (rows, content):
        monkeypatch.setattr(module, "fill", counted)
    monkeypatch.setattr(rows, "_SEEN", set())
    return read
