"""The command line: quick help, one line per mistake, exit codes, and the README's commands as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner

from cli.app import app, run
from cli.commands import VERBS
from cli.verbs.demo import folds_for
from wsi.store.tile_store import TileStore
from wsi.viewing import frontend, npm

GIGAMIL = Path(sys.executable).with_name("gigamil")
Here = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--patients", "15", "--size", "2800")
"""The fewest of whom five carry the rarer label, one for each of a run's folds, on slides as small as they can be."""
ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def gigamil(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GIGAMIL, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Here:
    """Give a command in this process, which has its imports behind it."""

    def given(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        code = run([str(word) for word in arguments])
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return given


def test_help_is_quick_and_names_every_verb() -> None:
    spent = []
    for _ in range(4):
        before = os.times()
        done = gigamil("--help")
        after = os.times()
        spent.append(after.children_user - before.children_user + after.children_system - before.children_system)
    assert done.returncode == 0
    whole = " ".join(done.stdout.split())
    for name, verb in VERBS.items():
        assert f" {name} {verb.summary}" in whole
    # CPU time, not wall time, of the best: the test may share its machine.
    assert min(spent) < 0.3


def test_the_version_is_the_packages() -> None:
    assert re.fullmatch(r"gigamil \d+\.\d+\.\d+\n", gigamil("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("tile", "gone.svs", "--out", "o"), "gone.svs does not exist"),
        (("tile", ".", "--out", "o"), "holds no slide"),
        (("tile", "a.svs", "--out", "o", "--tile-px", "255"), "--tile-px 255: expected an even number"),
        (("tile", "a.svs", "--out", "o", "--codec", "png"), "--codec png: expected one of auto"),
        (("tile", "a.svs", "--out", "o", "--on-damage", "guess"), "expected fail or skip"),
        (("extract", "gone", "--out", "o"), "gone"),
        (("extract", "gone", "--out", "o", "--encoder", "resnet"), "resnet"),
        (("train", "gone", "--manifest", "gone.csv", "--out", "o"), "gone"),
        (("predict", "gone", "gone", "--out", "o.csv"), "gone"),
        (("heatmap", "gone", "gone", "gone", "--out", "o"), "gone"),
        (("report", "gone"), "gone"),
        (("verify", "gone.zarr"), "gone"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_wrong_request_is_one_line(
    tmp_path: Path,
    arguments: tuple[str, ...],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(list(arguments)) in {1, 2}
    told = capfd.readouterr().err
    assert expected in told
    assert "Traceback" not in told
    assert len(told.strip().splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["tile", "qc", "extract", "sample"])
def test_an_output_that_is_a_file_is_a_wrong_request(
    tmp_path: Path, small_store: TileStore, verb: str, here: Here
) -> None:
    (tmp_path / "file").write_text("mine")
    inputs = [] if verb == "sample" else [small_store.path]
    out = [tmp_path / "file"] if verb == "sample" else ["--out", tmp_path / "file"]
    done = here(verb, *inputs, *out)
    assert done.returncode == 2
    assert "expected a folder, found a file" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_failed_items_are_named_and_the_exit_code_is_1(tmp_path: Path, deflate_slide: Path, here: Here) -> None:
    (tmp_path / "text.svs").write_text("no slide")
    done = here("tile", deflate_slide, tmp_path / "text.svs", "--out", tmp_path / "o", "--assume-mpp", "0.5", "--json")
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert summary["counts"] == {"done": 1, "skipped": 0, "failed": 1}
    assert "Traceback" not in done.stderr


def test_info_needs_no_right_resolution_to_say_what_is_there(deflate_slide: Path, here: Here) -> None:
    done = here("info", deflate_slide, "--json")
    assert done.returncode == 1
    assert "--assume-mpp" in done.stdout
    assert here("info", deflate_slide, "--assume-mpp", "0.5").returncode == 0


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    done = gigamil("demo", "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    places = dict(re.findall(r"^(\w[\w ]+): +(.+)$", done.stdout, re.MULTILINE))
    shows = (Path(frontend.__file__).with_name("frontend") / npm.TARGET.name).is_file()
    assert set(places) == {"report", "predictions", "heat map", *(["slides"] if shows else [])}
    assert all(Path(place).is_file() for place in places.values())
    if shows:
        linked = re.findall(r'href="(pages/slides/[^"]+)"', Path(places["report"]).read_text())
        assert linked
        assert all((out / "run" / own).is_file() for own in linked)
        assert f"gigamil view {out}" in done.stdout.splitlines()[-1]
    return out


def test_a_second_demo_skips_finished_work_and_says_so(demo: Path, here: Here) -> None:
    started = time.monotonic()
    done = here("demo", "--out", demo, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("already done") >= 4
    assert time.monotonic() - started < 90


def begin(demo: Path, folder: Path) -> Callable[[], None]:
    """Give a folder the demo's stores and bags but for one slide's; return a check that this one was made as there."""
    for name in ("stores", "bags"):
        first, *others = sorted((demo / name).iterdir())
        (folder / name).mkdir()
        for path in others:
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, folder / name / path.name)
    missing = first.name

    def check() -> None:
        assert sorted(path.name for path in (folder / "stores").iterdir()) == sorted(
            path.name for path in (demo / "stores").iterdir()
        )
        digests = []
        for bags in (demo / "bags", folder / "bags"):
            with h5py.File(bags / missing) as bag:
                digests.append(bag.attrs["content_sha256"])
        assert digests[0] == digests[1]

    return check


def test_the_readmes_commands_run_as_they_stand_there(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Here
) -> None:
    block = README.read_text().split("## Your own slides")[1].split("\n## ")[0]
    commands = [line.split("#")[0].split() for line in block.splitlines() if line.startswith("    gigamil ")]
    assert [command[1] for command in commands][:3] == ["info", "tile", "qc"]
    for name in ("slides", "train.csv", "test.csv"):
        (tmp_path / name).symlink_to(demo / "cohort" / name)
    check = begin(demo, tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        done = here(*command[1:])
        assert done.returncode == 0, f"{command}: {done.stderr}"
    check()
    header, *rows = (tmp_path / "submission.csv").read_text().splitlines()
    assert header == "patient_id,CE,LAA"
    assert len(rows) == len({row.split(",")[0] for row in rows})
    assert all(abs(sum(map(float, row.split(",")[1:])) - 1) < 1e-6 for row in rows)


def test_the_sample_cohorts_file_runs_the_whole_pipeline(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "cohort", tmp_path / "cohort")  # the same recipe: `sample` finds its work done
    check = begin(demo, tmp_path)
    file = tmp_path / "gigamil.toml"
    file.write_text((ROOT / "sample_data" / "gigamil.toml").read_text())
    small = {"sample": SMALL, "train": ("--folds", "2", "--epochs", "2")}
    for verb in ("sample", "tile", "qc", "extract", "train", "predict", "heatmap", "report"):
        assert run([verb, "--config", str(file), *small.get(verb, ())]) == 0, verb
    check()
    assert (tmp_path / "submission.csv").read_text().startswith("patient_id,")
    assert all((tmp_path / name).exists() for name in ("qc/qc.html", "run/report.html", "run/model_card.md"))
    assert list((tmp_path / "heatmaps").glob("*.png"))


@pytest.mark.parametrize(("rare", "expected"), [(2, 2), (3, 3), (9, 5)])
def test_a_small_demo_has_a_patient_of_each_class_in_every_fold(tmp_path: Path, rare: int, expected: int) -> None:
    labels = ["CE"] * 9 + ["LAA"] * rare
    rows = [f"{patient:03d}_{slide},{label}" for patient, label in enumerate(labels) for slide in range(2)]
    (tmp_path / "train.csv").write_text("\n".join(["image_id,label", *rows]) + "\n")
    assert folds_for(tmp_path / "train.csv") == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "s3://AKIAKEY:SECRETWORD@bucket/x.zarr"),
        ("verify", "s3://AKIAKEY:SECRETWORD@bucket/folder"),
        ("export", "s3://AKIAKEY:SECRETWORD@bucket/x.zarr", "--ome-tiff", "--out", "x.ome.tiff"),
        ("extract", "s3://AKIAKEY:SECRETWORD@bucket/x.zarr", "--out", "bags"),
        ("verify", "nosuch://user:SECRETWORD@bucket/x.zarr"),
        ("info", "s3://AKIAKEY:SECRETWORD@bucket/x.svs"),
        ("qc", "https://127.0.0.1:1/x.zarr?X-Amz-Signature=SECRETWORD"),
    ],
)
def test_no_verb_prints_credentials(
    tmp_path: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIGAMIL_REMOTE_PATIENCE", "0.3")
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code in {1, 2}
    assert "SECRETWORD" not in ran.output
    assert "***" in ran.output
    assert not isinstance(ran.exception, Exception) or isinstance(ran.exception, SystemExit)


def test_encoders_as_json_have_types(here: Here) -> None:
    done = here("encoders", "resnet10t", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert (rows["uni"]["dim"], rows["uni"]["input_px"], rows["uni"]["mpp"], rows["uni"]["gated"]) == (
        1024, 224, [0.5], True
    )  # fmt: skip
    assert (rows["texture"]["dim"], rows["texture"]["gated"]) == (None, False)
    assert rows["timm:resnet10t.c3_in1k"]["crop_pct"] == 0.875
