"""A search that leaves the outer fold alone, goes on after a stop to the same end, and finds what there is to find."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from witness import Witness

from cli.app import app
from mil.run.folder import RunFolder
from mil.search import COMPLETE, PRUNED, Search, read_settings
from mil.training.options import TrainOptions
from mil.training.tune_options import TuneOptions
from mil.tune import tune
from wsi.errors import BagError, DivergedError, RecipeMismatchError, RequestError

tune_module: Any = import_module("mil.tune")
"""`mil.tune` is the verb."""

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("small"), n_patients=36)


def quick(witness: Witness, out: Path, **changes: object) -> TuneOptions:
    settings = {"folds": 2, "epochs": 2, "device": "cpu", "precision": "fp32", "trials": 3, "inner_folds": 2} | changes
    return TuneOptions(bags=(witness.bags,), manifest=witness.manifest, out=out, **settings)  # type: ignore[arg-type]


def bowl(params: dict[str, Any], fold: int) -> float:
    return (np.log10(params["lr"]) + 3) ** 2 + params["dropout"] + 0.01 * fold


def test_a_search_comes_near_the_best_and_halves(tmp_path: Path) -> None:
    search = Search(tmp_path / "s.json", ["gated_abmil"], [1])
    for _ in range(60):
        search.one_more(bowl, 3)
    assert search.best.value < 0.1
    assert len({trial.params["lr"] for trial in search.trials[:8]}) == 8
    assert abs(np.log10(search.best.params["lr"]) + 3) < 0.35
    tried = {state: sum(t.state == state for t in search.trials) for state in (COMPLETE, PRUNED)}
    assert tried[PRUNED] > 10
    assert tried[COMPLETE] > 5
    assert all(len(trial.losses) == 3 for trial in search.trials if trial.state == COMPLETE)
    early, late = (np.mean([t.value for t in search.trials[part]]) for part in (slice(0, 15), slice(45, 60)))
    assert late < early


def test_a_search_that_was_stopped_goes_on_to_the_same_trials(tmp_path: Path) -> None:
    whole = Search(tmp_path / "a.json", ["gated_abmil", "abmil"], [1])
    for _ in range(14):
        whole.one_more(bowl, 2)
    for _ in range(14):
        again = Search(tmp_path / "b.json", ["gated_abmil", "abmil"], [1])

        def stopped(params: dict[str, Any], fold: int) -> float:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            again.one_more(stopped, 2)
        Search(tmp_path / "b.json", ["gated_abmil", "abmil"], [1]).one_more(bowl, 2)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    other = Search(tmp_path / "c.json", ["gated_abmil", "abmil"], [2])
    other.one_more(bowl, 2)
    assert other.trials[0].params != whole.trials[0].params


def test_settings_that_diverge_are_the_worst(tmp_path: Path) -> None:
    search = Search(tmp_path / "s.json", ["gated_abmil"], [1])

    def diverging(params: dict[str, Any], fold: int) -> float:
        if len(search) == 0:
            raise DivergedError("the loss of bag x is not finite")
        return 1.0

    for _ in range(2):
        search.one_more(diverging, 2)
    assert search.best is search.trials[1]


def test_a_damaged_bag_ends_the_search(tmp_path: Path) -> None:
    def damaged(params: dict[str, Any], fold: int) -> float:
        raise BagError("bag x.h5 is damaged")

    with pytest.raises(BagError, match="damaged"):
        Search(tmp_path / "s.json", ["gated_abmil"], [1]).one_more(damaged, 2)
    assert not (tmp_path / "s.json").exists()


def test_a_damaged_search_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("[{}]")
    with pytest.raises(RequestError, match="delete it"):
        Search(tmp_path / "s.json", ["gated_abmil"], [1])


def test_the_searches_of_a_fold_never_see_its_patients(
    small: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, set[str]]] = []
    fit = tune_module.fit

    def watched(job: Any, cohort: Any, folds: Any) -> dict[str, float]:
        place = job.folder.relative_to(tmp_path / "out").parts[0]
        seen.append((place, job.fold, set(cohort.image_ids)))
        return fit(job, cohort, folds)

    monkeypatch.setattr(tune_module, "fit", watched)
    options = quick(small, tmp_path / "out", trials=2)
    tune(options)
    from mil.training.training_data import gather

    data = gather(options.train)
    ids = np.array([row.image_id for row in data.rows])
    tested = [set(ids[data.folds == fold]) for fold in (0, 1)]
    outer = [place for place, (where, _, _) in enumerate(seen) if where == "outer"]
    assert [seen[place][1] for place in outer] == [0, 1]
    for fold, (first, last) in enumerate([(0, outer[0]), (outer[0] + 1, outer[1])]):
        assert last > first
        assert all(cohort == set(ids) - tested[fold] for _, _, cohort in seen[first:last])
    assert all(cohort == set(ids) for _, _, cohort in seen[outer[1] + 1 :])


def test_a_search_over_a_cohort_is_the_same_after_a_stop(
    small: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = quick(small, tmp_path / "a"), quick(small, tmp_path / "b")
    tune(whole)
    fit, left = tune_module.fit, [3]

    def stopping(*args: Any) -> dict[str, float]:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return fit(*args)

    monkeypatch.setattr(tune_module, "fit", stopping)
    for _ in range(40):
        left[0] = 6
        try:
            tune(parts)
            break
        except KeyboardInterrupt:
            continue
    else:
        pytest.fail("the search did not come to its end")
    found = [json.loads((folder / "tune.json").read_text()) for folder in (tmp_path / "a", tmp_path / "b")]
    assert found[0] == found[1]
    assert set(found[0]["nested_score"]) >= {"auc", "weighted_log_loss"}
    assert not (tmp_path / "a" / "trial").exists()
    TrainOptions(**{**whole.train.__dict__, **found[0]["settings"]})


def test_what_a_killed_trial_left_is_not_taken_for_another(
    small: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed removes nothing: a finished inner fold stays in the trial's folder."""
    whole, parts = quick(small, tmp_path / "a", trials=2), quick(small, tmp_path / "b", trials=2)
    tune(whole)
    fit, calls = tune_module.fit, [0]

    class Killed(BaseException):
        pass

    def killed_after(job: Any, cohort: Any, folds: Any) -> dict[str, float]:
        calls[0] += 1
        told = fit(job, cohort, folds)
        if calls[0] == 2:  # the second inner fold is whole, and nobody was told
            raise Killed
        return told

    with monkeypatch.context() as patched:
        patched.setattr(tune_module, "fit", killed_after)
        patched.setattr(tune_module, "remove", lambda *args: None)
        with pytest.raises(Killed):
            tune(parts)
        assert (tmp_path / "b" / "trial" / "model.json").exists()
    tune(parts)
    assert (tmp_path / "a" / "tune.json").read_bytes() == (tmp_path / "b" / "tune.json").read_bytes()


def test_another_search_in_the_folder_is_refused_and_overwritten_on_request(small: Witness, tmp_path: Path) -> None:
    options = quick(small, tmp_path / "out", trials=1)
    tune(options)
    other = replace(options, inner_folds=3)
    with pytest.raises(RecipeMismatchError, match="inner_folds"):
        tune(other)
    tune(replace(other, overwrite=True))
    tune(replace(other, trials=2))
    assert len(Search(tmp_path / "out" / "search_fold0.json", ["gated_abmil"], [0])) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty"):
        tune(quick(small, tmp_path / "full"))


def test_too_few_patients_for_inner_folds_are_named(write_cohort: Callable[..., Witness], tmp_path: Path) -> None:
    few = write_cohort(tmp_path / "bags", n_patients=12)
    with pytest.raises(RequestError, match="patients"):
        tune(quick(few, tmp_path / "out"))


@pytest.mark.parametrize("changes", [{"trials": 0}, {"inner_folds": 1}, {"heads": ("no",)}])
def test_a_wrong_request_is_one_line(small: Witness, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="expected"):
        quick(small, tmp_path, **changes)


def test_a_refused_search_leaves_nothing_and_fewer_trials_are_refused(small: Witness, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected two or more classes with 30 or more patients"):
        tune(quick(small, tmp_path / "refused", inner_folds=30))
    assert not (tmp_path / "refused").exists()
    out = tmp_path / "search"
    tune(quick(small, out, trials=2))
    before = (out / "tune.json").read_bytes()
    with pytest.raises(RequestError, match=r"--trials 1: .* holds a search of 2"):
        tune(quick(small, out, trials=1))
    assert (out / "tune.json").read_bytes() == before
    found = json.loads(before)["settings"]
    assert read_settings(out / "tune.json") == {"head": "gated_abmil", **found}

    def trained(run: Path, *more: str) -> dict[str, Any]:
        command = ["train", str(small.bags), "-m", str(small.manifest), "-o", str(run), "--folds", "2", "--epochs", "1"]
        result = CliRunner().invoke(app, [*command, "--settings", str(out / "tune.json"), *more])
        assert result.exit_code == 0, result.output
        ending = result.output
        assert f"next: gigamil predict {run}" in ending.replace("\n", " ")
        assert "95 % interval" in ending
        return RunFolder(run).recipe

    assert {name: trained(tmp_path / "a")[name] for name in found} == found
    explicit = trained(tmp_path / "b", "--hidden", "17", "--lr", "0.001")
    assert (explicit["hidden"], explicit["lr"], explicit["dropout"]) == (17, 0.001, found["dropout"])


@pytest.mark.parametrize("text", ["[]", "{", '{"settings": {"lr": "x"}, "recipe": {"tune": {"heads": ["a"]}}}', "{}"])
def test_settings_that_are_none_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "tune.json").write_text(text)
    with pytest.raises(RequestError, match=r"--settings .*expected"):
        read_settings(tmp_path / "tune.json")
