"""Kills at random moments: who is hit, and whether what comes out in the end is what comes out in peace."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
from commanding import ROOT, Command, session_members, workers_of
from making import picture, write_deflate

from cli.app import run

PATIENTS = 8
AFTER_SECONDS = 2.0
"""A kill falls so long after the first sign of work, at most."""


def slides_in(folder: Path) -> Path:
    """Eight small slides, one for each patient, and their manifest."""
    folder.mkdir()
    lines = ["image_id,patient_id,label"]
    for patient in range(PATIENTS):
        write_deflate(folder / f"p{patient:02d}_0.tif", picture(420, 520, seed=patient))
        lines.append(f"p{patient:02d}_0,p{patient:02d},{('CE', 'LAA')[patient % 2]}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


def content(out: Path) -> dict[str, str]:
    """Return what each output holds, by its place: not when, where and by how many processes it was made."""
    found = {}
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        if path.suffix == ".h5":
            with h5py.File(path) as bag:
                found[name] = str(bag.attrs["content_sha256"])
        elif (path.is_file() and path.name in ("oof.csv", "splits.csv", "weights.safetensors")) or "/c/" in name:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


def left_behind(out: Path) -> list[str]:
    """Return what no finished stage leaves: unfinished stores, parts, locks, temporary files, checkpoints."""
    odd = ("*.partial", ".*", "checkpoint*")
    return sorted({str(path.relative_to(out)) for pattern in odd for path in out.rglob(pattern)})


@dataclass(frozen=True)
class Stage:
    """A verb with its inputs; ``several``: options that make it several processes."""

    verb: str
    words: tuple[object, ...]
    several: tuple[object, ...]
    victims: tuple[str, ...]

    def arguments(self, out: Path, more: tuple[object, ...] = ()) -> tuple[object, ...]:
        return (self.verb, *self.words, "--out", out, *more)

    def finish(self, out: Path) -> None:
        """Give the command again, in this process alone."""
        alone = ("--workers", 0) if self.verb == "tile" else ()
        assert run([str(word) for word in self.arguments(out, alone)]) == 0


def stages(slides: Path, stores: Path, bags: Path) -> dict[str, Stage]:
    tile = (slides, "--assume-mpp", 0.5, "--tile-px", 32)
    extract = (stores, "--device", "cpu", "--batch-size", 8)
    train = (
        bags,
        "--manifest",
        slides / "train.csv",
        "--device",
        "cpu",
        "--folds",
        2,
        "--epochs",
        20,
        "--baselines",
        "",
        "--hidden",
        16,
    )
    alike = ("driver", "tree")
    return {
        "tile": Stage("tile", tile, ("--workers", 2), ("process", "scheduler", *alike)),
        "extract": Stage("extract", extract, ("--nproc", 2, "--stall", 5), ("process", "paused", *alike)),
        "train": Stage("train", train, ("--workers", 2), ("process", *alike)),
    }


@contextmanager
def own_scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Dask scheduler and a worker of their own; the scheduler's address and process."""
    folder.mkdir(exist_ok=True)
    told, processes = folder / "scheduler.json", list[subprocess.Popen[bytes]]()
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", told)
    worker = ("worker", "--scheduler-file", told, "--nthreads", "1", "--no-dashboard", "--death-timeout", "20")
    try:
        for words in (scheduler, (*worker, "--local-directory", folder)):
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *map(str, words)], start_new_session=True, cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
            wait_for(told.is_file)
        import json

        yield str(json.loads(told.read_text())["address"]), processes[0]
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            wait_for(lambda leader=process.pid: not session_members(leader))  # type: ignore[misc]


def wait_for(happened: Callable[[], bool], seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def one_kill(stage: Stage, victim: str, out: Path, rng: random.Random) -> str:
    """Start the stage, hit the victim at a random moment, give the command again until it is done; tell what happened.

    Every process must be gone at the end.
    """
    if victim == "scheduler":
        with own_scheduler(out.with_name(f"{out.name}-dask")) as (address, scheduler):
            return _hit(stage, ("--scheduler", address), lambda command: [scheduler.pid], signal.SIGKILL, out, rng)

    def targets(command: Command) -> list[int]:
        if victim in ("driver", "tree"):
            return [command.process.pid]
        return rng.sample(children, 1) if (children := workers_of(command.process.pid)) else []

    number = signal.SIGSTOP if victim == "paused" else signal.SIGKILL
    return _hit(stage, stage.several, targets, number, out, rng, group=victim == "tree")


def _hit(
    stage: Stage,
    more: tuple[object, ...],
    targets: Callable[[Command], list[int]],
    number: int,
    out: Path,
    rng: random.Random,
    *,
    group: bool = False,
) -> str:
    command = Command(*stage.arguments(out, more))
    try:
        wait_for(lambda: command.process.poll() is not None or any(out.glob("*")) or any(out.glob(".*")))
        moment = rng.uniform(0, AFTER_SECONDS)
        time.sleep(moment)
        hit = targets(command) if command.process.poll() is None else []
        for pid in hit:
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(pid, number)
        _, told = command.process.communicate(timeout=200)
        wait_for(lambda: not session_members(command.process.pid))
    finally:
        command.kill()
    assert "Traceback" not in told, told
    code = command.process.returncode
    if code != 0:
        stage.finish(out)
    return f"after {moment:.2f} s, {'hit' if hit else 'too late'}, code {code}"
