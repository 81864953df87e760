"""SIGUSR1 and SIGUSR2: state is saved, one line, code 75, no process left; the same command ends with the same bits."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from commanding import Command
from making import picture, write_deflate
from witness import write_noise

from cli.app import run
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from features.learning.scalars import EVENTS
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

LINE = "gigamil: saved: give the same command again\n"
Start = Callable[..., Command]
SLOW = pytest.mark.slow


def saved(command: Command, number: int = signal.SIGUSR2, *, group: bool = False) -> None:
    assert command.stop(number, group=group, soon=60) == (75, LINE)


def done(*arguments: object) -> None:
    """Give a command in this process, to its end."""
    assert run(list(map(str, arguments))) == 0


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_deflate(
        tmp_path_factory.mktemp("slide") / "big.tif", picture(2600, 3100), compressionargs={"level": 1}
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, slide: Path) -> Path:
    out = tmp_path_factory.mktemp("stores")
    assert tile(TileOptions(slides=(slide,), out=out, assume_mpp=0.5, tile_px=32, workers=0)).exit_code == 0
    return out


def chunks(store: Path) -> dict[str, bytes]:
    """Return every file of a store but its metadata, which tell of the run."""
    files = (path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files if path.name != "zarr.json"}


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGUSR1, 2), pytest.param(signal.SIGUSR2, 0, marks=SLOW)])
def test_tiling(start: Start, slide: Path, stores: Path, tmp_path: Path, number: int, workers: int) -> None:
    options = ("--assume-mpp", 0.5, "--tile-px", 32, "--workers", workers)
    command = start("tile", slide, "--out", tmp_path, *options)
    command.wait_for(lambda: any(tmp_path.glob("*.zarr.partial/.work/receipt-*")))
    saved(command, number, group=workers > 0)
    regions = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.zarr.partial/.work/receipt-*")}
    assert 0 < len(regions) < 30
    done(*command.arguments)
    assert chunks(tmp_path / "big.zarr") == chunks(stores / "big.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.zarr"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, stores: Path) -> str:
    out = tmp_path_factory.mktemp("bags")
    assert extract(ExtractOptions(stores=(stores,), out=out, batch_size=16, device="cpu")).exit_code == 0
    return content(out)


def content(bags: Path) -> str:
    with h5py.File(bags / "big.h5") as bag:
        return str(bag.attrs["content_sha256"])


@SLOW
@pytest.mark.parametrize("nproc", [1, 2])
def test_extraction(start: Start, stores: Path, undisturbed: str, tmp_path: Path, nproc: int) -> None:
    command = start("extract", stores, "--out", tmp_path, "--batch-size", 16, "--device", "cpu", "--nproc", nproc)
    command.wait_for(lambda: any(tmp_path.glob(".*.lock")))
    saved(command, group=nproc > 1)
    assert list(tmp_path.glob(".big.h5.*.parts/*.npy"))
    done(*command.arguments)
    assert content(tmp_path) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["big.h5"]


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    write_noise(folder, 24, 100)
    return folder


def training(bags: Path, verb: str, out: Path, *more: object) -> tuple[object, ...]:
    small = ("--folds", 2, "--device", "cpu", *(("--hidden", 16) if verb == "train" else ()))
    return (verb, bags, "--manifest", bags / "train.csv", "--out", out, *small, *more)


NPROC = ("--nproc", 2)
WORKERS = ("--workers", 2)


@pytest.mark.parametrize("processes", [(), pytest.param(NPROC, marks=SLOW), pytest.param(WORKERS, marks=SLOW)])
def test_training(start: Start, bags: Path, tmp_path: Path, processes: tuple[object, ...]) -> None:
    epochs = ("--epochs", 12, "--baselines", "", *processes)
    out = tmp_path / "run"
    command = start(*training(bags, "train", out, *epochs))
    command.wait_for(lambda: any(out.rglob(EVENTS)))  # ranks that still load have nothing to save
    saved(command, signal.SIGUSR1, group=bool(processes))
    assert list(out.rglob("checkpoint.safetensors"))
    done(*command.arguments)
    done(*training(bags, "train", tmp_path / "whole", *epochs))
    for name in ("oof.csv", "fold0/seed0/weights.safetensors", "fold1/seed0/history.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@SLOW
def test_tuning(start: Start, bags: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    more = ("--epochs", 12, "--trials", 2, "--inner-folds", 2)
    out = tmp_path / "out"
    command = start(*training(bags, "tune", out, *more))
    command.wait_for((out / "trial" / "checkpoint.safetensors").is_file)
    saved(command)
    assert not (out / "tune.json").exists()
    done(*command.arguments)
    done(*training(bags, "tune", tmp_path / "whole", *more))
    assert json.loads((out / "tune.json").read_text()) == json.loads((tmp_path / "whole" / "tune.json").read_text())
