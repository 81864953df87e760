"""Several runs asked together, arguments that would be ignored, files of others, and damaged run folders."""

import csv
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner
from making import SEED
from witness import Trained, facts, grid, instances

from cli.app import app
from features.bags.bag import write_bag
from mil.models.ensemble import load_ensemble
from mil.run.folder import RunFolder
from mil.train import train
from wsi.errors import RequestError
from wsi.files.csv_table import csv_text, read_records
from wsi.recipe import recipe_hash


@pytest.fixture(scope="module")
def other(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("second") / "run"
    train(trained.witness.options(out, head="mean_pool", baselines=(), epochs=3))
    return out


@pytest.fixture
def new(tmp_path: Path) -> Path:
    rng = np.random.default_rng(SEED)
    for name in ("a_0", "b_0"):
        write_bag(tmp_path / "new" / f"{name}.h5", [instances(rng, 40, positive=name < "b")], grid(40), facts(name))
    return tmp_path / "new"


def told(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    return done.exit_code, done.output + (done.stderr or "")


def table(path: Path) -> np.ndarray:
    with path.open(newline="") as file:
        return np.array([[float(row["CE"]), float(row["LAA"])] for row in csv.DictReader(file)])


def test_runs_are_combined_as_compare_does(trained: Trained, other: Path, new: Path, tmp_path: Path) -> None:
    for name, run in (("one", trained.out), ("two", other)):
        assert told("predict", run, new, "-o", tmp_path / f"{name}.csv")[0] == 0
    assert told("predict", "--run", trained.out, "--run", other, new, "-o", tmp_path / "m.csv")[0] == 0
    product = np.sqrt(table(tmp_path / "one.csv") * table(tmp_path / "two.csv"))
    np.testing.assert_allclose(table(tmp_path / "m.csv"), product / product.sum(axis=1, keepdims=True), atol=1e-12)
    assert told("compare", trained.out, other, "-o", tmp_path / "c")[0] == 0
    rows = json.loads((tmp_path / "c" / "compare.json").read_text())["runs"]
    for how, row in (("mean", "mean of the runs"), ("stack", "stack of the runs")):
        out = tmp_path / f"{how}_c.csv"
        assert told("predict", tmp_path / "c", new, "--combine", how, "-o", out)[0] == 0
        assert json.loads(out.with_suffix(".json").read_text())["score"] == rows[row]["metrics"]
    assert (tmp_path / "mean_c.csv").read_bytes() == (tmp_path / "m.csv").read_bytes()
    assert (table(tmp_path / "stack_c.csv") != table(tmp_path / "m.csv")).any()


def test_an_argument_that_yields_nothing_is_refused(trained: Trained, other: Path, new: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("image_id,patient_id\na_0,a\nb_0,b\n")
    for extra, words in ((other, "is a run"), (tmp_path / "empty", "is empty"), (tmp_path / "t.csv", "--manifest")):
        code, text = told("predict", trained.out, extra, new, "-m", tmp_path / "t.csv", "-o", tmp_path / "p.csv")
        assert (code, words in " ".join(text.split())) == (2, True), text
    code, text = told(
        "predict", trained.out, new, trained.witness.bags, "-m", tmp_path / "t.csv", "-o", tmp_path / "p.csv"
    )
    assert (code, "holds no bag of a slide" in " ".join(text.split())) == (2, True)
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("name", ["p.csv", "p.json"])
def test_files_of_others_stay(trained: Trained, new: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"recipe": {}}')
    assert told("predict", trained.out, new, "-o", tmp_path / "p.csv")[0] == 2
    assert (tmp_path / name).read_text() == '{"recipe": {}}'
    assert told("predict", trained.out, new, "-o", tmp_path / "p.csv", "--overwrite")[0] == 0


def test_compare_leaves_runs_and_files_of_others_alone(trained: Trained, other: Path, tmp_path: Path) -> None:
    assert told("compare", trained.out, other, "-o", other)[0] == 2
    (tmp_path / "compare.html").write_text("mine")
    assert told("compare", trained.out, other, "-o", tmp_path)[0] == 2
    assert (tmp_path / "compare.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "old", "new_text"),
    [
        ("config.toml", "folds = 3", "folds = 0"),
        ("config.toml", "dim = 24", 'dim = "x"'),
        ("config.toml", '{\\"settings\\":\\"one\\"}', '{\\"settings\\":\\"two\\"}'),
        ("config.toml", "tile_px = 256.0 }", 'tile = "x" }'),
        ("calibration.json", '"temperature": ', '"temperature": NaN, "was": '),
        ("metrics.json", "", "[]"),
    ],
)
def test_a_damaged_run_is_one_line(trained: Trained, tmp_path: Path, file: str, old: str, new_text: str) -> None:
    shutil.copytree(trained.out, tmp_path / "run")
    path = tmp_path / "run" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new_text) if old else new_text)
    with pytest.raises(RequestError, match="is damaged"):
        RunFolder(tmp_path / "run").read_json(file if file.endswith("json") else "metrics.json")


def test_models_of_other_outputs_than_the_run_names_are_refused(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.out, tmp_path / "run")
    path = tmp_path / "run" / "config.toml"
    config = tomllib.loads(path.read_text())
    config["recipe"]["classes"] = config["recipe"]["classes"][:1]
    config["recipe_hash"] = recipe_hash(config["recipe"])
    path.write_text(tomli_w.dumps(config))
    with pytest.raises(RequestError, match=r"seed0: expected a model of 1 outputs as in config.toml, found one of 2"):
        load_ensemble(RunFolder(tmp_path / "run"), "cpu")


def test_cells_are_no_formulas_and_read_back(tmp_path: Path) -> None:
    cells = ["=1+1", "+a", "-b", "@c", "'=d", "'e", "-1.5", "plain"]
    (tmp_path / "t.csv").write_text(csv_text([cells, cells]))
    assert (tmp_path / "t.csv").read_text().startswith("'=1+1,'+a,'-b,'@c,''=d,'e,-1.5,plain")
    assert read_records(tmp_path / "t.csv") == [dict(zip(cells, cells, strict=True))]
