"""Which way tiles push: exact where logits are sums, of first order otherwise; compared with leaving tiles out."""

from typing import Any

import numpy as np
import pytest
import torch
from making import SEED
from scipy.stats import spearmanr

from mil.heads import HEADS, HeadSpec
from mil.heatmaps import pushes
from mil.heatmaps.pushes import ask, way_of
from mil.models.ensemble import Member
from mil.models.model import BagModel
from mil.models.scoring import Compute, score
from mil.ragged import instances as ragged
from mil.ragged.packing import Packed, pack
from mil.targets import TARGETS

CPU = Compute("cpu")
BY_GRADIENT = ["mean_pool", "transmil", "dtfd", "transformer"]


def member(name: str, n_classes: int = 3, target: str = "classes", **spec: object) -> Member:
    torch.manual_seed(SEED)
    spec = {"hidden": 16, "attention": 6} | spec
    model = BagModel(HeadSpec(name=name, dim=5, n_classes=n_classes, target=target, **spec))  # type: ignore[arg-type]
    model.mean_D.normal_()
    model.scale_D.uniform_(0.5, 2)
    return Member(0, 0, model.eval())


def bag(n_tiles: int = 14) -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(n_tiles, 5)).astype(np.float32)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(("target", "n_classes"), [("classes", 2), ("classes", 3), ("labels", 3), ("value", 1)])
def test_every_head_tells_the_logits_of_prediction_and_which_way_it_told_pushes(
    name: str, target: str, n_classes: int
) -> None:
    own = member(name, n_classes, target, **({"scale": 2.0, "shift": 5.0} if target == "value" else {}))
    rows, shift_C = bag(), own.model.spec.shift
    answer, way = ask(own, pack([rows]), CPU), way_of(own.model)
    assert answer.push_NC is not None
    np.testing.assert_allclose(answer.logits_C, score(own.model, [rows], CPU)[0], atol=1e-5)
    assert way == ("gradient" if name in BY_GRADIENT else "max" if name == "max_pool" else "sum")
    if way == "sum":
        np.testing.assert_allclose(answer.push_NC.sum(0), answer.logits_C - shift_C, atol=2e-5)
    if target == "classes":
        np.testing.assert_allclose(answer.push_NC.sum(1), 0, atol=1e-5)
    if way == "max" and (target, n_classes) != ("classes", 3):
        decides = answer.push_NC[answer.push_NC[:, -1].argmax()] if target == "classes" else answer.push_NC.max(0)
        np.testing.assert_allclose(decides + shift_C, answer.logits_C, atol=1e-5)


def test_a_sum_by_hand() -> None:
    """Two tiles, one hidden unit: attention and logits from the formula of gated attention."""
    own = member("gated_abmil", 2, hidden=1, attention=1)
    head, model = own.model.head, own.model
    rows = np.array([[1, 0, 2, 0, 1], [0, 3, 0, 1, 0]], np.float32)
    weights = {name: value.numpy().astype(float) for name, value in head.state_dict().items()}
    x = (rows - model.mean_D.numpy()) * model.scale_D.numpy()
    h = np.maximum(x @ weights["rows.embed.0.weight"].T + weights["rows.embed.0.bias"], 0)
    gate = h @ weights["rows.gate.weight"].T + weights["rows.gate.bias"]
    s = (np.tanh(gate[:, :1]) / (1 + np.exp(-gate[:, 1:]))) * weights["rows.score.weight"][0, 0]
    a = np.exp(s) / np.exp(s).sum()
    logits = h @ weights["classify.layer.weight"].T + weights["classify.layer.bias"]
    expected = a * (logits - logits.mean(axis=1, keepdims=True))
    found = ask(own, pack([rows]), CPU)
    assert found.push_NC is not None
    assert found.attention_N is not None
    np.testing.assert_allclose(found.push_NC, expected, atol=1e-6)
    np.testing.assert_allclose(found.attention_N, a[:, 0], atol=1e-6)


def average_tile(model: BagModel) -> np.ndarray:
    return model.mean_D.numpy()


@pytest.mark.parametrize("name", BY_GRADIENT)
@pytest.mark.parametrize("target", ["classes", "value"])
def test_gradients_foretell_what_an_average_tile_in_a_tiles_place_would_change(name: str, target: str) -> None:
    own = member(name, 2 if target == "classes" else 1, target)
    rows = bag(60)
    rows = own.model.mean_D.numpy() + 0.05 * rows / own.model.scale_D.numpy()  # where the first order holds
    answer = ask(own, pack([rows.astype(np.float32)]), CPU)
    assert answer.push_NC is not None
    told = score(own.model, [rows.astype(np.float32)], CPU)[0, 0]
    changes = []
    for place in range(len(rows)):
        other = rows.astype(np.float32).copy()
        other[place] = average_tile(own.model)
        changes.append(told - score(own.model, [other], CPU)[0, 0])
    assert np.abs(changes).max() > 0
    assert spearmanr(changes, answer.push_NC[:, 0]).statistic > 0.9


@pytest.mark.parametrize("name", ["gated_abmil", "additive", "clam_sb", "mean_mlp"])
def test_shares_foretell_what_leaving_a_tile_out_changes(name: str) -> None:
    """Of a weighted mean: the logits without tile i are (logits - push_i) / (1 - weight_i), whatever the head."""
    own, rows = member(name), bag()
    answer = ask(own, pack([rows]), CPU)
    assert answer.push_NC is not None
    weights = np.full(len(rows), 1 / len(rows)) if answer.attention_N is None else answer.attention_N
    for place in range(len(rows)):
        without = score(own.model, [np.delete(rows, place, axis=0)], CPU)[0]
        expected = (answer.logits_C - answer.push_NC[place]) / (1 - weights[place])
        np.testing.assert_allclose(without, expected, atol=2e-5)


def test_arcface_goes_by_gradient_and_no_head_beyond_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    own = member("gated_abmil", output="arcface")
    assert way_of(own.model) == "gradient"
    packed: Packed = pack([bag()])
    assert ask(own, packed, CPU).push_NC is not None
    monkeypatch.setattr(pushes, "MOST_TILES", len(packed.rows_ND) - 1)
    assert ask(own, packed, CPU).push_NC is not None, "its memory does not grow with the bag"
    own = member("transformer")
    beyond = ask(own, packed, CPU)
    assert beyond.push_NC is None
    np.testing.assert_allclose(beyond.logits_C, score(own.model, [bag()], CPU)[0], atol=1e-6)
    assert beyond.attention_N is not None
    exact = ask(member("gated_abmil"), packed, CPU)
    assert exact.push_NC is not None, "sums need no gradient"


def test_classes_that_are_never_told_take_no_part() -> None:
    own = member("gated_abmil", 4, extra_classes=2)
    answer = ask(own, pack([bag()]), CPU)
    assert answer.push_NC is not None
    assert answer.push_NC.shape[1] == 2
    np.testing.assert_allclose(answer.push_NC.sum(0), score(own.model, [bag()], CPU)[0], atol=1e-5)
    assert set(TARGETS) == {"classes", "labels", "value", "survival"}, "a new target wants its own zero of pushes"


@pytest.mark.parametrize("name", [*BY_GRADIENT, "gated_abmil"])
@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_the_gradient_is_that_of_the_rows_times_what_they_differ_from_the_average_by(
    name: str, stored: type[np.floating[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against autograd on plain rows; large bags in chunks give the same."""
    own = member(name, output="arcface" if name == "gated_abmil" else "linear")
    packed = pack([bag().astype(stored)])
    rows = packed.rows_ND.float().clone().requires_grad_()
    logits = own.model(rows, packed.offsets).logits_BC[0]
    centred = logits - logits.mean()
    parts = [
        torch.autograd.grad(logit, rows, retain_graph=True)[0] * (rows.detach() - own.model.mean_D) for logit in centred
    ]
    expected = torch.stack([part.sum(1) for part in parts], dim=1).numpy()
    found = ask(own, packed, CPU)
    np.testing.assert_allclose(found.push_NC, expected, atol=2e-5)  # type: ignore[arg-type]
    monkeypatch.setattr(ragged, "STREAM_ABOVE", 5)
    monkeypatch.setitem(ragged.CHUNK, "cpu", 3)
    np.testing.assert_allclose(ask(own, packed, CPU).push_NC, expected, atol=2e-5)  # type: ignore[arg-type]
