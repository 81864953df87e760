"""The words of a profile, held against a slowness that a test has planted, and what is left behind: nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.verbs.profile import asked_of
from mil.watching.profiling.command import aside
from mil.watching.profiling.options import ProfileOptions
from mil.watching.profiling.places import step_of
from mil.watching.profiling.samples import frames_of, read_raw, speedscope
from mil.watching.profiling.verdict import judge, lines_of
from wsi.errors import RequestError

SLOW = """
import os, time
real = os.pread
def pread(*arguments):
    time.sleep(0.03)
    return real(*arguments)
os.pread = pread
"""


def profiled(folder: Path, *words: str, slow: str = "") -> "subprocess.CompletedProcess[str]":
    """Run `gigamil profile` with a Python that is slowed down by what stands in ``slow``."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(slow)
    (folder / "tmp").mkdir()
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cli", "profile", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_reader_that_sleeps_is_named(tmp_path: Path, deflate_slide: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "a.tif").symlink_to(deflate_slide)
    trace = tmp_path / "trace.json"
    words = ["--json", "--seconds", "60", "--trace", str(trace), "tile", str(slides), "--mpp", "0.5"]
    ran = profiled(tmp_path / "x", *words, "--assume-mpp", "0.5", "--out", str(tmp_path / "stores"), slow=SLOW)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["ended"] == "done"
    work = {step: share for step, share in told["shares"].items() if step != "waiting"}
    assert max(work, key=lambda step: work[step]) == "reading"
    assert max(told["measured"], key=lambda step: told["measured"][step]) == "read"
    assert (told["places"][0]["step"], told["places"][0]["place"]) == (
        "reading",
        "Mosaic._bytes_at (wsi/readers/mosaic.py)",
    )
    assert told["advice"].startswith("the disk or the network is slow")
    profile = json.loads(trace.read_text())
    frames = profile["shared"]["frames"]
    assert any(frame["name"] == "Mosaic._bytes_at" and frame["file"] == "wsi/readers/mosaic.py" for frame in frames)
    assert str(tmp_path) not in trace.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"slides", "trace.json", "x"}  # no stores
    assert list((tmp_path / "x" / "tmp").glob("gigamil*")) == []


@pytest.mark.slow
def test_py_spy_sees_all_processes(tmp_path: Path, deflate_slide: Path) -> None:
    pytest.importorskip("importlib.metadata").distribution("py-spy")
    trace = tmp_path / "trace.json"
    words = ["--json", "--tool", "py-spy", "--seconds", "60", "--trace", str(trace), "tile", str(deflate_slide)]
    ran = profiled(tmp_path / "x", *words, "--assume-mpp", "0.5", "--workers", "1", slow=SLOW)
    if "py-spy may not look" in ran.stderr:
        pytest.skip("py-spy may not look at processes here")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["places"][0]["place"] == "Mosaic._bytes_at (wsi/readers/mosaic.py)"
    names = [own["name"] for own in json.loads(trace.read_text())["profiles"]]
    assert {name.count("process ") for name in names} >= {1, 2}  # the tiler, and what it started
    assert list((tmp_path / "x" / "tmp").glob("gigamil*")) == []


def test_what_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no slide")
    trace = tmp_path / "t.json"
    ran = profiled(tmp_path / "x", "--trace", str(trace), "tile", str(bad))
    assert ran.returncode == 1
    assert "until it failed: " in ran.stdout
    assert list((tmp_path / "x" / "tmp").glob("gigamil*")) == []


def test_requests_that_cannot_be() -> None:
    for words, told in (
        (["view"], "expected a verb that can be profiled"),
        ([], "expected a verb"),
    ):
        with pytest.raises(RequestError, match=told):
            ProfileOptions(words=tuple(words))
    with pytest.raises(RequestError, match="extract: No such option"):
        asked_of("extract", ["stores", "--no-such"])
    with pytest.raises(RequestError, match="codec best"):
        asked_of("tile", ["slides", "--codec", "best"])


def test_outputs_stand_aside_and_one_process_does_it(tmp_path: Path) -> None:
    asked = asked_of("tile", ["slides", "--out", "mine", "--workers", "8", "--summary", "s.csv", "--overwrite"])
    own = aside(asked, tmp_path, "tile", alone=True)
    assert (own.out, own.workers, own.summary, own.overwrite) == (tmp_path / "out" / "mine", 0, None, False)
    assert (own.slides, own.tile_px) == (asked.slides, asked.tile_px)
    many = aside(asked_of("extract", ["s", "--nproc", "3"]), tmp_path / "b", "extract", alone=False)
    assert many.nproc == 3


def test_steps_of_stacks() -> None:
    def step(*frames: str) -> str:
        return step_of(frames_of(";".join(frames))[1])

    task = "make_region (wsi/tiling/tasks/region.py:40)"
    assert step(task, "_bytes_at (wsi/readers/mosaic.py:94)", "pread (x.py:3)") == "reading"
    assert step(task, "_byte_stream (wsi/readers/tiff/decode.py:140)") == "decoding"
    assert step(task, "encode (wsi/store/codecs.py:84)") == "compressing"
    assert step(task, "decode (wsi/store/codecs.py:104)") == "decoding"
    assert step(task, "f (wsi/files/atomic.py:1)") == "writing"
    assert step("run (threading.py:1)", "wait (threading.py:331)") == "waiting"
    assert (
        step("_run (features/extraction/stream.py:1)", "TileStream._encode_loop (features/extraction/stream.py:9)")
        == "waiting"
    )
    assert (
        step("_encode_loop (features/extraction/stream.py:9)", "forward (torch/nn/modules/linear.py:1)") == "encoding"
    )
    assert step("epoch (mil/training/loop.py:1)", "backward (torch/_tensor.py:1)") == "computing"
    assert step("fit (mil/training/fit.py:1)", "_call (torch/autograd/graph.py:1)") == "computing gradients"
    assert step("main (a.py:1)") == "other"


def test_the_verdict_by_hand() -> None:
    reads = "thread a;make_region (wsi/tiling/tasks/region.py:40);_bytes_at (wsi/readers/mosaic.py:94)"
    decodes = "thread a;make_region (wsi/tiling/tasks/region.py:41);_jpeg (wsi/readers/tiff/decode.py:94)"
    waits, idles = "thread a;wait (threading.py:3)", "thread b;wait (threading.py:3)"
    loads = "thread a;_load (<frozen importlib._bootstrap>:3)"
    found = judge({reads: 60, decodes: 20, waits: 20, idles: 1000, loads: 100})
    assert found.shares == pytest.approx({"reading": 0.6, "decoding": 0.2, "waiting": 0.2})
    assert (found.threads, found.samples, found.loading) == (1, 100, 0.5)
    assert found.places[0] == (0.75, "reading", "_bytes_at (wsi/readers/mosaic.py)")
    lines = lines_of(found, {"read": 1.0, "decode": 2.0})
    assert "    60%  reading" in lines
    assert "as the stage itself measured it, over all threads: decode 2.0 s, read 1.0 s" in lines
    assert lines[-1].startswith("-> the disk or the network is slow")
    assert judge({}).shares == {}


def test_the_trace_holds_every_sample() -> None:
    first = 'process 1:"x";thread (2): w;f (/usr/lib/python3/queue.py:3);g (wsi/a.py:4) 30'
    raw = f"{first}\nthread (3);f (b.py:1) 70\nrubbish\n"
    stacks = read_raw(raw)
    assert list(stacks.values()) == [30, 70]
    trace = json.loads(speedscope(stacks, "x"))
    assert [sum(own["weights"]) for own in trace["profiles"]] == pytest.approx([0.3, 0.7])
    own = trace["profiles"][0]
    assert [trace["shared"]["frames"][index]["name"] for index in own["samples"][0]] == ["f", "g"]
    assert own["name"] == 'process 1:"x" thread (2): w'
