"""Faults in the middle of a run: a worker that dies, a full disk, a scheduler that goes away."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from making import picture, write_deflate

from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

RUN = """
import json, resource, sys
from pathlib import Path
from wsi.errors import GigamilError
from wsi.tiling.tiler import tile
from wsi.tiling.options import TileOptions
if __name__ == "__main__":
    slide, out, limit, options = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        print(json.dumps(tile(TileOptions(slides=(slide,), out=out, assume_mpp=0.5, tile_px=32, **options)).as_dict()))
    except GigamilError as error:
        print(json.dumps({"error": str(error), "type": type(error).__name__}))
"""
SCHEDULER = """
import time
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    print(cluster.scheduler_address, flush=True)
    time.sleep(120)
"""


def start(
    tmp_path: Path, slide: Path, out: Path, options: str = '{"workers": 1}', limit: int = 0
) -> subprocess.Popen[str]:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(slide), str(out), str(limit), options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_a_receipt(out: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(out.glob("*.partial/.work/receipt-*")):
        assert time.monotonic() < deadline, "no region was finished within a minute"
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()[1:]]
    direct = [child for child, parent in pairs if parent == pid]
    return direct + [grandchild for child in direct for grandchild in children(child)]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_deflate(
        tmp_path_factory.mktemp("slide") / "big.tif", picture(2600, 3100), compressionargs={"level": 1}
    )


def test_a_killed_worker_costs_only_its_tasks(tmp_path: Path, slide: Path) -> None:
    out = tmp_path / "out"
    process = start(tmp_path, slide, out)
    wait_for_a_receipt(out)
    workers = [p for p in children(process.pid) if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert workers
    os.kill(workers[-1], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=120)
    assert '"done": 1' in stdout, stdout + stderr
    undisturbed = tile(TileOptions(slides=(slide,), out=tmp_path / "whole", assume_mpp=0.5, tile_px=32, workers=0))
    assert undisturbed.exit_code == 0
    shards = sorted(p.relative_to(out) for p in out.rglob("c/*/*/*"))
    assert shards
    assert all((out / p).read_bytes() == (tmp_path / "whole" / p).read_bytes() for p in shards)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, slide: Path) -> None:
    """A limit on the size of a file fails the write as a full disk does."""
    out = tmp_path / "out"
    stdout, stderr = start(tmp_path, slide, out, '{"workers": 0}', limit=60_000).communicate(timeout=120)
    assert '"failed": 1' in stdout, stdout + stderr
    assert "File too large" in stdout
    assert "Traceback" not in stdout + stderr
    assert list(out.iterdir()) == []


def test_a_lost_scheduler_is_one_line_and_keeps_what_is_done(tmp_path: Path, slide: Path) -> None:
    script = tmp_path / "scheduler.py"
    script.write_text(SCHEDULER)
    scheduler = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert scheduler.stdout is not None
    address = scheduler.stdout.readline().strip()
    out = tmp_path / "out"
    process = start(tmp_path, slide, out, f'{{"scheduler": "{address}"}}')
    wait_for_a_receipt(out)
    os.killpg(scheduler.pid, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=120)
    scheduler.wait()
    scheduler.stdout.close()
    assert "SchedulerLostError" in stdout, stdout + stderr
    assert "run the same command again" in stdout
    assert "Traceback" not in stderr
    assert list(out.glob("*.partial/.work/receipt-*"))
    again = tile(TileOptions(slides=(slide,), out=out, assume_mpp=0.5, tile_px=32, workers=0))
    assert again.exit_code == 0
    assert [p.name for p in out.iterdir()] == ["big.zarr"]


def test_no_scheduler_at_the_address_is_a_wrong_request(tmp_path: Path, slide: Path) -> None:
    options = '{"scheduler": "tcp://127.0.0.1:9"}'
    stdout, stderr = start(tmp_path, slide, tmp_path / "out", options).communicate(timeout=120)
    assert "no Dask scheduler answers there" in stdout, stdout + stderr
