"""Extraction end to end on real stores: the same bags however it is run, and whatever goes wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commanding import workers_of

from features.bags.bag import find_bags, is_intact, read_coords, read_features, read_header
from features.distributed import Place
from features.encoders import device
from features.encoders.registry import build_encoder
from features.encoders.spec import EncoderSpec
from features.encoders.tile_input import TileInput
from features.extraction.extract import _make_ready, extract
from features.extraction.options import ExtractOptions, options_of
from features.extraction.plan import Job
from wsi.errors import RecipeMismatchError, RequestError
from wsi.progress.outcome import Silent, Status
from wsi.store.tile_store import TileStore, find_stores

ROOT = Path(__file__).parents[3]
TIMM: dict[str, Any] = {"encoder": "timm:test_convnext.r160_in1k", "random_weights": 1}


def bags_of(stores: Path, out: Path, **options: object) -> Path:
    summary = extract(ExtractOptions(stores=(stores,), out=out, **options))  # type: ignore[arg-type]
    assert summary.exit_code == 0, summary.outcomes
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, stores: Path) -> Path:
    """Bags of one process, batches of 8."""
    return bags_of(stores, tmp_path_factory.mktemp("reference"), batch_size=8, **TIMM)


@pytest.fixture(scope="module")
def texture_reference(tmp_path_factory: pytest.TempPathFactory, stores: Path) -> Path:
    """Bags of the handcrafted encoder: its processes start quicker than timm's."""
    return bags_of(stores, tmp_path_factory.mktemp("texture"), batch_size=8)


class Notes(Silent):
    """Keeps what a person would read, and counts the bar."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.total = self.seen = 0.0

    def begin(self, title: str, total: float, unit: str) -> None:
        self.total = total

    def advance(self, amount: float) -> None:
        self.seen += amount

    def note(self, line: str) -> None:
        self.lines.append(line)


def test_bags_hold_the_encoders_answer_for_each_tile(stores: Path, tmp_path: Path) -> None:
    notes = Notes()
    summary = extract(ExtractOptions(stores=(stores,), out=tmp_path, encoder="texture"), notes)
    assert [(o.item_id, o.status) for o in summary.outcomes] == [
        ("008e5c_0", "done"), ("049194_0", "done"), ("049194_1", "done")
    ]  # fmt: skip
    encoder, to_input = build_encoder("texture"), None
    to_input = TileInput(encoder.spec, torch.device("cpu"))
    for store in find_stores([stores]):
        header = read_header(tmp_path / f"{store.image_id}.h5")
        assert (header.n_tiles, header.dim) == (store.n_tiles, encoder.spec.dim)
        assert header.level0_shape_yx == store.slide_shape_yx
        assert header.tile_px_l0 == store.tile_px * store.l0_px_per_px
        assert header.recipe["tiling"] == store.recipe
        assert header.provenance["store_recipe_hash"] == store.recipe_hash
        assert header.provenance["encoder"]["trained"] is False
        np.testing.assert_array_equal(read_coords(header.path), store.coords_l0_yx())
        pixels = torch.from_numpy(store.read_tiles(range(store.n_tiles)))
        expected = encoder.encode(to_input(pixels)).numpy()
        np.testing.assert_allclose(read_features(header.path), expected, rtol=1e-3, atol=1e-4)
    assert notes.total == notes.seen == sum(store.n_tiles for store in find_stores([stores]))
    assert str(stores) not in json.dumps(header.provenance) + json.dumps(header.recipe)
    assert sorted(content(tmp_path)) == ["008e5c_0.h5", "049194_0.h5", "049194_1.h5"]


def test_two_ranks_give_the_same_bytes(stores: Path, tmp_path: Path, texture_reference: Path) -> None:
    assert content(bags_of(stores, tmp_path, batch_size=8, nproc=2)) == content(texture_reference)


@pytest.mark.slow
@pytest.mark.parametrize("nproc", [2, 3])
def test_any_number_of_ranks_gives_the_same_bytes(stores: Path, tmp_path: Path, reference: Path, nproc: int) -> None:
    assert content(bags_of(stores, tmp_path, batch_size=8, nproc=nproc, **TIMM)) == content(reference)


def test_torchrun_gives_the_same_bytes(stores: Path, tmp_path: Path, texture_reference: Path) -> None:
    out = tmp_path / "bags"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cli"]
    command += ["extract", str(stores), "--out", str(out), "--batch-size", "8", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"done": 3, "skipped": 0, "failed": 0}
    assert content(out) == content(texture_reference)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_nothing_above_rounding(
    stores: Path, tmp_path: Path, reference: Path, batch_size: int
) -> None:
    for path in find_bags([bags_of(stores, tmp_path, batch_size=batch_size, **TIMM)]):
        found, expected = (read_features(folder / path.name).astype(np.float32) for folder in (tmp_path, reference))
        step = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float32)
        assert (np.abs(found - expected) <= 1e-5 + step).all()


def test_finished_bags_are_skipped_and_damaged_ones_made_again(stores: Path, tmp_path: Path, reference: Path) -> None:
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "049194_0.h5"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    before = (tmp_path / "008e5c_0.h5").stat().st_mtime_ns
    summary = extract(ExtractOptions(stores=(stores,), out=tmp_path, batch_size=8, **TIMM))
    assert [o.status for o in summary.outcomes] == [Status.SKIPPED, Status.DONE, Status.SKIPPED]
    assert (tmp_path / "008e5c_0.h5").stat().st_mtime_ns == before
    assert content(tmp_path) == content(reference)


def test_other_settings_are_refused_and_the_fields_named(stores: Path, tmp_path: Path, reference: Path) -> None:
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    with pytest.raises(RecipeMismatchError, match=r"encoder\.weights_sha256: found .*--overwrite"):
        extract(ExtractOptions(stores=(stores,), out=tmp_path, encoder=TIMM["encoder"], random_weights=2))
    assert content(tmp_path) == content(reference)
    bags_of(stores, tmp_path, encoder="texture", overwrite=True)
    assert {read_header(path).encoder for path in find_bags([tmp_path])} == {"texture"}


def test_a_foreign_bag_is_not_replaced(stores: Path, tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "049194_0.h5", "w") as file:
        file["features"] = np.zeros((2, 3), np.float32)
    before = (tmp_path / "049194_0.h5").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(RequestError, match="was not made by gigamil"):
            extract(ExtractOptions(stores=(stores,), out=tmp_path, overwrite=overwrite))
    assert (tmp_path / "049194_0.h5").read_bytes() == before


def damage(store: Path) -> None:
    """Cut every shard of level 0 short."""
    for shard in (store / "0").rglob("*"):
        if shard.is_file() and shard.name != "zarr.json":
            shard.write_bytes(shard.read_bytes()[:100])


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_damaged_store_fails_alone(stores: Path, tmp_path: Path, texture_reference: Path, nproc: int) -> None:
    batch = tmp_path / "stores"
    shutil.copytree(stores, batch)
    damage(batch / "049194_0.zarr")
    (batch / "garbage.zarr").mkdir()
    (batch / "garbage.zarr" / "zarr.json").write_text("{")
    out = tmp_path / "bags"
    summary = extract(ExtractOptions(stores=(batch,), out=out, batch_size=8, nproc=nproc))
    ended = {o.item_id: (o.status.value, o.reason) for o in summary.outcomes}
    assert ended["008e5c_0"][0] == ended["049194_1"][0] == "done"
    assert ended["049194_0"][0] == ended["garbage"][0] == "failed"
    assert "049194_0.zarr" in ended["049194_0"][1]
    assert summary.exit_code == 1
    expected = content(texture_reference)
    del expected["049194_0.h5"]
    assert {name: data for name, data in content(out).items() if name.endswith(".h5")} == expected


def test_a_slide_without_tissue_gives_an_empty_bag(small_store: TileStore, tmp_path: Path) -> None:
    import zarr

    empty = tmp_path / "stores" / "empty_0.zarr"
    shutil.copytree(small_store.path, empty)
    meta = json.loads((empty / "zarr.json").read_text())
    meta["attributes"]["gigamil"]["n_tiles"] = 0
    (empty / "zarr.json").write_text(json.dumps(meta))
    zarr.create_array(empty / "tiles" / "yx", shape=(0, 2), chunks=(1, 2), dtype="int32", overwrite=True)
    summary = extract(ExtractOptions(stores=(tmp_path / "stores",), out=tmp_path / "bags"))
    assert summary.outcomes[0].status is Status.DONE
    assert "no tile with tissue" in summary.outcomes[0].reason
    header = read_header(tmp_path / "bags" / "empty_0.h5")
    assert (header.n_tiles, header.dim) == (0, build_encoder("texture").spec.dim)


def test_untrained_features_are_never_silent(stores: Path, tmp_path: Path) -> None:
    notes = Notes()
    summary = extract(ExtractOptions(stores=(stores,), out=tmp_path, **TIMM), notes)
    assert any("random weights (seed 1): untrained" in line for line in notes.lines)
    assert all(outcome.facts["encoder_trained"] is False for outcome in summary.outcomes)


def test_a_claimed_bag_is_left_to_its_writer(stores: Path, tmp_path: Path) -> None:
    from wsi.files.claim import claim

    with claim(tmp_path / "049194_0.h5"):
        summary = extract(ExtractOptions(stores=(stores,), out=tmp_path))
    assert [o.status.value for o in summary.outcomes] == ["done", "failed", "done"]
    assert "is being written by" in summary.outcomes[1].reason


SLOW_RUN = """
import sys, time
from pathlib import Path
from features.extraction import extract as module
from features.extraction.stream import TileStream
from wsi.machine.interrupt import interrupt_on_signals

original = TileStream._encoded
def slowly(self, task):
    time.sleep(0.4)
    return original(self, task)
TileStream._encoded = slowly

if __name__ == "__main__":
    interrupt_on_signals()
    options = module.ExtractOptions(stores=(Path(sys.argv[1]),), out=Path(sys.argv[2]), nproc=int(sys.argv[3]),
        batch_size=8)
    summary = module.extract(options)
    print(summary.as_dict())
    sys.exit(summary.exit_code)
"""


def start_slowly(stores: Path, folder: Path, nproc: int) -> tuple[subprocess.Popen[str], Path]:
    """Start an extraction that takes some seconds, and wait until a part of its work lies on the disk."""
    script, out = folder / "slow.py", folder / "bags"
    script.write_text(SLOW_RUN)
    command = [sys.executable, str(script), str(stores), str(out), str(nproc)]
    run = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 100
    while not [*out.glob("*.h5"), *out.glob(".*.parts/*.npy")]:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return run, out


def test_killed_and_run_again_gives_the_same_bytes(stores: Path, tmp_path: Path, texture_reference: Path) -> None:
    run, out = start_slowly(stores, tmp_path, nproc=1)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    left = find_bags([out]) if list(out.glob("*.h5")) else []
    assert len(left) < 3
    assert all(is_intact(path) for path in left)
    notes = Notes()
    extract(ExtractOptions(stores=(stores,), out=out, batch_size=8), notes)
    assert notes.total < sum(store.n_tiles for store in find_stores([stores]))
    assert content(out) == content(texture_reference)


def test_a_killed_rank_costs_only_its_unfinished_items(stores: Path, tmp_path: Path, texture_reference: Path) -> None:
    run, out = start_slowly(stores, tmp_path, nproc=2)
    os.kill(workers_of(run.pid)[-1], signal.SIGKILL)
    output, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors
    assert "'done': 3" in output
    assert content(out) == content(texture_reference)


def test_an_interrupted_run_keeps_its_finished_rows(stores: Path, tmp_path: Path, texture_reference: Path) -> None:
    class Impatient(Notes):
        def advance(self, amount: float) -> None:
            super().advance(amount)
            if self.seen >= 24:
                raise KeyboardInterrupt

    first, second = Impatient(), Notes()
    with pytest.raises(KeyboardInterrupt):
        extract(ExtractOptions(stores=(stores,), out=tmp_path, batch_size=8), first)
    extract(ExtractOptions(stores=(stores,), out=tmp_path, batch_size=8), second)
    assert (first.seen, second.total) == (24, first.total - 24)
    assert content(tmp_path) == content(texture_reference)


def test_a_stopped_run_stops_its_ranks_which_keep_their_rows(
    stores: Path, tmp_path: Path, texture_reference: Path
) -> None:
    run, out = start_slowly(stores, tmp_path, nproc=2)
    ranks = workers_of(run.pid)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == -signal.SIGINT  # what Python makes of it
    assert "KeyboardInterrupt: 15" in errors
    assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
    notes = Notes()
    extract(ExtractOptions(stores=(stores,), out=out, batch_size=8), notes)
    assert notes.total < sum(store.n_tiles for store in find_stores([stores]))
    assert content(out) == content(texture_reference)


DYING_RANKS = """
import json, os, signal, sys
from pathlib import Path
from features.extraction import extract as module
from features.extraction import parts
from wsi.files.atomic import replacing

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

def die_once(path, *arguments, **named):
    try:
        os.close(os.open(sys.argv[4], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return write(path, *arguments, **named)
    with replacing(path) as temporary:
        temporary.write_bytes(b"half a bag")
        die()

write = parts.write_bag
if __name__ == "__mp_main__":
    if sys.argv[3] == "loading":
        module._encoder = die
    else:
        parts.write_bag = die_once

if __name__ == "__main__":
    summary = module.extract(module.ExtractOptions(stores=(Path(sys.argv[1]),), out=Path(sys.argv[2]), nproc=2,
        batch_size=8))
    print(json.dumps(summary.as_dict()))
"""


def with_dying_ranks(stores: Path, folder: Path, when: str) -> tuple[list[dict[str, str]], Path]:
    """Extract with ranks that are killed, all ``loading`` or one ``writing``; return the summary's items, the bags."""
    script, out = folder / "dying.py", folder / "bags"
    script.write_text(DYING_RANKS)
    command = [sys.executable, str(script), str(stores), str(out), when, str(folder / "died")]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["items"], out


def test_ranks_that_are_killed_while_they_load_are_told_as_that(stores: Path, tmp_path: Path) -> None:
    items, _ = with_dying_ranks(stores, tmp_path, "loading")
    assert {item["status"] for item in items} == {"failed"}
    for item in items:
        assert "stopped by signal 9 (SIGKILL: out of memory, most likely) while it loaded" in item["reason"]
        assert "fewer --nproc" in item["reason"]
        assert "tile" not in item["reason"]


def test_a_rank_that_is_killed_while_it_writes_leaves_nothing(
    stores: Path, tmp_path: Path, texture_reference: Path
) -> None:
    items, out = with_dying_ranks(stores, tmp_path, "writing")
    assert (tmp_path / "died").exists()
    assert {item["status"] for item in items} == {"done"}, items
    assert content(out) == content(texture_reference)


FOLLOWING = """
import os, sys, time
from pathlib import Path
from features import distributed
from features.extraction import collect
from features.extraction import extract as module

rank, met = int(os.environ["RANK"]), Path(sys.argv[3])
fail, take = collect.Collector._fail, distributed.Group.next_item

def failing(self, slide, reason):
    fail(self, slide, reason)
    met.touch()

def after_the_other(self):
    while not met.exists():
        time.sleep(0.01)
    return take(self)

if rank:
    collect.Collector._fail = failing
else:
    distributed.Group.next_item = after_the_other

options = module.ExtractOptions(stores=(Path(sys.argv[1]),), out=Path(sys.argv[2]), batch_size=8,
    views="flips" if rank else "none")
summary = module.extract(options)
print(rank, [(o.item_id, o.status.value) for o in summary.outcomes], flush=True)
sys.exit(summary.exit_code)
"""


def test_a_damaged_store_met_by_another_rank_does_not_stop_torchrun(
    stores: Path, tmp_path: Path, texture_reference: Path
) -> None:
    """Rank 1 meets it, ends with 0, and what it was told otherwise counts nothing: the job is rank 0's."""
    batch, out, script = tmp_path / "stores", tmp_path / "bags", tmp_path / "following.py"
    shutil.copytree(stores, batch)
    damage(batch / "049194_0.zarr")
    script.write_text(FOLLOWING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command += [str(batch), str(out), str(tmp_path / "met")]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr
    assert "1 []" in done.stdout
    assert "0 [('008e5c_0', 'done'), ('049194_0', 'failed'), ('049194_1', 'done')]" in done.stdout
    expected = content(texture_reference)
    del expected["049194_0.h5"]
    assert {name: data for name, data in content(out).items() if name.endswith(".h5")} == expected


class Loud:
    """An encoder whose features are larger than float16 can hold."""

    spec = EncoderSpec(name="loud", dim=2, input_px=None, trained=False, weights_sha256="", licence="", description="")

    def to(self, device: torch.device) -> "Loud":
        return self

    def encode(self, tiles_NCHW: torch.Tensor) -> torch.Tensor:
        return torch.stack([tiles_NCHW.mean((1, 2, 3)), torch.full((len(tiles_NCHW),), 70_000.0)], 1)


def test_features_beyond_float16_are_told_and_fit_into_float32(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.extraction.extract.build_encoder", lambda *_, **__: Loud())
    summary = extract(ExtractOptions(stores=(stores,), out=tmp_path / "half", batch_size=8))
    assert {o.status for o in summary.outcomes} == {Status.FAILED}
    for outcome in summary.outcomes:
        assert re.search(r"feature 1 of tile \d+ at level-0 \(y, x\) = \(", outcome.reason)
        assert "is 70000, beyond float16's 65504: extract with --bag-dtype float32" in outcome.reason
    wide = ExtractOptions(stores=(stores,), out=tmp_path / "single", batch_size=8, bag_dtype="float32")
    assert extract(wide).exit_code == 0
    for path in find_bags([wide.out]):
        features = read_features(path)
        assert features.dtype == np.float32
        assert (features[:, 1] == 70_000).all()
        assert is_intact(path)
        recipe = read_header(path).recipe
        assert (recipe["bag_dtype"], options_of(recipe)["bag_dtype"]) == ("float32", "float32")
    assert {o.status for o in extract(wide).outcomes} == {Status.SKIPPED}


def test_a_rank_that_would_make_other_features_is_refused(stores: Path) -> None:
    encoder = build_encoder("texture")
    job = Job((), 8, encoder.spec.dim, "texture", encoder.spec.weights_sha256, device_type="cuda", precision="bf16")
    with pytest.raises(RequestError, match="rank 3 would run on cpu, and rank 0 on cuda"):
        _make_ready(job, encoder, torch.device("cpu"), Place(3, 4, 3, 4))


FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions

if __name__ == "__main__":
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), limit))
    summary = extract(ExtractOptions(stores=(Path(sys.argv[1]),), out=Path(sys.argv[2]), batch_size=8))
    print(json.dumps(summary.as_dict()))
"""


@pytest.mark.parametrize("bytes_left", [3000, 9000])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    stores: Path, tmp_path: Path, texture_reference: Path, bytes_left: int
) -> None:
    """No file may grow beyond so many bytes: writing fails within a part, or within a bag."""
    script, out = tmp_path / "full.py", tmp_path / "bags"
    script.write_text(FULL_DISK)
    command = [sys.executable, str(script), str(stores), str(out), str(bytes_left)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    items = json.loads(done.stdout)["items"]
    assert {item["status"] for item in items} == {"failed"}
    assert all("cannot be written (File too large)" in item["reason"] for item in items)
    assert not [*out.glob("*.h5"), *out.rglob("*.partial")]
    assert content(bags_of(stores, out, batch_size=8)) == content(texture_reference)


def test_requests_are_checked(stores: Path, tmp_path: Path) -> None:
    for wrong, told in (
        ({"batch_size": 0}, "--batch-size 0: expected 1 or more"),
        ({"nproc": 0}, "--nproc 0"),
        ({"precision": "int8"}, "--precision int8"),
        ({"weights": tmp_path / "none.pt"}, "expected a file of weights"),
    ):
        with pytest.raises(RequestError, match=told):
            ExtractOptions(stores=(stores,), out=tmp_path, **wrong)
    with pytest.raises(RequestError, match="texture runs in fp32 only"):
        extract(ExtractOptions(stores=(stores,), out=tmp_path, precision="bf16"))


def test_bf16_stays_near_fp32(stores: Path, tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in find_bags([bags_of(stores, tmp_path, batch_size=8, precision="bf16", **TIMM)]):
        found, expected = (read_features(folder / path.name).astype(np.float32) for folder in (tmp_path, reference))
        assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
    with pytest.raises(RecipeMismatchError, match=r"precision: found .?bf16"):
        extract(ExtractOptions(stores=(stores,), out=tmp_path, **TIMM))
    monkeypatch.setattr(device, "UNITS", {"bf16": ("no CPU's",)})
    extract(ExtractOptions(stores=(stores,), out=tmp_path, precision="bf16", **TIMM), notes := Notes())
    assert any(note.startswith("caution: --precision bf16: expected a CPU with units for it") for note in notes.lines)
