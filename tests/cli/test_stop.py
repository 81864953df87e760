"""Ctrl-C and SIGTERM: one line, the signal's exit code, soon, and no process left; the next run goes on."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from commanding import Command
from witness import write_noise

LINE = "gigamil: interrupted: run the same command again to go on where it stopped\n"


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    picture = np.full((10_240, 10_240, 3), 240, np.uint8)
    stain = np.array([170, 90, 150]) + np.random.default_rng(0).integers(-25, 25, (512, 512, 3))
    picture[1024:9216, 1024:9216] = np.tile(stain, (16, 16, 1)).astype(np.uint8)
    tifffile.imwrite(
        folder / "a.tif", picture, tile=(256, 256), compression="jpeg", photometric="ycbcr",
        resolution=(20000, 20000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    shutil.copyfile(folder / "a.tif", folder / "b.tif")
    return folder


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    write_noise(folder, 12, 400)
    return folder


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_tiling_stops_and_goes_on(
    start: Callable[..., Command], slides: Path, tmp_path: Path, number: int, workers: int
) -> None:
    command = start("tile", slides, "--out", tmp_path, "--codec", "zstd", "--mpp", "0.7", "--workers", workers)
    command.wait_for(lambda: any(tmp_path.glob("*.zarr.partial/0/c/0/*/*")))
    assert command.stop(number) == (128 + number, LINE)
    assert not list(tmp_path.glob(".*.lock"))
    assert list(tmp_path.glob("*.zarr.partial"))


@pytest.mark.parametrize(
    ("processes", "number", "group"),
    [
        (("--workers", 2), signal.SIGINT, True),
        (("--workers", 2), signal.SIGTERM, False),  # the first process alone need be told
        (("--nproc", 2), signal.SIGINT, True),
    ],
)
def test_training_stops(
    start: Callable[..., Command], bags: Path, tmp_path: Path, processes: tuple[str, int], number: int, group: bool
) -> None:
    epochs = ("--epochs", 100_000, "--patience", 100_000, "--folds", 2, "--hidden", 16)
    command = start("train", bags, "--manifest", bags / "train.csv", "--out", tmp_path / "run", *epochs, *processes)
    command.wait_for(lambda: any(tmp_path.rglob("checkpoint.safetensors")))
    assert command.stop(number, group=group) == (128 + number, LINE)
    assert not list(tmp_path.glob(".*.lock"))
    assert list(tmp_path.rglob("checkpoint.safetensors"))


def test_the_second_one_is_at_once(start: Callable[..., Command], bags: Path, tmp_path: Path) -> None:
    epochs = ("--epochs", 100_000, "--patience", 100_000, "--folds", 2, "--hidden", 16)
    command = start("train", bags, "--manifest", bags / "train.csv", "--out", tmp_path / "run", *epochs)
    command.wait_for(lambda: any(tmp_path.rglob("checkpoint.safetensors")))
    code, told = command.stop(signal.SIGINT, times=2)
    assert code == 130
    assert "Traceback" not in told
