"""How often a cohort was looked at: what stands beside a run."""

import shutil
from pathlib import Path

import pytest
from witness import Trained

from mil.run.beside import is_repeat, runs_beside
from mil.run.folder import RunFolder


def copied(run: Path, to: Path) -> RunFolder:
    to.mkdir(parents=True)
    for name in ("config.toml", "splits.csv"):
        shutil.copyfile(run / name, to / name)
    return RunFolder(to)


@pytest.fixture
def runs(trained: Trained, tmp_path: Path) -> Path:
    for name in ("a", "b", "many/repeat0", "many/repeat1"):
        copied(trained.out, tmp_path / name)
    return tmp_path


def test_runs_of_the_same_patients_are_counted_and_repeats_once(runs: Path) -> None:
    assert runs_beside(RunFolder(runs / "a")).names == ("a", "b", "many")
    assert runs_beside(RunFolder(runs / "many" / "repeat1")).names == ("a", "b", "many")
    assert is_repeat(runs / "many" / "repeat1")
    assert not is_repeat(runs / "a")


def test_other_patients_other_truths_and_other_targets_are_other_cohorts(runs: Path) -> None:
    own = RunFolder(runs / "a")
    table = runs / "b" / "splits.csv"
    text = table.read_text()
    table.write_text(text.replace("LAA", "XX").replace("CE", "LAA"))
    assert runs_beside(own).looks == 2
    lines = text.splitlines()
    table.write_text("\n".join(lines[: 3 * len(lines) // 4]) + "\n")
    assert runs_beside(own).looks == 3  # a few slides fewer
    table.write_text("\n".join(lines[: len(lines) // 3]) + "\n")
    assert runs_beside(own).looks == 2
    table.write_text(text)
    config = runs / "b" / "config.toml"
    config.write_text("no run")
    assert runs_beside(own).names == ("a", "many")
    table.unlink()
    assert runs_beside(RunFolder(runs / "b")).names == ("b",)
