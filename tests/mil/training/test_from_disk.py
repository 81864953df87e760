"""Training from disk: the same bits as from memory, no file left open, damage that shows only when rows are read."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from making import SEED
from witness import DIM, Witness, facts, grid

from features.bags import bag as bag_module
from features.bags.bag import find_bags, write_bag
from features.bags.options import PackOptions
from features.bags.pack import pack_bags
from mil.data import known_facts, several_encoders
from mil.data import read_ahead as ahead_module
from mil.models.model import feature_moments
from mil.train import train
from mil.training.fit import fit
from mil.training.jobs import FitJob
from mil.training.options import TrainOptions
from mil.training.training_data import gather
from wsi.progress.outcome import Status

QUICK = {"folds": 2, "epochs": 3, "hidden": 8, "attention": 4, "baselines": (), "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("cohort"), 16)


def fitted(options: TrainOptions) -> dict[str, bytes]:
    """Train one model of a run; return its files: weights, history, scores."""
    data = gather(options)
    job = FitJob(head=options.head, fold=0, seed=0, folder=options.out, options=options, recipe_hash="")
    options.out.mkdir(parents=True)
    fit(job, data.open()[0], data.folds)
    return {own: (options.out / own).read_bytes() for own in ("weights.safetensors", "history.csv", "scores.csv")}


def from_disk(monkeypatch: pytest.MonkeyPatch, ahead_bytes: int = 20_000) -> None:
    """Let no bag be held, and little be read ahead."""
    monkeypatch.setattr(several_encoders, "HELD_BYTES", 0)
    monkeypatch.setattr(ahead_module, "AHEAD_BYTES", ahead_bytes)


@pytest.mark.parametrize(
    "changes",
    [{}, {"max_tiles": 7, "instance_dropout": 0.2, "mixup": 0.3}, {"aggregate": "bag", "optimizer": "sam"}],
    ids=["plain", "drawn", "bag"],
)
def test_the_same_bits_as_held(
    cohort: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    held = fitted(cohort.options(tmp_path / "held", **QUICK | changes))
    from_disk(monkeypatch)
    assert fitted(cohort.options(tmp_path / "read", **QUICK | changes)) == held
    pack_bags(PackOptions(bags=(cohort.bags,), out=tmp_path / "pack.h5"))
    packed = Witness(tmp_path / "pack.h5", cohort.manifest)
    assert fitted(packed.options(tmp_path / "packed", **QUICK | changes)) == held


def test_bags_beside_each_other_are_read_beside_each_other(
    cohort: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cohort.bags, tmp_path / "again", ignore=shutil.ignore_patterns("*.csv"))
    given = {"bags": (cohort.bags, tmp_path / "again"), "manifest": cohort.manifest, "fusion": "concat"}
    held = fitted(TrainOptions(**given | QUICK | {"out": tmp_path / "held"}))  # type: ignore[arg-type]
    from_disk(monkeypatch)
    assert fitted(TrainOptions(**given | QUICK | {"out": tmp_path / "read"})) == held  # type: ignore[arg-type]


def test_standardisation_is_that_of_all_rows(cohort: Witness) -> None:
    (own,) = gather(cohort.options(cohort.bags.parent / "none", **QUICK)).open()
    mean_D, std_D = feature_moments(own.bags)
    filled = [np.asarray(bag, np.float64) for bag in own.bags if len(bag)]
    wanted = np.mean([bag.mean(axis=0) for bag in filled], axis=0)
    spread = np.mean([((bag - wanted) ** 2).mean(axis=0) for bag in filled], axis=0)
    np.testing.assert_allclose(mean_D, wanted, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(std_D, np.sqrt(spread), rtol=1e-13)


def test_nothing_is_read_before_the_first_step(
    cohort: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_disk(monkeypatch)
    monkeypatch.setattr(bag_module, "content_of", lambda *_, **__: pytest.fail("rows were read"))
    data = gather(cohort.options(tmp_path / "run", **QUICK))
    (own,) = data.open()
    assert np.isfinite(feature_moments(own.bags)[0]).all()
    assert data.recipe()["cohort"]


def without_moments(folder: Path) -> None:
    for path in find_bags([folder]):
        with h5py.File(path, "r+") as file:
            del file["moments"], file.attrs["format"], file.attrs["content_sha256"]


def test_other_tools_bags_are_read_once_for_all_runs_of_a_folder(
    cohort: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cohort.bags, tmp_path / "bags")
    without_moments(tmp_path / "bags")
    foreign = Witness(tmp_path / "bags", tmp_path / "bags" / "train.csv")
    with h5py.File(find_bags([foreign.bags])[0], "r+") as file:
        file["features"][2, 1] = np.nan
    from_disk(monkeypatch)
    data = gather(foreign.options(tmp_path / "runs" / "first", **QUICK))
    first = [own.header.moments for own in data.open()[0].bags if hasattr(own, "header")]
    kept = (tmp_path / "runs" / known_facts.NAME).read_bytes()
    monkeypatch.setattr(bag_module, "content_of", lambda *_, **__: pytest.fail("a bag was read again"))
    again = gather(foreign.options(tmp_path / "runs" / "second", **QUICK))
    for old, own in zip(first, (own for own in again.open()[0].bags if hasattr(own, "header")), strict=True):
        assert old is not None
        assert own.header.moments is not None
        np.testing.assert_array_equal(old.sum_D, own.header.moments.sum_D)
        np.testing.assert_array_equal(old.spread_D, own.header.moments.spread_D)
    assert {**again.open()[0].failures} == {**data.open()[0].failures}
    assert len(again.open()[0].failures) == 1
    assert (tmp_path / "runs" / known_facts.NAME).read_bytes() == kept


def test_a_changed_bag_or_a_spoilt_file_is_not_believed(cohort: Witness, tmp_path: Path) -> None:
    shutil.copytree(cohort.bags, tmp_path / "bags")
    without_moments(tmp_path / "bags")
    foreign = Witness(tmp_path / "bags", tmp_path / "bags" / "train.csv")
    chosen = find_bags([foreign.bags])[3]

    def mean() -> float:
        headers = gather(foreign.options(tmp_path / "runs" / "first", **QUICK)).sets[0].headers
        moments = headers[chosen.stem].moments
        assert moments is not None
        return float(moments.mean_D[0])

    before = mean()
    with h5py.File(chosen, "r+") as file:
        file["features"][:, 0] = 5
    os.utime(chosen, ns=(0, 12345))
    assert (before != 5.0, mean()) == (True, 5.0)
    (tmp_path / "runs" / known_facts.NAME).write_bytes(b"\x89HDF\r\n\x1a\n" + b"no more")
    assert mean() == 5.0


def test_damage_that_shows_while_training_leaves_the_slide_out(
    cohort: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cohort.bags, tmp_path / "bags")
    damaged = Witness(tmp_path / "bags", tmp_path / "bags" / "train.csv")
    spoilt = find_bags([damaged.bags])[5]
    with h5py.File(spoilt, "r+") as file:
        file["features"][1, 1] += 1
    eager = train(damaged.options(tmp_path / "eager" / "run", **QUICK))
    from_disk(monkeypatch)
    lazy = train(damaged.options(tmp_path / "lazy" / "run", **QUICK))
    for summary in (eager, lazy):
        (failed,) = summary.ended(Status.FAILED)
        assert (failed.item_id, summary.exit_code) == (spoilt.stem, 1)
        assert "not those that were written" in failed.reason
    for name in ("fold0/seed0/weights.safetensors", "fold1/seed0/weights.safetensors", "oof.csv"):
        assert (tmp_path / "lazy" / "run" / name).read_bytes() == (tmp_path / "eager" / "run" / name).read_bytes()


_FEW_FILES = """
import resource, sys
from pathlib import Path
from mil.data import several_encoders
from mil.training.fit import fit
from mil.training.jobs import FitJob
from mil.training.options import TrainOptions
from mil.training.training_data import gather
several_encoders.HELD_BYTES = 0
folder = Path(sys.argv[1])
quick = dict(folds=2, epochs=1, hidden=4, attention=2, baselines=(), device="cpu", precision="fp32")
options = TrainOptions(bags=(folder,), manifest=folder / "train.csv", out=folder / "run", **quick)
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
data = gather(options)
job = FitJob(head="abmil", fold=0, seed=0, folder=options.out, options=options, recipe_hash="")
options.out.mkdir()
print(fit(job, data.open()[0], data.folds)["epochs_run"])
"""


def test_more_bags_than_files_may_be_open(tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(SEED), ["image_id,patient_id,label"]
    for number in range(70):
        rows = rng.normal(size=(4, DIM)).astype(np.float16)
        write_bag(tmp_path / f"s{number}.h5", [rows], grid(4), facts(f"s{number}"))
        lines.append(f"s{number},p{number},{'AB'[number % 2]}")
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    done = subprocess.run([sys.executable, "-c", _FEW_FILES, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1"], done.stderr
