"""What a stage took, and how it compares with its estimate."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mil.accounting.kept import NAME, accounted, earlier, keep_estimate, read_kept
from mil.accounting.ranges import Range, largest, total
from mil.accounting.spent import Spent, disk_use, measured, own_peak_bytes, tree_bytes

MIB = 1 << 20


def test_a_child_that_lives_counts_and_so_does_what_is_written(tmp_path: Path) -> None:
    code = (
        "import sys, time; block = b'1' * (200 << 20)\nwhile time.process_time() < 0.3: pass\n"
        "print('there', flush=True); sys.stdin.read()"
    )
    before = tree_bytes()
    with measured([tmp_path]) as spent:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        (tmp_path / "written").write_bytes(np.random.default_rng(0).bytes(3 * MIB))
    try:
        assert spent.peak_bytes - before > 195 * MIB
        assert spent.cpu_seconds >= 0.29
        assert 3 * MIB <= spent.disk_bytes < 3.1 * MIB
        assert spent.seconds > 0
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait(20)


def test_peak_of_a_process_is_its_own_and_not_that_of_its_parent() -> None:
    block = np.ones(300 * MIB, np.uint8)
    code = "from mil.accounting.spent import own_peak_bytes; print(own_peak_bytes())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert own_peak_bytes() > block.nbytes > 2 * int(told)


def test_disk_use_counts_whole_blocks(tmp_path: Path) -> None:
    (tmp_path / "small").write_text("1")
    assert disk_use([tmp_path, tmp_path / "absent"]) in (
        512,
        4096,
    )  # of a file system that keeps it in its inode, or not


def _estimate(todo: int) -> dict[str, object]:
    told = {name: Range.about(100.0, 0.2).as_dict() for name in ("seconds", "peak_bytes", "disk_bytes")}
    return {"todo": todo, **told}


def test_truth_stands_beside_its_estimate_once(tmp_path: Path) -> None:
    keep_estimate(tmp_path, {"tile": _estimate(3)})
    with accounted(tmp_path, "tile", [tmp_path / "stores"]) as account:
        (tmp_path / "stores").mkdir()
        (tmp_path / "stores" / "a").write_bytes(b"1" * 8192)
        account.done = 3
    kept = json.loads((tmp_path / NAME).read_text())
    assert kept["stages"] == {}
    (truth,) = kept["truths"]
    assert truth["disk_bytes"] == {"estimate": 100.0, "truth": 8192, "ratio": 81.92}
    assert account.line.startswith("of what plan expected: seconds ")
    assert any(line.startswith("disk: earlier estimates here were 0.012 of the truth") for line in earlier(tmp_path))
    with accounted(tmp_path, "tile", []) as again:
        again.done = 3
    assert again.truth is None


def test_other_work_than_was_estimated_is_not_compared(tmp_path: Path) -> None:
    keep_estimate(tmp_path, {"tile": _estimate(3)})
    with accounted(tmp_path, "tile", []) as account:
        account.done = 2
    assert account.truth is None
    assert account.line == ""
    assert read_kept(tmp_path)["stages"]["tile"]["todo"] == 3


@pytest.mark.parametrize("text", ["", "[]", "{", '{"stages": 3, "truths": 7}'])
def test_a_broken_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    assert earlier(tmp_path) == []
    with accounted(tmp_path, "tile", []) as account:
        account.done = 1
    assert account.truth is None
    keep_estimate(tmp_path, {"tile": _estimate(1)})
    assert read_kept(tmp_path)["stages"]["tile"]["todo"] == 1


def test_ranges_add_up() -> None:
    first, second = Range.about(10, 0.3, 0.4), Range.exactly(2)
    assert (first.low, first.high) == (5, 15)
    assert total([first, second]) == Range(7, 12, 17)
    assert largest([first, second]) == first
    assert second.error == 0
    assert first.error == pytest.approx(0.5)
    assert Range.of(first.as_dict()) == first
    assert Spent().as_dict()["peak_bytes"] == 0
