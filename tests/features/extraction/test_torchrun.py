"""torchrun under the verb's own exit code: items that fail and state that is saved are no crashes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commanding import ROOT

from cli.torchrun import code_of

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


def started(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cli.torchrun", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
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
