"""Targets: their losses against plain definitions, their metrics against known values, and the columns they read."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import SEED

from mil.heads import HeadSpec
from mil.models.model import BagModel
from mil.ragged.packing import pack
from mil.targets import ClassTarget, LabelsTarget, SurvivalTarget, Target, ValueTarget
from mil.targets.calibration import Calibration
from mil.targets.labels import parse_labels
from mil.targets.losses import cox_losses
from mil.targets.metrics import macro_auc, ones, r2, spearman
from mil.targets.survival import parse_survival
from mil.targets.survival.metrics import Followed, harrell_c
from mil.targets.unclassed import parse_values
from wsi.errors import ManifestError, RequestError


def efron(risks: np.ndarray, times: np.ndarray, events: np.ndarray) -> float:
    """Return the negative log partial likelihood, event time by event time, as Efron wrote it."""
    total = 0.0
    for time in np.unique(times[events]):
        tied = (times == time) & events
        for turn, _ in enumerate(np.flatnonzero(tied)):
            total += np.log(np.exp(risks[times >= time]).sum() - turn / tied.sum() * np.exp(risks[tied]).sum())
        total -= risks[tied].sum()
    return total


@given(st.integers(0, 500), st.integers(1, 12))
def test_the_cox_loss_is_efrons_partial_likelihood(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    risks, times, events = rng.normal(size=n) * 3, rng.integers(1, 5, n).astype(float), rng.random(n) < 0.6
    losses = cox_losses(torch.from_numpy(risks), torch.from_numpy(times), torch.from_numpy(events))
    assert losses.mean().item() == pytest.approx(efron(risks, times, events) / max(events.sum(), 1), abs=1e-9)
    assert losses[torch.from_numpy(~events)].abs().sum() == 0


def once_each(risks: np.ndarray, times: np.ndarray, events: np.ndarray, slides: np.ndarray) -> float:
    """Return what `cox_losses` of slides that say the same come to, each patient counted once; ``slides``: whose."""
    told = (torch.from_numpy(own[slides]) for own in (risks, times, events))
    losses = cox_losses(next(told), next(told), next(told), torch.from_numpy(slides))
    losses = losses * int(events[slides].sum()) / len(slides)
    return float((losses.numpy() / np.bincount(slides)[slides]).sum())


@given(st.integers(0, 500), st.integers(1, 8))
def test_slides_of_one_patient_are_one_at_risk_and_no_ties(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    risks, times, events = rng.normal(size=n), rng.integers(1, 4, n).astype(float), rng.random(n) < 0.7
    slides = rng.permutation(np.repeat(np.arange(n), rng.integers(1, 5, n)))
    assert once_each(risks, times, events, slides) == pytest.approx(efron(risks, times, events), abs=1e-9)


def test_slides_of_one_patient_count_as_statsmodels_has_one_patient() -> None:
    regression = pytest.importorskip("statsmodels.duration.hazard_regression").PHReg
    rng = np.random.default_rng(4)
    risks, times, events = rng.normal(size=40), rng.integers(1, 12, 40).astype(float), rng.random(40) < 0.7
    slides = rng.permutation(np.repeat(np.arange(40), rng.integers(1, 6, 40)))
    model = regression(times, risks[:, None], status=events.astype(int), ties="efron")
    assert once_each(risks, times, events, slides) == pytest.approx(-model.loglike(np.ones(1)), abs=1e-9)


def test_a_patients_hazard_is_the_mean_of_the_slides_by_hand() -> None:
    """a: log risks 1 and 3, event at 1; b: 2, event at 1, too; c: 0, seen until 2. Efron: first a, then b with half."""
    risks, times = torch.tensor([1.0, 3, 2, 0], dtype=torch.float64), torch.tensor([1.0, 1, 1, 2])
    events, patients = torch.tensor([True, True, True, False]), torch.tensor([7, 7, 3, 4])
    a, b, c = (np.e + np.exp(3)) / 2, np.exp(2), 1.0
    first, second = np.log(a + b + c), np.log((a + b) / 2 + c)
    wanted = np.array([first - 1, first - 3, second - 2, 0]) * 4 / 3
    np.testing.assert_allclose(cox_losses(risks, times, events, patients).numpy(), wanted, atol=1e-12)


def test_the_cox_loss_survives_large_risks_and_has_right_gradients() -> None:
    times, events = torch.tensor([1.0, 2.0, 2.0, 3.0, 2.0]), torch.tensor([True, True, True, False, False])
    risks = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: cox_losses(r, times, events), risks)
    assert torch.isfinite(cox_losses(torch.tensor([500.0, 0, -500, 3, 1]), times, events)).all()


def test_class_targets_lose_what_cross_entropy_does() -> None:
    target = ClassTarget(np.array([0, 2, -1, 1]), ("a", "b", "c"))
    logits = torch.randn(2, 3)
    truth = target.batch(np.array([1, 3]), "cpu")
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([2, 1]), reduction="none")
    assert torch.equal(truth.loss(logits), expected)


def test_unknown_labels_cost_nothing() -> None:
    target = LabelsTarget(np.array([[1, 0, np.nan], [np.nan, np.nan, np.nan], [1, 1, 0]]), ("a", "b", "c"))
    logits = torch.randn(3, 3, requires_grad=True)
    losses = target.batch(np.arange(3), "cpu").loss(logits)
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0
    assert losses[1] == 0
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[2], torch.tensor([1.0, 1, 0]))
    assert losses[2].item() == pytest.approx(expected.item())


def test_values_come_back_in_their_own_unit() -> None:
    target = ValueTarget(np.array([10.0, 30.0]), center=20.0, spread=10.0)
    assert target.batch(np.array([1]), "cpu").loss(torch.ones(1, 1)).item() == 0
    fitted = ValueTarget(np.array([10.0, 30.0])).fitted(np.arange(2))
    assert (fitted.center, fitted.spread) == (20, 10)
    assert target.told(np.array([[30.0]]), Calibration()).item() == 30
    with pytest.raises(RequestError, match="same value"):
        ValueTarget(np.array([1.0]), center=1.0, spread=0.0)


def targets(signal: np.ndarray) -> dict[str, Target]:
    n = len(signal)
    values = 5 + 2 * signal
    classes = np.digitize(signal, [-0.5, 0.5]).astype(np.int64)
    present = np.stack([signal > 0, signal > 0.7, signal < 0.3], axis=1).astype(float)
    rng = np.random.default_rng(SEED)
    return {
        "classes": ClassTarget(classes, ("a", "b", "c")),
        "labels": LabelsTarget(present, ("a", "b", "c")),
        "value": ValueTarget(values, float(values.mean()), float(values.std())),
        "survival": SurvivalTarget(np.exp(-signal) * rng.exponential(1, n).clip(0.5, 2), rng.random(n) < 0.7),
    }


@pytest.mark.parametrize("kind", ["classes", "labels", "value", "survival"])
@pytest.mark.parametrize("name", ["gated_abmil", "acmil", "dtfd", "dsmil"])
def test_every_target_is_learnt(kind: str, name: str) -> None:
    """A signal in the bags' mean is found: bags that were not trained on are ordered by it."""
    rng = np.random.default_rng(SEED)
    signal = rng.normal(size=120)
    bags = [rng.normal(size=(int(rng.integers(3, 15)), 6)) + np.eye(6)[0] * 2 * s for s in signal]
    bags = [bag.astype(np.float32) for bag in bags]
    target = targets(signal)[kind]
    torch.manual_seed(SEED)
    model = BagModel(HeadSpec(name=name, dim=6, n_classes=target.n_outputs, hidden=16, attention=8, dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    packed, truth = pack(bags[:80]), target.batch(np.arange(80), "cpu")
    model.train()
    for _ in range(25):
        output = model(packed.rows_ND, packed.offsets, truth)
        losses = truth.loss(output.logits_BC)
        losses = losses if output.aux_loss_B is None else losses + output.aux_loss_B
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    packed = pack(bags[80:])
    with torch.no_grad():
        logits = model.eval()(packed.rows_ND, packed.offsets).logits_BC.double().numpy()
    scores, weights = target.told(logits * target.spread + target.center, Calibration()), ones(40)
    judged: dict[str, Callable[[], Any]] = {
        "classes": lambda: macro_auc(np.eye(3)[np.digitize(signal[80:], [-0.5, 0.5])], scores, weights),
        "labels": lambda: macro_auc(target.present_NC[80:], scores, weights),  # type: ignore[attr-defined]
        "value": lambda: min(metric(5 + 2 * signal[80:], scores[:, 0], weights) for metric in (spearman, r2)),
        "survival": lambda: spearman(signal[80:], scores[:, 0], weights),
    }
    assert judged[kind]() > 0.75


def concordance(times: np.ndarray, events: np.ndarray, risks: np.ndarray) -> float:
    return float(harrell_c(Followed(times, events, np.zeros(len(times), int)), risks, ones(len(times)))[0])


def test_concordance_counts_known_pairs() -> None:
    times, events = np.array([1.0, 2, 3, 3]), np.array([True, False, True, False])
    assert concordance(times, events, np.array([4.0, 1, 3, 2])) == 1.0
    assert concordance(times, events, np.array([1.0, 4, 2, 3])) == 0.0
    assert concordance(times, events, np.ones(4)) == 0.5
    assert np.isnan(concordance(times, np.zeros(4, bool), np.ones(4)))
    same_time = np.array([5.0, 5.0])
    assert concordance(same_time, np.array([True, False]), np.array([2.0, 1.0])) == 1.0
    assert np.isnan(concordance(same_time, np.array([True, True]), np.array([2.0, 1.0])))


@given(st.integers(0, 200))
def test_macro_auc_is_the_share_of_ordered_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    present, scores = (rng.random((12, 1)) < 0.5).astype(float), rng.integers(0, 4, (12, 1)).astype(float)
    ups, downs = scores[present[:, 0] == 1, 0], scores[present[:, 0] == 0, 0]
    pairs = [1.0 if u > d else 0.5 if u == d else 0.0 for u, d in itertools.product(ups, downs)]
    area = macro_auc(present, scores, ones(len(present)))
    assert np.isnan(area) if not pairs else area == pytest.approx(np.mean(pairs))


def test_r2_and_spearman_of_known_values() -> None:
    values = np.array([1.0, 2, 3, 4])
    assert r2(values, values, ones(4)) == 1
    assert r2(values, np.full(4, 2.5), ones(4)) == 0
    assert spearman(values, np.array([1.0, 8, 9, 90]), ones(4)) == pytest.approx(1)
    assert spearman(values, np.ones(4), ones(4)) == 0  # it orders nothing
    assert np.isnan(spearman(np.ones(4), values, ones(4)))


def test_cells_are_read_or_refused_in_one_line() -> None:
    assert np.array_equal(
        parse_labels(["b; a", None, "none"], ["a", "b"]), np.array([[1, 1], [np.nan] * 2, [0, 0]]), equal_nan=True
    )
    np.testing.assert_array_equal(parse_labels(["a; ?b", "?a", "?b;a"], ["a", "b", "c"]), [
        [1, np.nan, 0], [np.nan, 0, 0], [1, np.nan, 0],
    ])  # fmt: skip
    times, events = parse_survival(["3.5", None, "2"], ["1", None, "0"])
    assert times[[0, 2]].tolist() == [3.5, 2.0]
    assert events.tolist() == [True, False, False]
    times, events = parse_survival(["0", "4", "2", "1"], ["1:DECEASED", "0:LIVING", "True", "false"])
    assert (times.tolist(), events.tolist()) == ([0, 4, 2, 1], [True, False, True, False])
    for call in (
        lambda: parse_labels(["c"], ["a"]),
        lambda: parse_labels(["?c"], ["a"]),
        lambda: parse_labels(["a;?a"], ["a"]),
        lambda: parse_values(["x"], "value"),
        lambda: parse_values(["inf"], "value"),
        lambda: parse_survival(["1"], [None]),
        lambda: parse_survival(["1"], ["2"]),
        lambda: parse_survival(["-0.5"], ["1"]),
    ):
        with pytest.raises(ManifestError, match="expected"):
            call()
