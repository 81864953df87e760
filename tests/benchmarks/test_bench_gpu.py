"""The GPU's benchmark, rehearsed without one: each step runs to its end, and every check holds on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_steps import STEPS

from mil.planning.calibration import read_calibration

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_steps_can_be_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "tests/benchmarks/bench_gpu.py", "--small", "--device", "cpu", "--patience", "10"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert ended.returncode == 0, [row for row in rows if row.get("ok") is False]
    assert {row["step"] for row in rows} == {*STEPS, "machine"} - {"suite"}
    assert sum("ok" in row for row in rows) >= 18
    assert (tmp_path / "trace.json").stat().st_size > 10_000
    assert read_calibration(tmp_path / "card.json").machine.cpus > 0
