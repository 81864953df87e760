"""The model of a cluster against cases that can be worked out by hand."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scale_model import Cluster, Costs, Step, lifted, simulate

ROOT = Path(__file__).resolve().parents[2]
ONE = Costs([Step(1, [1.0]), Step(10, [2.0]), Step(1, [0.5])], client_s=0.0, scheduler_s=0.0, claim_s=0.0)


def test_one_worker_does_one_task_after_the_other() -> None:
    found = simulate(ONE, Cluster(1), slides=4)
    assert found.seconds == pytest.approx(4 * 21.5)
    assert found.tasks == 4 * 12
    assert found.busy["workers"] == pytest.approx(1)
    assert found.bottleneck == "workers"


def test_steps_of_one_slide_wait_for_each_other() -> None:
    assert simulate(ONE, Cluster(100), slides=1).seconds == pytest.approx(1 + 2 + 0.5)
    assert simulate(ONE, Cluster(4), slides=1).seconds == pytest.approx(1 + 3 * 2 + 0.5)


@pytest.mark.parametrize(
    ("name", "costs", "cluster", "least"),
    [
        ("client", replace(ONE, client_s=0.1), Cluster(200), 100 * 12 * 0.1),
        ("scheduler", replace(ONE, scheduler_s=0.1), Cluster(200), 100 * 12 * 0.1),
        ("bandwidth", replace(ONE, steps=[Step(10, [1.0], bytes=5e6)]), Cluster(200, bytes_per_s=1e8), 100 * 10 * 0.05),
        ("files", replace(ONE, steps=[Step(10, [1.0], files=4)]), Cluster(200, files_per_s=100), 100 * 10 * 0.04),
    ],
)
def test_the_slowest_server_is_named_and_lifting_it_helps(
    name: str, costs: Costs, cluster: Cluster, least: float
) -> None:
    found = simulate(costs, cluster, slides=100)
    assert found.bottleneck == name
    assert 0.999 * least <= found.seconds < 1.15 * least + 5
    _, costs, cluster = lifted(costs, cluster, name)
    assert simulate(costs, cluster, slides=100).seconds < 0.6 * found.seconds


@pytest.mark.slow
def test_the_benchmark_runs_and_its_model_is_near_the_truth(tmp_path: Path) -> None:
    command = [sys.executable, "tests/benchmarks/bench_scale.py", "--quick", "--out", str(tmp_path / "scale.json")]
    subprocess.run(command, check=True, cwd=ROOT, timeout=600, capture_output=True)
    found = json.loads((tmp_path / "scale.json").read_text())
    assert [row["slides"] for row in found["cohorts"]] == [1, 4]
    assert found["files_of_a_slide"] > 10
    own = found["model"][1]
    assert abs(own["error"]) < 0.5
