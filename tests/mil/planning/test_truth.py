"""The plan of a whole sample cohort beside its run, as commands: minutes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mil.accounting.kept import NAME

pytestmark = pytest.mark.slow
_FILE = """
folder = "work"
slides = ["cohort/slides"]
manifest = "cohort/train.csv"
[tile]
assume_mpp = 0.5
[extract]
encoder = "texture"
"""


def gigamil(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "cli", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(3000)
def test_a_cohort_takes_what_was_planned(tmp_path: Path) -> None:
    """Memory, disk and processor time within 30 %; wall time twice as wide, for the machine may be busy."""
    gigamil(tmp_path, "sample", "cohort", "--patients", "24")
    (tmp_path / "c.toml").write_text(_FILE)
    gigamil(tmp_path, "plan", "c.toml")
    gigamil(tmp_path, "run", "c.toml")
    truths = {own["stage"]: own for own in json.loads((tmp_path / "work" / NAME).read_text())["truths"]}
    assert set(truths) == {"tile", "extract", "train"}
    for stage, own in truths.items():
        for name in ("peak_bytes", "disk_bytes"):
            assert 0.7 < own[name]["ratio"] < 1.43, (stage, name, own)
        assert 0.4 < own["seconds"]["ratio"] < 2.5, (stage, own)
    assert "earlier estimates here were" in gigamil(tmp_path, "plan", "c.toml")
