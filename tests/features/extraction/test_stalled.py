"""Reads that block for ever, and ranks that stand still: given up, their work done anew, the others go on."""

import os
import signal
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from commanding import Command, session_members, workers_of
from making import picture, write_deflate

from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from wsi.progress.outcome import Status
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile


def contents(bags: Path) -> dict[str, str]:
    found = {}
    for path in bags.glob("*.h5"):
        with h5py.File(path) as bag:
            found[path.stem] = str(bag.attrs["content_sha256"])
    return found


def test_a_read_that_stalls_is_tried_again_and_then_fails_its_slide_alone(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calm = {"stores": (stores,), "batch_size": 8, "device": "cpu"}
    extract(ExtractOptions(**calm, out=tmp_path / "calm"))  # type: ignore[arg-type]
    read, gate, blocked = TileStore.read_tiles, threading.Event(), {"008e5c_0": 1, "049194_1": 10**6}

    def lost(self: TileStore, indices: np.ndarray, *, out: np.ndarray) -> np.ndarray:
        if blocked.get(self.image_id, 0) > 0:
            blocked[self.image_id] -= 1
            gate.wait(60)
        return read(self, indices, out=out)

    monkeypatch.setattr(TileStore, "read_tiles", lost)
    summary = extract(ExtractOptions(**calm, out=tmp_path / "lost", stall=1.5))  # type: ignore[arg-type]
    gate.set()
    found = {outcome.item_id: outcome for outcome in summary.outcomes}
    assert {name: own.status for name, own in found.items()} == {
        "008e5c_0": Status.DONE, "049194_0": Status.DONE, "049194_1": Status.FAILED
    }  # fmt: skip
    assert "049194_1: reading its store stalled 2 times for 1.5 s: see to its disk" in found["049194_1"].reason
    expected = contents(tmp_path / "calm")
    del expected["049194_1"]
    assert contents(tmp_path / "lost") == expected
    assert "in lost" in capfd.readouterr().err  # the stacks


@pytest.mark.slow
@pytest.mark.parametrize("loading", [False, True])
def test_a_rank_that_is_paused_is_ended_and_its_work_shared_anew(loading: bool, tmp_path: Path) -> None:
    slide = write_deflate(tmp_path / "big.tif", picture(1300, 1500), compressionargs={"level": 1})
    tile(TileOptions(slides=(slide,), out=tmp_path / "stores", assume_mpp=0.5, tile_px=32, workers=0))
    calm, out = tmp_path / "calm", tmp_path / "bags"
    options = ("extract", tmp_path / "stores", "--batch-size", 2, "--device", "cpu")
    extract(ExtractOptions(stores=(tmp_path / "stores",), out=calm, batch_size=2, device="cpu"))
    command = Command(*options, "--out", out, "--nproc", 2, "--stall", 4)
    try:
        command.wait_for(lambda: len(workers_of(command.process.pid)) == 2)
        command.wait_for(lambda: loading or any(out.glob(".big.h5.*.parts/*.npy")))
        os.kill(workers_of(command.process.pid)[0], signal.SIGSTOP)
        _, told = command.process.communicate(timeout=120)
        assert command.process.returncode == 0, told
        assert "stood still for 8 s, is paused (SIGSTOP), and is ended" in told
    finally:
        command.kill()
    assert contents(out) == contents(calm)
    until = time.monotonic() + 10
    while session_members(command.process.pid):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert [path.name for path in out.iterdir()] == ["big.h5"]
