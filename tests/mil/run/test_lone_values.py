"""Values that decide a run's numbers alone: found where a typing error made them, not where tails are heavy."""

from pathlib import Path

import numpy as np
import pytest
from making import SEED
from simulated import write_simulated
from sklearn.metrics import mean_absolute_error, r2_score

from mil.run.ending import ending_of_run, lines_of
from mil.run.lone_values import about_lone, lone
from mil.targets.value import ValueTarget
from mil.train import train
from wsi.arrays import Floats


def _about(values_N: Floats, told_N: Floats) -> str:
    size = len(values_N)
    target, blind_PC = ValueTarget(values_N), np.full((size, 1), values_N.mean())
    ids = [f"p{i}" for i in range(size)]
    return about_lone(target, ids, told_N[:, None], blind_PC, np.arange(size) % 4, np.ones(size, bool))


@pytest.mark.parametrize("wrong", [lambda own: 100 * own, lambda _: 1e4, lambda _: -999.0])
def test_a_typing_error_is_named_with_the_numbers_without_it(wrong) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(SEED)
    values_N = rng.normal(50, 12, 60)
    told_N = values_N + rng.normal(0, 8, 60)
    assert _about(values_N, told_N) == ""
    values_N[7] = wrong(values_N[7])
    text, rest = _about(values_N, told_N), np.arange(60) != 7
    assert text.startswith(f"the value of p7 ({values_N[7]:.6g}) lies far from all others ({values_N[rest].min():.4g}")
    without = r2_score(values_N[rest], told_N[rest]), mean_absolute_error(values_N[rest], told_N[rest])
    assert f"{r2_score(values_N, told_N):.3g} with and {without[0]:.3g} without" in text
    assert f"{mean_absolute_error(values_N, told_N):.3g} with and {without[1]:.3g} without" in text


def test_several_of_one_code_are_found_and_a_group_is_not() -> None:
    values_N = np.random.default_rng(SEED).normal(50, 12, 60)
    values_N[[3, 30, 40]] = 9999
    assert lone(values_N).tolist() == [3, 30, 40]
    values_N[:20] = 9999  # a third of all: another kind of patient
    assert not len(lone(values_N))
    assert not len(lone(np.r_[np.zeros(59), 1.0]))  # of values that are all alike none is far


@pytest.mark.parametrize(("shape", "most"), [(0.5, 0), (1.0, 0.015), (1.5, 0.06)])
def test_heavy_tails_are_seldom_taken_for_errors(shape: float, most: float) -> None:
    rng = np.random.default_rng(SEED)
    assert np.mean([len(lone(np.exp(shape * rng.normal(size=60)))) > 0 for _ in range(400)]) <= most


def test_the_first_words_of_a_run_say_so(tmp_path: Path) -> None:
    witness, run = write_simulated(tmp_path / "bags", "value", 30), tmp_path / "run"
    lines = witness.manifest.read_text().splitlines()
    lines[-1] = f"{lines[-1].rpartition(',')[0]},10000"
    witness.manifest.write_text("\n".join(lines) + "\n")
    settings = {"target": "value", "folds": 2, "epochs": 1, "hidden": 8, "attention": 4, "baselines": ()}
    assert train(witness.options(run, **settings)).exit_code == 0
    told = "\n".join(lines_of(ending_of_run(run)))
    assert "one value may decide the numbers." in told
    assert "warning: the value of 029 (10000) lies far from all others" in told
    page = (run / "report.html").read_text()
    assert (
        page.index("one value may decide the numbers.") < page.index("the value of 029 (10000)") < page.index("<main>")
    )
