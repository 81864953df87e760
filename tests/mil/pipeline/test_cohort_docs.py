"""The cohort files of the documentation are what they say: one is run, the other is read."""

import re
import shutil
from pathlib import Path

import pytest

from cli.app import run as command
from mil.pipeline.cohort.cohort_file import read_cohort_file
from mil.pipeline.experiments import DONE, Experiments

DOCS = Path(__file__).resolve().parents[3] / "docs"


def example(name: str) -> str:
    (found,) = re.findall(r"```toml\n(.*?)```", (DOCS / name).read_text("utf-8"), re.DOTALL)
    return str(found)


@pytest.mark.slow
def test_the_example_runs(slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands there, but for the epochs: the cohort has ten patients."""
    shutil.copytree(slides, tmp_path, dirs_exist_ok=True)
    (tmp_path / "new" / "p10_0.tif").rename(tmp_path / "slides" / "p10_0.tif")
    (tmp_path / "test.csv").write_text("image_id,patient_id,center_id\np10_0,p10,0\n")
    text = example("cohorts.md")
    assert "epochs = 20\n" in text
    path = tmp_path / "cohort.toml"
    path.write_text(text.replace("epochs = 20\n", "epochs = 1\nbaselines = []\n").replace("folds = 3\n", "folds = 2\n"))
    assert command(["run", str(path), "--workers", "1"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().err
    rows = Experiments(tmp_path / "work").rows()
    names = [f"texture-{head}-seed={seed}" for head in ("gated_abmil", "mean_pool") for seed in (0, 1)]
    assert [row.name for row in rows] == ["wide", *names]
    assert all(row.state == DONE for row in rows)
    assert rows[0].start <= min(row.start for row in rows[1:])
    best = max(rows, key=lambda row: row.score or 0).name
    assert f"best of 5: {best}, auc " in told
    (table,) = (tmp_path / "work" / "predictions").glob("*.csv")
    assert [line.split(",")[0] for line in table.read_text().splitlines()] == ["patient_id", "p10"]
    assert list((tmp_path / "work" / "heatmaps" / "wide").glob("*.png"))


def test_the_walk_through_of_strip_ai_is_read(tmp_path: Path) -> None:
    (tmp_path / "strip").mkdir()
    for name in ("train", "other"):
        (tmp_path / "strip" / f"{name}.csv").write_text("image_id,patient_id,label\na_0,a,CE\n")
    (tmp_path / "strip.toml").write_text(example("strip-ai.md"))
    file = read_cohort_file(tmp_path / "strip.toml")
    grid = [f"{e}-{h}" for e in ("uni", "lunit-vits16") for h in ("gated_abmil", "clam_sb", "dsmil")]
    assert [own.name for own in file.experiments] == ["unseen-centers", "with-others", *grid]
    assert [own.manifest.name for own in file.tilings if own.manifest] == ["train.csv", "other.csv", "test.csv"]
    assert list(file.after) == ["predict", "heatmap", "page", "report"]
