"""The rehearsal: agrees where it should, and names stage, slide and size of what is wrong where it should not."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from making import picture, write_deflate

from mil.pipeline.cohort.cohort_file import read_cohort_file
from mil.pipeline.rehearsed import why_not_rehearsed
from mil.rehearsal.compare import scores
from mil.rehearsal.options import Rehearsed, RehearseOptions, rehearsed_of
from mil.rehearsal.rehearse import ending_of_rehearsal, rehearse
from mil.rehearsal.share import chosen_rows, write_share
from wsi.cohort.manifest import ManifestRow, load_manifest
from wsi.errors import RequestError
from wsi.progress.outcome import Status, Summary

PLUGIN = """
import torch
from features.encoders.registry import EncoderEntry
from features.encoders.spec import EncoderSpec

class Ours:
    def __init__(self, name):
        self.spec = EncoderSpec(
            name=name, dim=16, input_px=32, mean=(0.7, 0.6, 0.7), std=(0.2, 0.2, 0.2), trained=False,
            weights_sha256="0" * 64, licence="MIT", description="a projection of a small picture",
        )
        draw = torch.Generator().manual_seed(7)
        self.first = torch.randn(48, 32, generator=draw)
        self.second = torch.randn(32, 16, generator=draw) / 32

    def to(self, device):
        return self

    def encode(self, tiles_NCHW):
        rows = torch.nn.functional.avg_pool2d(tiles_NCHW, 8).flatten(1)
        if self.spec.name == "ours:unnormalised" and torch.is_autocast_enabled("cpu"):
            rows = rows * 0.2 + 0.65
        scale = 1e5 if self.spec.name == "ours:large" else 1.0
        return (rows @ (self.first * scale)) @ (self.second / scale)

ENTRY = EncoderEntry("ours:<kind>", "an encoder of the test", "MIT", lambda name, weights: Ours(name))
"""
COHORT = """
folder = "work"
slides = ["slides"]
manifest = "train.csv"
[tile]
assume_mpp = 0.5
tile_px = 128
workers = {workers}
[extract]
encoder = "{encoder}"
precision = "{precision}"
nproc = {nproc}
device = "cpu"
[train]
baselines = []
device = "cpu"
{more}
[rehearse]
patients = 8
epochs = 3
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an installed package with encoders."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "gigamil_encoder_to_rehearse.py").write_text(PLUGIN)
    info = folder / "gigamil_encoder_to_rehearse-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gigamil-encoder-to-rehearse\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gigamil.encoders]\nours = gigamil_encoder_to_rehearse:ENTRY\n")
    return folder


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patients with a small slide each, and their table."""
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "slides").mkdir()
    lines = ["image_id,patient_id,label"]
    for number in range(10):
        name = f"{number:06d}_0"
        write_deflate(folder / "slides" / f"{name}.tif", picture(500, 620, seed=number))
        lines.append(f"{name},{number:06d},{'LAA' if number % 2 else 'CE'}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


def cohort_file(folder: Path, slides: Path, encoder: str, precision: str, nproc: int = 1, more: str = "") -> Path:
    for name in ("slides", "train.csv"):
        (folder / name).symlink_to(slides / name)
    path = folder / "cohort.toml"
    workers = 2 if nproc > 1 else 0
    path.write_text(COHORT.format(encoder=encoder, precision=precision, nproc=nproc, workers=workers, more=more))
    return path


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))


def rehearsed(path: Path) -> tuple[Summary, dict]:  # type: ignore[type-arg]
    summary = rehearse(RehearseOptions(cohort=path))
    return summary, json.loads((path.parent / "work" / "rehearsal.json").read_text())


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bf16_ranks_and_workers_agree_with_one_process_in_fp32(tmp_path: Path, slides: Path, nproc: int) -> None:
    path = cohort_file(tmp_path, slides, "ours:good", "bf16", nproc=nproc)
    summary, found = rehearsed(path)
    assert summary.exit_code == 0, summary.outcomes
    assert [own.item_id.split()[0] for own in summary.outcomes] == ["tile", "extract", "train", "predict"]
    assert found["passed"]
    assert why_not_rehearsed(read_cohort_file(path)) == ""
    assert found["of"] == read_cohort_file(path).content_hash
    assert found["patients"] == 8
    assert found["speed"]["tile"]["items"] == found["slides"] == 8
    assert found["speed"]["extract ours:good"]["tiles_per_second"] > 0
    assert not (tmp_path / "work" / "rehearsal").exists()
    said = ending_of_rehearsal(path, summary)["lines"]
    assert any("tiles/s" in line for line in said)
    # bf16 has 8 bits: that the two are not the same, and how far apart they are, is seen
    differs = float(re.search(r"differ by ([\d.]+)%", found["agreed"]["extract ours:good"]).group(1))  # type: ignore[union-attr]
    assert 0.05 < differs < 5


@pytest.mark.usefixtures("installed")
def test_another_normalisation_of_the_half_precision_path_is_found(tmp_path: Path, slides: Path) -> None:
    path = cohort_file(tmp_path, slides, "ours:unnormalised", "bf16")
    summary, found = rehearsed(path)
    assert summary.exit_code == 1
    assert not found["passed"]
    assert "features differ by" in why_not_rehearsed(read_cohort_file(tmp_path / "cohort.toml"))
    stages = {own.item_id: own.status for own in summary.outcomes}
    assert stages["tile"] is stages["train ours-unnormalised-gated_abmil"] is Status.DONE
    assert stages["extract ours:unnormalised"] is Status.FAILED
    first = found["differences"][0]
    assert first["stage"] == "extract ours:unnormalised"
    assert first["found"] > 0.3
    assert first["tolerance"] == 0.05
    assert f"features differ by {first['found']:.2%}" in found["why"]
    assert "allowed for bf16: 5.00%" in found["why"]
    assert len([own for own in found["differences"] if own["stage"].startswith("extract")]) == 8
    assert (tmp_path / "work" / "rehearsal" / "production" / "stores").is_dir()


@pytest.mark.usefixtures("installed")
def test_a_precision_in_which_the_encoder_overflows_is_found(tmp_path: Path, slides: Path) -> None:
    summary, found = rehearsed(cohort_file(tmp_path, slides, "ours:large", "fp16"))
    assert summary.exit_code == 1
    first = found["differences"][0]
    assert first["stage"] == "extract ours:large"
    assert "failed under the production settings only" in first["what"]
    assert "tile 0 at level-0 (y, x) = (0, 0) is NaN" in first["what"]


def test_a_rehearsal_that_did_not_end_was_not_passed(tmp_path: Path, slides: Path) -> None:
    path = cohort_file(tmp_path, slides, "texture", "fp32")
    for name in ("slides", "train.csv"):
        (tmp_path / name).unlink()
    (tmp_path / "slides").mkdir()
    for number in range(8):
        (tmp_path / "slides" / f"{number}.tif").write_bytes(b"no slide")
    lines = [f"{number},{number},{'AB'[number % 2]}" for number in range(8)]
    (tmp_path / "train.csv").write_text("\n".join(["image_id,patient_id,label", *lines]) + "\n")
    (tmp_path / "work").mkdir()
    own = read_cohort_file(path).content_hash
    (tmp_path / "work" / "rehearsal.json").write_text(json.dumps({"content_hash": own, "passed": True}))
    assert why_not_rehearsed(read_cohort_file(path)) == ""
    with pytest.raises(RequestError, match="no slide of the rehearsal could be tiled"):
        rehearse(RehearseOptions(cohort=path))
    assert "it was not finished" in why_not_rehearsed(read_cohort_file(path))


def rows_of(labels: str) -> list[ManifestRow]:
    return [ManifestRow(f"{n:04d}_0", f"{n:04d}", label) for n, label in enumerate(labels)]


def test_a_share_is_of_every_class_and_stays_the_same_in_any_order() -> None:
    rows = rows_of("A" * 300 + "B" * 100)
    chosen = chosen_rows(rows, Rehearsed(share=0.1))
    assert [sum(row.label == label for row in chosen) for label in "AB"] == [30, 10]
    assert {row.patient_id for row in chosen_rows(rows[::-1], Rehearsed(share=0.1))} == {r.patient_id for r in chosen}
    few = chosen_rows(rows_of("A" * 300 + "B" * 3), Rehearsed(share=0.01))
    assert [sum(row.label == label for row in few) for label in "AB"] == [12, 3]


def test_the_table_of_a_share_reads_as_the_cohorts(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("slide,case_id,label,path,mpp,time,event\n7_0,7,A,x/7.tif,0.25,3,1\n8_0,8,B,y.tif,,4,0\n")
    rows = load_manifest(table, {"image_id": "slide"})
    write_share(tmp_path / "elsewhere.csv", rows)
    again = load_manifest(tmp_path / "elsewhere.csv", {})
    assert again == rows


def test_scores_are_compared_by_size_and_order() -> None:
    plain = {name: np.array([p, 1 - p]) for name, p in (("a", 0.2), ("b", 0.5), ("c", 0.9))}
    near = {name: told + np.array([0.01, -0.01]) for name, told in plain.items()}
    found, largest = scores("s", plain, near, 0.05)
    assert not found
    assert largest == pytest.approx(0.01)
    turned = plain | {"a": plain["b"], "b": plain["a"]}
    found, largest = scores("s", plain, turned, 0.05)
    assert largest == pytest.approx(0.3)
    assert [own.item for own in found] == ["a", "b and a"]
    hazards = {"a": np.array([-20.0]), "b": np.array([20.0])}
    assert scores("s", hazards, {"a": np.array([-20.0]), "b": np.array([21.5])}, 0.05)[1] == pytest.approx(1.5 / 20)
    assert scores("s", plain, plain | {"a": np.array([np.nan, np.nan])}, 0.05)[1] == np.inf


@pytest.mark.parametrize(
    ("line", "told"),
    [("shares = 0.1", r"\[rehearse\]: shares is no option of rehearse: did you mean share"), ("fp16 = -1", "above 0")],
)
def test_a_wrong_table_is_refused(tmp_path: Path, slides: Path, line: str, told: str) -> None:
    path = cohort_file(tmp_path, slides, "texture", "fp32")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(RequestError, match=told):
        rehearsed_of(read_cohort_file(path))
