"""torchrun under the verb's own exit code: items that fail and state that is saved are no crashes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from commanding import ROOT
from killing import content, left_behind, wait_for
from making import picture, write_deflate

from cli.torchrun import code_of
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("left", "crashed", "code"),
    [
        ([0, 0], False, 0), ([1, 0], False, 1), ([75, 75], False, 75), ([75, 0, 1], False, 75), ([2, 0], False, 2),
        ([0], True, 1), ([75], True, 1), ([2], True, 2), ([], True, 1),
    ],
)  # fmt: skip
def test_the_jobs_code(tmp_path: Path, left: list[int], crashed: bool, code: int) -> None:
    for number, own in enumerate(left):
        (tmp_path / f"{own}-{number}").touch()
    assert code_of(tmp_path, crashed) == code


ALONE = ("--standalone", "--nproc-per-node", 2, "--max-restarts", 2)


def started(*words: object, nodes: tuple[object, ...] = ALONE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cli.torchrun", *map(str, nodes)]
    return subprocess.Popen(
        [*command, *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_a_bad_store_is_no_crash(stores: Path, tmp_path: Path) -> None:
    shutil.copytree(stores, tmp_path / "stores")
    bad = next((tmp_path / "stores" / "008e5c_0.zarr" / "0" / "c").rglob("[0-9]"))
    bad.write_bytes(b"x" * bad.stat().st_size) if bad.is_file() else shutil.rmtree(bad)
    command = started("extract", tmp_path / "stores", "--out", tmp_path / "bags", "--device", "cpu")
    _, told = command.communicate(timeout=240)
    assert command.returncode == 1, told
    assert "Traceback" not in told
    assert told.count("2 done, 1 FAILED") == 1  # once: nothing was started anew
    assert sorted(path.name for path in (tmp_path / "bags").iterdir()) == ["049194_0.h5", "049194_1.h5"]


def test_a_refusal_is_no_crash(stores: Path, tmp_path: Path) -> None:
    command = started("extract", stores, "--out", tmp_path / "bags", "--device", "cpu", "--encoder", "no-such-one")
    _, told = command.communicate(timeout=240)
    assert command.returncode == 2, told
    assert "Traceback" not in told


def test_saved_under_torchrun(stores: Path, tmp_path: Path) -> None:
    out = tmp_path / "bags"
    command = started("extract", stores, "--out", out, "--device", "cpu", "--batch-size", 1)
    while not list(out.glob(".*.lock")):
        assert command.poll() is None
    os.kill(command.pid, signal.SIGUSR1)
    _, told = command.communicate(timeout=240)
    assert command.returncode == 75, told
    assert "saved: give the same command again" in told
    assert "Traceback" not in told


@pytest.mark.timeout(1800)
def test_a_node_joins_another_one_dies_and_the_bags_are_those_of_one_process(tmp_path: Path) -> None:
    """Two agents on this machine stand for two nodes: the second comes while the first works, and is killed."""
    slides, stores, out = tmp_path / "slides", tmp_path / "stores", tmp_path / "bags"
    slides.mkdir()
    for number in range(40):
        write_deflate(slides / f"n{number:02d}_0.tif", picture(420, 520, number))
    assert tile(TileOptions(slides=(slides,), out=stores, tile_px=32, assume_mpp=0.5, workers=0)).exit_code == 0
    assert extract(ExtractOptions(stores=(stores,), out=tmp_path / "alone", device="cpu", batch_size=1)).exit_code == 0
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-conf", "last_call_timeout=1")
    nodes = ("--nnodes", "1:2", "--nproc-per-node", 1, "--max-restarts", 3, *meeting)
    words = ("extract", stores, "--out", out, "--device", "cpu", "--batch-size", 1)
    first = started(*words, nodes=nodes)
    wait_for(lambda: any(out.glob("*.h5")), 300)
    second = started(*words, nodes=nodes)
    try:
        wait_for(lambda: first.poll() is not None or bool(psutil.Process(second.pid).children()), 300)
        before = len(list(out.glob("*.h5")))  # the first one's rank had been stopped when the nodes met
        wait_for(lambda: first.poll() is not None or len(list(out.glob("*.h5"))) > before, 300)
        assert first.poll() is None, "ended before the other node had joined: more slides are wanted"
        ranks = psutil.Process(second.pid).children(recursive=True)
        second.kill()
        assert not psutil.wait_procs(ranks, 60)[1]  # they end with it
        _, told = first.communicate(
            timeout=1200
        )  # minutes of silence, then the rest, then five at the exit barrier of torchrun
    finally:
        for node in (first, second):
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
        second.communicate()
    assert first.returncode == 0, told
    assert "Traceback" not in told
    assert content(out) == content(tmp_path / "alone")
    assert left_behind(out) == []
