"""`--auto`: what is given stays, rules choose the rest, and the run is the one of the same explicit options."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from witness import write_noise

from cli.app import command_of, told_by
from cli.commands import VERBS
from cli.verbs.config import written
from mil.auto.choose import GIVEN, planned
from mil.auto.fingerprint import Fingerprint, fingerprint_of
from mil.auto.rules import RULES, rule_for
from mil.planning.options import PlanOptions
from mil.planning.request import _trainings
from mil.train import train
from mil.training.options import TrainOptions
from mil.training.training_data import gather
from wsi.errors import RequestError
from wsi.options import decided
from wsi.progress.outcome import Status

COHORT = Fingerprint(
    patients=100, least=30, kind="patients of class LAA", tiles=2000, many_tiles=5000, slides=1.2, centers=3, dim=1024,
    told_folds=0, by_center=False, steps=7.5, validates=False,
)  # fmt: skip
DOCS = Path(__file__).parents[3] / "docs" / "HEADS.md"


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    write_noise(folder, 24, 12)
    return folder


def options(noise: Path, out: Path = Path("run"), **changes: object) -> TrainOptions:
    return TrainOptions(bags=(noise,), manifest=noise / "train.csv", out=out, auto=True, **changes)  # type: ignore[arg-type]


def told(*words: str) -> TrainOptions:
    """Return the options that the command line makes of these words."""
    command = command_of(VERBS["train"])
    with command.make_context("train", ["bags", "-m", "m.csv", "-o", "run", *words]) as context:
        found = told_by(VERBS["train"], context)
    assert isinstance(found, TrainOptions)
    return found


def test_the_table_decides_every_option_that_may_be_fixed_and_no_other() -> None:
    assert tuple(dict.fromkeys(rule.option for rule in RULES)) == decided(TrainOptions)
    for name in decided(TrainOptions):
        last = [rule for rule in RULES if rule.option == name][-1]
        assert all(last.when(own) for own in (COHORT, replace(COHORT, patients=10**6, least=10**5)))


def test_every_rule_stands_in_the_documentation() -> None:
    page = DOCS.read_text("utf-8")
    for rule in RULES:
        assert f"| `{rule.option.replace('_', '-')}` | {rule.case} | {rule.chosen} |" in page


def test_given_is_what_stands_on_the_command_line_even_at_its_default(tmp_path: Path) -> None:
    assert told("--auto", "--hidden", "128", "--lr", "0.01").fixed == ("hidden",)
    assert told("--hidden", "128").fixed == ()  # nobody else decides
    (tmp_path / "train.toml").write_text("[train]\nauto = true\nepochs = 60\n")
    config = str(tmp_path / "train.toml")
    assert told("--config", config).fixed == ("epochs",)
    assert told("--config", config, "--dropout", "0.25", "--fixed", "seeds").fixed == ("seeds", "epochs", "dropout")


def test_a_printed_configuration_gives_nothing(tmp_path: Path) -> None:
    """All options stand in it; those that --auto decides as comments, else auto = true would choose nothing."""
    text = written(VERBS["train"])
    assert "\n# hidden = 128\n" in text
    assert "\nlr = 0.001\n" in text
    (tmp_path / "train.toml").write_text(text.replace("\nauto = false\n", "\nauto = true\n"))
    assert told("--config", str(tmp_path / "train.toml")).fixed == ()
    (tmp_path / "train.toml").write_text(text)
    assert told("--config", str(tmp_path / "train.toml")) == told()


def test_explicit_options_win_and_others_follow_from_them(noise: Path) -> None:
    found = planned(options(noise, hidden=256, fixed=("dropout",), epochs=12))
    assert (found.options.hidden, found.options.attention, found.options.dropout) == (256, 128, 0.25)
    assert (found.options.epochs, found.options.patience) == (12, 10)
    reasons = {own.option: own.reason for own in found.choices if own.given}
    assert reasons == dict.fromkeys(("hidden", "dropout", "epochs"), GIVEN)
    assert not found.options.auto
    assert found.options.lr == TrainOptions.lr


def test_nothing_chosen_is_said(noise: Path) -> None:
    assert "chose nothing" in planned(options(noise, fixed=decided(TrainOptions))).note


def test_rules_by_hand() -> None:
    def chosen(name: str, cohort: Fingerprint, inner_share: float = 0.2) -> object:
        return rule_for(name, cohort).value(
            cohort, {"epochs": 100, "hidden": 64, "inner_share": inner_share, "folds": 5}
        )

    assert chosen("folds", replace(COHORT, least=7)) == 3
    assert chosen("folds", replace(COHORT, least=3)) == 2
    assert chosen("folds", replace(COHORT, by_center=True)) == 3
    assert chosen("folds", replace(COHORT, told_folds=4, least=3)) == 4
    assert chosen("folds", COHORT) == 5
    assert (chosen("seeds", replace(COHORT, least=149)), chosen("seeds", replace(COHORT, least=150))) == (3, 1)
    assert (chosen("inner_share", COHORT), chosen("inner_share", replace(COHORT, least=150))) == (0, 0.2)
    assert chosen("inner_share", replace(COHORT, validates=True)) == 0.2
    assert (chosen("epochs", COHORT), chosen("epochs", COHORT, 0)) == (60, 27)  # 7.5 * 4 / 5 = 6 steps an epoch
    assert chosen("repeats", replace(COHORT, least=19)) == 3
    assert chosen("repeats", replace(COHORT, least=19, told_folds=4)) == 1
    assert chosen("max_tiles", replace(COHORT, many_tiles=8192)) == 0
    assert chosen("max_tiles", replace(COHORT, many_tiles=20000)) == 4096
    assert (chosen("patience", COHORT), chosen("attention", COHORT)) == (25, 32)


def test_the_fingerprint_is_counted_by_hand_and_reads_no_features(noise: Path, tmp_path: Path) -> None:
    found = fingerprint_of(options(noise))
    assert (found.patients, found.least, found.tiles, found.many_tiles, found.dim) == (24, 12, 12, 12, 24)
    assert (found.slides, found.centers, found.kind) == (1.0, 0, "patients of class CE")
    for path in noise.glob("*.h5"):
        content = bytearray(path.read_bytes())
        rows = len(content) // 2  # somewhere among the features of these small files
        content[rows : rows + 64] = bytes(64)
        (tmp_path / path.name).write_bytes(content)
    changed = TrainOptions(bags=(tmp_path,), manifest=noise / "train.csv", out=tmp_path / "run", auto=True)
    assert fingerprint_of(changed) == found


def test_folds_are_those_of_a_splits_table(noise: Path, tmp_path: Path) -> None:
    rows = "".join(f"{i:02d}_0,{i:02d},{i // 2 % 4}\n" for i in range(24))
    (tmp_path / "splits.csv").write_text("image_id,patient_id,fold\n" + rows)
    found = planned(options(noise, splits=tmp_path / "splits.csv"))
    assert (found.options.folds, found.options.repeats) == (4, 1)
    assert max(gather(found.options).folds) == 3


def test_a_cohort_of_nobody_is_refused_in_a_line(noise: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image_id,patient_id,label\nx_0,x,A\n")
    with pytest.raises(RequestError, match="no bag"):
        planned(TrainOptions(bags=(noise,), manifest=tmp_path / "m.csv", out=tmp_path, auto=True))


def test_a_run_is_that_of_the_same_explicit_options_and_says_why(noise: Path, tmp_path: Path) -> None:
    asked = options(noise, tmp_path / "run", epochs=1, seeds=2, folds=2, repeats=2, baselines=(), device="cpu")
    asked = replace(asked, fixed=("repeats",), repeats=1)
    assert all(own.status is Status.DONE for own in train(asked).outcomes)
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    explicit = planned(asked).options
    assert config["recipe"] == json.loads(json.dumps(gather(replace(explicit, precision="fp32")).recipe()))
    assert (config["recipe"]["hidden"], config["recipe"]["patience"]) == (128, 10)
    reasons = {own["option"]: own["reason"] for own in config["about"]["auto"]["choices"]}
    assert reasons["epochs"] == GIVEN
    assert reasons["repeats"] == GIVEN
    assert "12 tiles" in reasons["max_tiles"]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Chosen for this cohort" in page
    assert reasons["max_tiles"] in page
    again = train(asked)
    assert all(own.status is Status.SKIPPED for own in again.outcomes)
    assert all(own.status is Status.SKIPPED for own in train(explicit).outcomes)


def test_the_plan_of_a_cohort_takes_it_over(noise: Path) -> None:
    asked = PlanOptions(what=(noise,), manifest=noise / "train.csv", heads=("abmil",), auto=True, fixed=("folds",))
    (training,) = (own.options for own in _trainings(asked))
    assert training.auto
    assert training.fixed == ("folds",)
    with pytest.raises(RequestError, match="--manifest"):
        PlanOptions(what=(noise,), heads=("abmil",), auto=True)


def test_help_tells_of_it() -> None:
    assert "--auto" in CliRunner().invoke(command_of(VERBS["train"]), ["--help"]).output
