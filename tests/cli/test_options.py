"""One dataclass per verb: the command line, TOML, Python and the reference say the same."""

import os
import subprocess
import sys
import typing
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest
from click import Context
from click.testing import CliRunner

from cli.app import app, run, told_by
from cli.commands import VERBS
from cli.from_dataclass import made, texts
from cli.reference import reference
from cli.verbs.config import read_config, written
from features.encoders.device import PRECISIONS
from features.extraction.options import ExtractOptions
from features.selection import SELECTIONS
from features.stain import STAINS
from features.views import VIEWS
from mil.data.several_encoders import FUSIONS
from mil.evaluation.calibrate import AUTO, METHODS
from mil.heads import HEADS
from mil.heads.head import OUTPUTS
from mil.inference.combine import COMBINATIONS
from mil.options import Calibration, Combination, Fusion, HeadName, Output, Target
from mil.targets import TARGETS
from mil.training.options import TrainOptions
from wsi.errors import RequestError
from wsi.options import NO_LOCK, decided, specs, stage
from wsi.slide import READERS
from wsi.store.codecs import CODEC_CHOICES
from wsi.tiling.options import TileOptions
from wsi.tissue.roi import MODES

ROOT = Path(__file__).parents[2]
EVERY_VERB = pytest.mark.parametrize("verb", VERBS)
HEAVY = {"torch", "zarr", "dask", "numpy", "rich", "timm"}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@EVERY_VERB
def test_help_is_whole_and_imports_nothing_heavy(verb: str) -> None:
    program = f"import sys; from cli.app import run; run([{verb!r}, '--help']); print(set(sys.modules) & {HEAVY!r})"
    before = os.times()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    after = os.times()
    assert done.stdout.splitlines()[-1] == "set()", done.stdout[-200:]
    assert after.children_user - before.children_user + after.children_system - before.children_system < 1.0
    whole = "".join(done.stdout.split())  # lines are broken after hyphens, too
    assert "".join(VERBS[verb].summary.split()) in whole
    for spec in specs(VERBS[verb].load("options")):
        assert "".join(texts(spec.group)[spec.field].split()) in whole


@pytest.mark.parametrize(
    "usage",
    [
        "tile [SLIDES]...", "info [SLIDES]...", "qc STORES...", "verify ITEMS...", "export ITEM", "extract STORES...",
        "encoders [SEARCH]", "finetune STORES...", "train BAGS...", "tune BAGS...", "predict [RUN] SLIDES...",
        "heatmap RUN BAGS STORES", "report RUN", "compare RUN...", "similar RUN BAGS...",
    ],
)  # fmt: skip
def test_arguments_stand_in_the_order_of_people(usage: str) -> None:
    verb, _, arguments = usage.partition(" ")
    told = CliRunner().invoke(app, [verb, "--help"]).output.splitlines()[0]
    assert told.endswith(f" {verb} [OPTIONS] {arguments}")


@EVERY_VERB
def test_every_field_says_what_it_means(verb: str) -> None:
    for spec in specs(VERBS[verb].load("options")):
        assert texts(spec.group)[spec.field].endswith((".", ".,...")), spec.field


@EVERY_VERB
def test_what_config_prints_is_taken_back(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gigamil.toml").write_text(written(VERBS[verb]))
    options = VERBS[verb].load("options")
    values = read_config(Path("gigamil.toml"), VERBS[verb])
    defaults = {spec.field: spec.default for spec in specs(options) if spec.default not in (MISSING, None)}
    assert values == {name: value for name, value in defaults.items() if name not in decided(options)}
    assert all(f"# {spec.key} =" in written(VERBS[verb]) for spec in specs(options) if spec.field not in values)


def test_the_command_line_stands_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "gigamil.toml").write_text(
        '[tile]\nmpp = 1\nslides = ["a.svs"]\nout = "stores"\n[train]\nfolds = 3\nclasses = "CE,LAA"\n'
    )
    tile = read_config(tmp_path / "gigamil.toml", VERBS["tile"])
    assert tile == {"target_mpp": 1.0, "slides": (tmp_path / "a.svs",), "out": tmp_path / "stores"}
    assert made(TileOptions, tile | {"target_mpp": 0.5}).target_mpp == 0.5
    assert read_config(tmp_path / "gigamil.toml", VERBS["train"]) == {"folds": 3, "classes": ("CE", "LAA")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[tile]\nmp = 1", "mp is no option of tile: did you mean mpp?"),
        ("[tlie]\nmpp = 1", "[tlie] is no verb: did you mean tile?"),
        ("[train]\nfolds = 3", "expected a table [tile], found [train]"),
        ("mpp = 1\n[tile]\n", "mpp stands outside the tables"),
        ("[tile]\nbackground = 'keep'", "background is now keep_background"),
        ("mpp = '1'", "--mpp 1: expected 0.05 to 20 um/px"),
        ("mpp = 1000", "--mpp 1000.0: expected 0.05 to 20 um/px"),
        ("codec = 'png'", "--codec png: expected one of auto, jpeg, zstd"),
        ("overwrite = 1", "--overwrite 1: expected true or false"),
        ("mpp = = 1", "expected TOML"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(RequestError, match=r"g\.toml") as told:
        read_config(tmp_path / "g.toml", VERBS["tile"])
    assert expected in str(told.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train b --jobs 2", "gigamil train: --jobs is now --workers"),
        ("heatmap r b s -j 2", "gigamil heatmap: -j is now --workers"),
        ("tile a --background keep", "gigamil tile: --background is now --keep-background"),
        ("finetune s --attention f", "gigamil finetune: --attention is now --heatmaps"),
        ("train b --epoch 2", "gigamil train: there is no --epoch: did you mean --epochs?"),
        ("trainn", "gigamil: trainn is no verb: did you mean train?"),
        ("train", "gigamil train: expected BAGS, --out and --manifest, found none"),
        (
            "train b -m m -o o --target kind",
            "gigamil train: --target kind: expected one of classes, labels, value, survival",
        ),
        ("train b -m m -o o --folds 1", "gigamil train: --folds 1: expected 2 or more"),
        ("train b -m m -o o --lr nan", "gigamil train: --lr nan: expected a finite number, above 0"),
        ("tile a --config gone.toml", "gigamil tile: gone.toml: cannot be read: No such file or directory"),
    ],
)
def test_a_usage_error_is_one_line(capsys: pytest.CaptureFixture[str], words: str, expected: str) -> None:
    assert refused(capsys, *words.split()) == expected


@pytest.mark.parametrize(
    ("words", "heads"),
    [
        ("", ("gated_abmil", "mean_pool")),
        ("--head abmil", ("abmil", "mean_pool")),
        ("--head abmil,max_pool,clam_sb", ("abmil", "max_pool", "clam_sb")),
        ("--head abmil --head max_pool", ("abmil", "max_pool")),
        ("--head abmil,max_pool,abmil --baselines mean_pool,max_pool", ("abmil", "max_pool", "mean_pool")),
    ],
)
def test_of_several_heads_the_first_is_the_runs_and_the_others_its_baselines(
    words: str, heads: tuple[str, ...]
) -> None:
    command = app.get_command(Context(app), "train")
    assert command is not None
    asked = told_by(VERBS["train"], command.make_context("train", ["b", "-m", "m", "-o", "o", *words.split()]))
    assert asked.heads == heads


@pytest.mark.parametrize("words", [["--head", ""], ["--head", ","], ["--head", "abmil,,gated"]])
def test_a_head_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert "expected one of gated_abmil, abmil, " in refused(capsys, "train", "b", "-m", "m", "-o", "o", *words)


def test_python_gets_the_same_line() -> None:
    with pytest.raises(RequestError, match="--codec png: expected one of auto, jpeg, zstd"):
        TileOptions(slides=(Path("a"),), codec="png")  # type: ignore[arg-type]
    loose: Any = {"slides": "a.svs", "out": "stores", "drop": ["focus<0.04"]}
    options = TileOptions(**loose)
    assert (options.slides, options.out, options.drop) == ((Path("a.svs"),), Path("stores"), ("focus<0.04",))


def test_choices_are_those_of_the_code() -> None:
    def choices(options: type, field: str) -> set[str]:
        return set(next(spec for spec in specs(options) if spec.field == field).choices)

    assert set(typing.get_args(HeadName)) == set(HEADS)
    assert typing.get_args(Target) == tuple(TARGETS)
    assert typing.get_args(Fusion) == FUSIONS
    assert typing.get_args(Output) == OUTPUTS
    assert typing.get_args(Combination) == COMBINATIONS
    assert set(typing.get_args(Calibration)) == {*METHODS, AUTO}
    assert choices(ExtractOptions, "select") == set(SELECTIONS)
    assert choices(ExtractOptions, "stain") == set(STAINS)
    assert choices(ExtractOptions, "views") == set(VIEWS)
    assert choices(ExtractOptions, "precision") == {"auto", *PRECISIONS}
    assert choices(TileOptions, "codec") == set(CODEC_CHOICES)
    assert choices(TileOptions, "reader") == set(READERS)
    assert choices(TileOptions, "roi_mode") == set(MODES)


def test_what_shapes_a_run_is_in_its_recipe() -> None:
    options = TrainOptions(bags=(Path("b"),), manifest=Path("m"), out=Path("o"))
    outside = {"bags", "manifest", "out", "stores", "splits", "teacher", "other", "columns", "no_lock", "overwrite"}
    outside |= {
        "device",
        "precision",
        "workers",
        "nproc",
        "together",
        "stall",
        "max_rows",
        "device_cache",
        "track",
        "repeats",
    }
    outside |= {"auto", "fixed"}  # what they choose is in it
    used = options.recipe() | dict.fromkeys(
        (
            "optimizer",
            "sam_rho",
            "balance",
            "fusion",
            "target",
            "split",
            "calibrate",
            "aggregate",
            "output",
            "other_label",
            "order",
        )
    )
    used |= dict.fromkeys(
        ("unit", "label_smoothing", "mixup", "ema", "instance_dropout", "distil_weight", "distil_temperature", "nested")
    )
    assert {spec.field for spec in specs(TrainOptions)} == outside | set(used)


def test_the_processes_that_a_verb_starts_hear_of_it() -> None:
    told: Any = stage(lambda options: os.environ.get(NO_LOCK))
    assert told(TileOptions(slides=(Path("a"),), no_lock=True)) == "1"
    assert told(TileOptions(slides=(Path("a"),))) is None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    shown = CliRunner().invoke(app, ["--show-completion", shell])
    assert "_GIGAMIL_COMPLETE" in shown.output
    for _ in range(2):
        assert CliRunner().invoke(app, ["--install-completion", shell]).exit_code == 0
    if shell != "fish":
        assert len((tmp_path / f".{shell}rc").read_text().splitlines()) == 1


def test_the_reference_is_that_of_the_options() -> None:
    assert (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8") == reference()
