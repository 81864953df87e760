"""Looking cases up, and training again on other divisions of the patients."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from witness import DIM, Trained, Witness, facts, grid, instances

from cli.app import app
from features.bags.bag import read_features, write_bag
from mil.inference.options import SimilarOptions
from mil.inference.similar import similar
from mil.train import train
from wsi.errors import ClaimedError, RequestError
from wsi.files.claim import claim
from wsi.progress.outcome import Status


@pytest.fixture(scope="module")
def new_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of either class, one of neither, one without tiles."""
    folder = tmp_path_factory.mktemp("new")
    rng = np.random.default_rng(5)
    for name, positive in (("laa", True), ("ce", False)):
        write_bag(folder / f"{name}_0.h5", [instances(rng, 60, positive=positive)], grid(60), facts(f"{name}_0"))
    strange = instances(rng, 60, positive=False) + 6 * rng.normal(size=DIM)
    write_bag(folder / "strange_0.h5", [strange.astype(np.float16)], grid(60), facts("strange_0"))
    write_bag(folder / "empty_0.h5", [np.empty((0, DIM), np.float16)], grid(0), facts("empty_0"))
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_like_cases_are_found_and_a_strange_slide_raises_the_alarm(
    trained: Trained, new_slides: Path, tmp_path: Path
) -> None:
    options = SimilarOptions(run=trained.out, bags=(new_slides,), known=(trained.witness.bags,), out=tmp_path / "s.csv")
    summary = similar(options)
    assert [o.item_id for o in summary.ended(Status.FAILED)] == ["empty_0"]
    rows = rows_of(tmp_path / "s.csv")
    assert len(rows) == 3 * 5
    for query, label in (("laa_0", "LAA"), ("ce_0", "CE")):
        own = [row for row in rows if row["query"] == query]
        assert [row["rank"] for row in own] == ["1", "2", "3", "4", "5"]
        assert sum(row["label"] == label for row in own) >= 4
        similarities = [float(row["similarity"]) for row in own]
        assert similarities == sorted(similarities, reverse=True)
    about = json.loads((tmp_path / "s.json").read_text())
    assert about["like_none_of_the_known"] == ["strange_0"]
    assert about["map_at_5_of_the_known"] > 0.8


def test_about_the_wanted_share_of_known_slides_is_called_unknown(
    trained: Trained, write_cohort: Callable[..., Witness], tmp_path: Path
) -> None:
    (tmp_path / "others").mkdir()
    others = write_cohort(tmp_path / "others", n_patients=60, seed=77)
    options = SimilarOptions(
        run=trained.out, bags=(others.bags,), known=(trained.witness.bags,), out=tmp_path / "s.csv", refused=0.2
    )
    similar(options)
    about = json.loads((tmp_path / "s.json").read_text())
    assert 0.03 <= len(about["like_none_of_the_known"]) / len(about["familiarity"]) <= 0.45


def test_a_head_without_points_and_slides_of_elsewhere_are_one_line(
    trained: Trained, new_slides: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="--known: expected bags of the run's own slides"):
        similar(SimilarOptions(run=trained.out, bags=(new_slides,), known=(new_slides,), out=tmp_path / "s.csv"))
    run = tmp_path / "run"
    train(trained.witness.options(run, head="max_pool", baselines=(), epochs=1, folds=2))
    command = [
        "similar",
        str(run),
        str(new_slides),
        "--known",
        str(trained.witness.bags),
        "-o",
        str(tmp_path / "s.csv"),
    ]
    assert CliRunner().invoke(app, command).exit_code == 2
    assert not (tmp_path / "s.csv").exists()


def test_repeats_are_whole_runs_on_other_divisions(write_cohort: Callable[..., Witness], tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    witness = write_cohort(tmp_path / "bags", n_patients=18)
    options = witness.options(tmp_path / "runs", folds=2, epochs=3, baselines=(), repeats=2)
    assert train(options).exit_code == 0
    runs = [tmp_path / "runs" / f"repeat{number}" for number in range(2)]
    folds = [[row["fold"] for row in rows_of(run / "splits.csv")] for run in runs]
    assert folds[0] != folds[1]
    told = json.loads((tmp_path / "runs" / "repeats.json").read_text())["auc"]
    own = [json.loads((run / "metrics.json").read_text())["models"]["gated_abmil"]["auc"]["value"] for run in runs]
    assert told["repeats"] == own
    assert (told["mean"], told["sd"]) == (pytest.approx(np.mean(own)), pytest.approx(np.std(own, ddof=1)))
    again = train(options)
    assert {o.status for o in again.outcomes[:-1]} == {Status.SKIPPED}
    with pytest.raises(RequestError, match="--repeats 2: expected 2 or more, without --splits"):
        train(witness.options(tmp_path / "no", split="centers", repeats=2))


def test_one_damaged_bag_fails_alone_and_no_slide_is_its_own_neighbour(
    trained: Trained, new_slides: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    asked.mkdir()
    known = min(trained.witness.bags.glob("0001_*.h5"))
    (asked / known.name).write_bytes(known.read_bytes())
    rows = read_features(known)
    write_bag(asked / "renamed_0.h5", [rows], grid(len(rows)), facts("renamed_0"))
    (asked / "torn_0.h5").write_bytes((new_slides / "laa_0.h5").read_bytes()[:900])
    options = SimilarOptions(run=trained.out, bags=(asked,), known=(trained.witness.bags,), out=tmp_path / "s.csv")
    summary = similar(options)
    assert [o.item_id for o in summary.ended(Status.FAILED)] == ["torn_0"]
    found = rows_of(options.out)
    assert {row["query"] for row in found} == {known.stem, "renamed_0"}
    assert not [row for row in found if row["query"] == known.stem == row["image_id"]]
    told = json.loads((tmp_path / "s.json").read_text())
    assert told["trained_on"] == [known.stem]
    assert told["familiarity"][known.stem] == told["familiarity"]["renamed_0"]  # neither counts the slide that it is
    again = similar(options)
    assert [(o.item_id, o.status) for o in again.outcomes] == [
        (str(options.out), Status.SKIPPED),
        ("torn_0", Status.FAILED),
    ]


def test_a_foreign_table_is_refused(trained: Trained, new_slides: Path, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("mine")
    options = SimilarOptions(run=trained.out, bags=(new_slides,), known=(trained.witness.bags,), out=tmp_path / "s.csv")
    with pytest.raises(RequestError, match="was not written by this command"):
        similar(options)
    assert (tmp_path / "s.csv").read_text() == "mine"
    similar(replace(options, overwrite=True))
    with claim(options.out), pytest.raises(ClaimedError):
        similar(options)


@pytest.mark.parametrize("inside", ["run", "more"])
def test_repeats_are_refused_where_they_would_not_stand_alone(
    write_cohort: Callable[..., Witness], tmp_path: Path, inside: str
) -> None:
    there = tmp_path / "config.toml" if inside == "run" else tmp_path / "repeat2" / "config.toml"
    there.parent.mkdir(exist_ok=True)
    there.write_text("")
    (tmp_path / "bags").mkdir()
    witness = write_cohort(tmp_path / "bags", n_patients=4)
    with pytest.raises(RequestError, match="found a run" if inside == "run" else "holds more, as repeat2"):
        train(witness.options(tmp_path, repeats=2))
    assert not (tmp_path / "repeat0").exists()
