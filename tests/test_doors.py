"""Files that may come from elsewhere: whatever is in them, a good value or one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from witness import Witness, facts, grid, instances

from features.bags.bag import write_bag
from features.learning.checkpoint import Standing
from features.learning.checkpoint import write_checkpoint as write_standing
from mil.train import train
from mil.training.checkpoint import Progression, write_checkpoint
from wsi.store.tile_store import TileStore

DOORS = Path(__file__).parent / "doors.py"
SEED = 11


def _cohort(folder: Path, n_patients: int = 8) -> Witness:
    rng = np.random.default_rng(SEED)
    lines = ["image_id,patient_id,label,center_id"]
    for patient in range(n_patients):
        label = "LAA" if patient % 2 else "CE"
        image_id = f"{chr(97 + patient)}_0"
        write_bag(folder / f"{image_id}.h5", [instances(rng, 12, positive=label == "LAA")], grid(12), facts(image_id))
        lines.append(f"{image_id},{chr(97 + patient)},{label},{patient % 2}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return Witness(folder, folder / "train.csv")


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    return _cohort(tmp_path_factory.mktemp("bags"))


@pytest.fixture(scope="module")
def run(witness: Witness, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    options = {"folds": 2, "epochs": 1, "hidden": 8, "attention": 4, "baselines": ()}
    assert train(witness.options(out, **options)).exit_code == 0
    return out


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory, witness: Witness, run: Path, small_store: TileStore) -> Path:
    """One good file or folder of each kind."""
    folder = tmp_path_factory.mktemp("goods")
    shutil.copytree(small_store.path, folder / "store.zarr")
    shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("heatmaps", "*.html", "*.md", "events*"))
    shutil.copyfile(witness.bags / "a_0.h5", folder / "bag.h5")
    with h5py.File(folder / "clam.h5", "w") as file:
        rows = np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)
        file.create_dataset("features", data=rows, chunks=(8, 16), compression="gzip")
        file.create_dataset("coords", data=np.arange(80).reshape(40, 2) * 256, chunks=(8, 2), compression="gzip")
    table = witness.manifest.read_text()
    (folder / "manifest.csv").write_text(table)
    (folder / "semicolons.csv").write_text("\ufeff" + table.replace(",", ";") + "\n;;;\n")
    shutil.copyfile(run / "splits.csv", folder / "splits.csv")
    (folder / "attention.csv").write_text("image_id,tile_row,tile_column,attention\na_0,0,0,.5\na_0,0,1,.5\n")
    ring = [[400, 300], [1500, 300], [1500, 1200], [400, 1200], [400, 300]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    feature["properties"] = {"classification": {"name": "Tumor"}}
    (folder / "regions.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature, feature]}))
    picture = np.zeros((60, 76), np.uint8)
    picture[10:40, 10:50] = 255
    cv2.imwrite(str(folder / "regions.png"), picture)
    state = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3)).state_dict()
    save_file(state, folder / "weights.safetensors")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, folder / "weights.pt"
    )
    standing = Standing(model=dict(state), optimizer={"0.weight/step": torch.ones(1)})
    write_standing(folder / "standing.safetensors", standing, {"settings": "one"})
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    write_checkpoint(folder, Progression(model=dict(state), optimizer=optimizer, history=[{"epoch": 0.0}]), "hash")
    trial = {"params": {"lr": 0.1}, "state": "complete", "losses": [0.5], "rungs": {}}
    (folder / "search_all.json").write_text(json.dumps([trial]))
    (folder / "compare.json").write_text(json.dumps({"format": "mark", "recipe": {"a": 1}, "sha256": {}}))
    return folder


def _fuzz(goods: Path, seed: int, cases: int, seconds: int) -> None:
    done = subprocess.run(
        [sys.executable, str(DOORS), str(goods), str(seed), str(cases)], capture_output=True, text=True, timeout=seconds
    )
    doing = (goods / "doing.txt").read_text() if (goods / "doing.txt").exists() else "nothing"
    assert done.returncode == 0, f"{doing}: {done.stderr[-2000:]}"
    told = json.loads(done.stdout.splitlines()[-1])
    assert not told["faults"], "\n\n".join(told["faults"])
    assert sum(told["ended"].values()) == cases
    assert any(key.endswith("refused") for key in told["ended"])
    assert told["slowest"][0] < 10


def test_spoiled_files_are_one_line_or_good_values(goods: Path) -> None:
    _fuzz(goods, SEED, 500, 120)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_spoiled_files_are_one_line_or_good_values(goods: Path) -> None:
    _fuzz(goods, SEED + 1, 20_000, 3500)
