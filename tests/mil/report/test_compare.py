"""Runs beside each other: DeLong's test, paired intervals, the page."""

import json
from html import escape
from pathlib import Path

import numpy as np
import pytest
from browsing import Visits
from click.testing import CliRunner
from scipy import stats
from sklearn.metrics import r2_score, roc_auc_score
from witness import Trained, Witness

from cli.app import app
from mil.evaluation.bootstrap import draw_patients
from mil.evaluation.compare import MEAN, STACK, Shared, compared, ensembles, read_shared
from mil.evaluation.delong import areas_and_covariance, delong
from mil.evaluation.spread.verdicts import verdict_of_runs
from mil.report.compare import compare
from mil.report.options import CompareOptions
from mil.targets import ClassTarget, ValueTarget
from mil.targets.metrics import softmax
from mil.train import train
from wsi.errors import RequestError
from wsi.recipe import Json


def slow_covariance(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return DeLong's covariance by its definition: all pairs."""
    ups, downs = scores[:, positive], scores[:, ~positive]
    wins = (ups[:, :, None] > downs[:, None]) + 0.5 * (ups[:, :, None] == downs[:, None])
    v10, v01 = wins.mean(2), wins.mean(1)
    return np.asarray(np.cov(v10) / ups.shape[1] + np.cov(v01) / downs.shape[1])


@pytest.mark.parametrize("seed", range(5))
def test_delong_is_its_definition_with_ties_and_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(60) < 0.3
    scores = np.round(rng.normal(size=(3, 60)) + positive, 1)
    areas, covariance = areas_and_covariance(positive, scores)
    np.testing.assert_allclose(areas, [roc_auc_score(positive, own) for own in scores])
    np.testing.assert_allclose(covariance, slow_covariance(positive, scores), atol=1e-12)


def test_delong_on_a_case_by_hand() -> None:
    positive = np.array([True, True, False, False])
    first, second = np.array([4.0, 2.0, 3.0, 1.0]), np.array([4.0, 3.0, 2.0, 1.0])
    found = delong(positive, first, second)  # areas 3/4 and 1; components of the first: (1, 1/2) and (1/2, 1)
    assert found.difference == pytest.approx(0.25)
    assert found.deviation == pytest.approx(np.sqrt(0.125 / 2 + 0.125 / 2))
    assert delong(positive, first, 2 * first).p == 1


def test_no_p_is_told_of_a_difference_without_variance() -> None:
    """All pairs are won by one and lost by the other: the formula's p would be 0, of however few patients."""
    positive = np.array([True, True, False, False])
    found = delong(positive, positive.astype(float), -positive.astype(float))
    assert found.difference == -1
    assert found.deviation == 0
    assert np.isnan(found.p)


def test_delong_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        positive = np.arange(80) < 30
        common = rng.normal(size=80) + positive
        hits += delong(positive, common + rng.normal(size=80), common + rng.normal(size=80)).p < 0.05
    assert 8 <= hits <= 34  # of 400 under no difference: 20 expected


def shared_of(seed: int, noise: tuple[float, ...], patients: int = 120) -> Shared:
    rng = np.random.default_rng(seed)
    labels = (np.arange(patients) % 3 == 0).astype(np.int64)
    truth = np.where(labels == 1, 1.5, -1.5)
    tables = {
        f"run{i}": softmax(np.stack([-own, own], 1))
        for i, own in enumerate(truth + rng.normal(size=patients) * n for n in noise)
    }
    return Shared(tuple(map(str, range(patients))), ClassTarget(labels, ("CE", "LAA")), tables, ())


def test_ensembles_beat_what_they_are_made_of_and_the_stack_sees_through_noise() -> None:
    rows = compared(shared_of(0, (2.5, 2.5, 2.5)), 0)
    single = max(rows[f"run{i}"]["metrics"]["auc"]["value"] for i in range(3))
    assert rows[MEAN]["metrics"]["auc"]["value"] > single
    uneven = shared_of(1, (1.5, 30.0))
    areas = {name: roc_auc_score(uneven.truth.groups_N, told[:, 1]) for name, told in ensembles(uneven, 0).items()}
    assert areas[STACK] > areas[MEAN]


def test_a_difference_is_paired() -> None:
    rows = compared(shared_of(2, (1.0, 6.0)), 0)
    gap = rows["run1"]["difference"]["auc"]
    assert gap["low"] < gap["value"] < gap["high"] < 0
    assert rows["run1"]["delong"]["p"] < 0.01
    assert "difference" not in rows["run0"]
    twin = shared_of(3, (1.0,))
    twin.told["again"] = twin.told["run0"]
    same = compared(twin, 0)["again"]
    assert (same["difference"]["auc"]["low"], same["difference"]["auc"]["high"], same["delong"]["p"]) == (0, 0, 1)


def told_of(gaps: dict[str, tuple[float, float, float, float | None]]) -> str:
    """Return the verdict on runs whose AUC differs from that of a by value, low, high, with that corrected p."""
    rows: dict[str, Json] = {"a": {}}
    for name, (value, low, high, p) in gaps.items():
        gap = {"value": value, "low": low, "high": high}
        rows[name] = {"difference": {"auc": gap}, "delong": {"corrected_p": p}}
    return verdict_of_runs(rows, list(rows), shared_of(0, (1.0,)).truth, 120)


def test_one_sentence_says_which_run_is_better_or_that_it_cannot_be_told() -> None:
    on = "on the same 120 patients"
    up, down, none = (0.05, 0.01, 0.09, 0.0004), (-0.05, -0.09, -0.01, 0.03), (0.05, -0.01, 0.11, 0.2)
    better = "by 0.050 in AUC (95 % interval 0.010 to 0.090, corrected p"
    assert told_of({"b": up}) == f"b is better than a {on}, {better} < 0.001)."
    assert told_of({"b": down}) == f"a is better than b {on}, {better} 0.030)."
    gap = "b less a is +0.050 in AUC (95 % interval -0.010 to +0.110, corrected p 0.200)"
    assert told_of({"b": none}) == f"No difference between a and b can be told {on}: {gap}."
    several = told_of({"b": up, "c": down, "d": none, "e": (0.0, 0.0, 0.0, None)})
    assert several == (
        "On the same 120 patients: better than a: b by 0.050 in AUC (95 % interval 0.010 to 0.090, corrected p "
        "< 0.001); "
        "worse than a: c by 0.050 in AUC (95 % interval 0.010 to 0.090, corrected p 0.030); "
        "no difference to a can be told of d, e."
    )
    for one_only in ((0.05, -0.01, 0.11, 0.001), (0.05, 0.01, 0.09, 0.06), (0.05, 0.01, 0.09, None)):
        assert told_of({"b": one_only}).startswith("No difference")  # interval and p must both say so


def test_values_have_an_interval_and_a_p_that_agree() -> None:
    """By hand: scikit-learn's R-squared, patients left out row by row, scipy's t."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=60)
    told = {name: true[:, None] + rng.normal(size=(60, 1)) * own for name, own in (("a", 1.0), ("b", 1.1), ("c", 2.0))}
    shared = Shared(tuple(map(str, range(60))), ValueTarget(true), told, ())
    rows, draws_BP = compared(shared, 0), draw_patients(60, 0)
    for name in "bc":

        def gap(rows: np.ndarray, name: str = name) -> float:
            return float(r2_score(true[rows], told[name][rows]) - r2_score(true[rows], told["a"][rows]))

        value = gap(np.arange(60))
        left = np.var([gap(np.delete(np.arange(60), own)) for own in range(60)]) * 59
        drawn = np.var([gap(np.repeat(np.arange(60), own.astype(int))) for own in draws_BP])
        error = np.sqrt(min(drawn, 2 * left - drawn * (1 - np.sqrt(2 / 2000))))
        found, p = rows[name]["difference"]["r2"], rows[name]["t"]["p"]
        low, high = value + error * stats.t.ppf([0.025, 0.975], 59)
        assert (found["value"], found["low"], found["high"]) == pytest.approx((value, low, high), abs=1e-9)
        assert p == pytest.approx(2 * stats.t.sf(abs(value) / error, 59), abs=1e-9)
        assert (p < 0.05) == (found["high"] < 0)
    assert rows["c"]["t"]["p"] < 0.001
    assert verdict_of_runs(rows, ["a", "b", "c"], shared.truth, 60).endswith("no difference to a can be told of b.")


@pytest.fixture(scope="module")
def other(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("other") / "run"
    witness: Witness = trained.witness
    assert train(witness.options(out, head="mean_pool", baselines=(), epochs=5)).exit_code == 0
    return out


def test_the_command_writes_table_and_page(trained: Trained, other: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", str(trained.out), str(other), "--out", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "c" / "compare.json").read_text())
    names = list(content["runs"])
    assert len(names) == 4
    assert names[2:] == [MEAN, STACK]
    assert content["runs"][names[1]]["difference"]["auc"]["value"] < 0
    own = json.loads((trained.out / "metrics.json").read_text())["models"]["gated_abmil"]["auc_pooled"]["value"]
    assert content["runs"][names[0]]["metrics"]["auc"]["value"] == pytest.approx(own)
    page = (tmp_path / "c" / "compare.html").read_text()
    assert content["verdict"].startswith((f"{names[0]} is better", "No difference"))
    assert content["verdict"] in done.output
    assert f'<p class="headline">{escape(content["verdict"])}</p>' in page
    assert "data:image/svg+xml" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert len((tmp_path / "c" / "compare.csv").read_text().splitlines()) == 5


def test_runs_that_cannot_be_compared_are_one_line(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected two or more different runs"):
        CompareOptions(runs=(trained.out, trained.out), out=tmp_path)
    (tmp_path / "linked").symlink_to(trained.out, target_is_directory=True)
    with pytest.raises(RequestError, match="expected two or more different runs"):
        CompareOptions(runs=(trained.out, tmp_path / "linked"), out=tmp_path)
    with pytest.raises(RequestError, match=r"expected a run folder with config\.toml"):
        compare(CompareOptions(runs=(trained.out, tmp_path / "none"), out=tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in trained.out.rglob("*"):
        target = copy / path.relative_to(trained.out)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    lines = (copy / "oof.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("patient,0001,")]
    (copy / "oof.csv").write_text("\n".join(kept) + "\n")
    with pytest.raises(RequestError, match=r"oof\.csv is damaged \(expected 47 patients, found 46\)"):
        read_shared((trained.out, copy))


def test_the_page_is_read_by_everybody_and_printed_whole(
    trained: Trained, other: Path, tmp_path: Path, visit: Visits
) -> None:
    compare(CompareOptions(runs=(trained.out, other), out=tmp_path))
    window = visit(390).open((tmp_path / "compare.html").as_uri())
    assert window.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert window.barriers() == []
    window.page.set_viewport_size({"width": 688, "height": 900})
    window.page.emulate_media(media="print")
    cut = "[...document.querySelectorAll('.scroll')].filter((own) => own.scrollWidth > own.clientWidth).length"
    assert window.page.evaluate(cut) == 0
