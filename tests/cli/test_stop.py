"""Ctrl-C and SIGTERM: one line, the signal's exit code, soon, and no process left; the next run goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from witness import DIM, facts, grid

from features.bags.bag import write_bag

ROOT = Path(__file__).resolve().parents[2]
SOON = 10.0
"""Seconds. It takes 0.1 to 0.5 on an idle machine; tests may have many neighbours."""
LINE = "gigamil: interrupted: run the same command again to go on where it stopped\n"


def session_members(leader: int) -> list[str]:
    """Return the command lines of the living processes that a command's session still has."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except (OSError, ValueError):
            continue
    return found


class Command:
    """A gigamil command in a session of its own, as a terminal starts it."""

    def __init__(self, *arguments: object) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and so
        try:  # would all that it starts
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", *map(str, arguments)],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def wait_for(self, happened: Callable[[], bool]) -> None:
        while not happened():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def stop(self, number: int, times: int = 1, group: bool = True) -> tuple[int, str]:
        """Send the signal, as a terminal does to all of the session; return exit code and standard error."""
        started = time.monotonic()
        for _ in range(times):
            (os.killpg if group else os.kill)(self.process.pid, number)
        _, told = self.process.communicate(timeout=60)
        assert time.monotonic() - started < SOON
        while session_members(self.process.pid):  # those that watch this one end right after it
            assert time.monotonic() - started < SOON, session_members(self.process.pid)
            time.sleep(0.02)
        return self.process.returncode, told

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def started(*arguments: object) -> Command:
        commands.append(Command(*arguments))
        return commands[-1]

    yield started
    for command in commands:
        command.kill()


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    picture = np.full((10_240, 10_240, 3), 240, np.uint8)
    stain = np.array([170, 90, 150]) + np.random.default_rng(0).integers(-25, 25, (512, 512, 3))
    picture[1024:9216, 1024:9216] = np.tile(stain, (16, 16, 1)).astype(np.uint8)
    for name in ("a", "b"):
        tifffile.imwrite(
            folder / f"{name}.tif", picture, tile=(256, 256), compression="jpeg", photometric="ycbcr",
            resolution=(20000, 20000), resolutionunit="CENTIMETER",
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    rng = np.random.default_rng(0)
    lines = ["image_id,patient_id,label"]
    for patient in range(12):
        rows = rng.normal(size=(400, DIM)).astype(np.float16)
        write_bag(folder / f"{patient:02d}_0.h5", [rows], grid(400), facts(f"{patient:02d}_0"))
        lines.append(f"{patient:02d}_0,{patient:02d},{('CE', 'LAA')[patient % 2]}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
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
