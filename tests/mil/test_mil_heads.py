"""The contract of every head: packing changes nothing, order changes nothing, gradients are right."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import SEED

from mil.heads import HEADS, HeadSpec, has_attention
from mil.model import BagModel, load_model, save_model
from mil.packing import attention_pool, group_by_rows, pack
from wsi.errors import RequestError

EVERY_HEAD = pytest.mark.parametrize("name", HEADS)


def model_of(name: str, n_classes: int = 3) -> BagModel:
    torch.manual_seed(SEED)
    model = BagModel(HeadSpec(name=name, dim=7, n_classes=n_classes, hidden=12, attention=5))
    model.mean_D.normal_()
    model.scale_D.uniform_(0.5, 2)
    return model.eval()


def bags_of(sizes: list[int], seed: int = SEED) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(size, 7)).astype(np.float32) for size in sizes]


@EVERY_HEAD
@settings(max_examples=40)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_packing_equals_a_loop_over_bags(name: str, sizes: list[int], seed: int) -> None:
    model, bags = model_of(name), bags_of(sizes, seed)
    packed = pack(bags)
    together = model(packed.rows_ND, packed.offsets)
    alone = [model(*(p.rows_ND, p.offsets)) for p in (pack([bag]) for bag in bags)]
    torch.testing.assert_close(together.logits_BC, torch.cat([one.logits_BC for one in alone]), atol=1e-5, rtol=1e-5)
    if has_attention(name):
        expected = torch.cat([one.attention_N for one in alone])
        torch.testing.assert_close(together.attention_N, expected, atol=1e-6, rtol=1e-5)


@EVERY_HEAD
@settings(max_examples=30)
@given(size=st.integers(1, 40), seed=st.integers(0, 1000))
def test_the_order_of_instances_changes_nothing(name: str, size: int, seed: int) -> None:
    model, (bag,) = model_of(name), bags_of([size], seed)
    order = np.random.default_rng(seed).permutation(size)
    one, other = (model(p.rows_ND, p.offsets) for p in (pack([bag]), pack([bag[order]])))
    torch.testing.assert_close(one.logits_BC, other.logits_BC, atol=1e-5, rtol=1e-5)
    if one.attention_N is not None:
        torch.testing.assert_close(one.attention_N[order], other.attention_N, atol=1e-6, rtol=1e-5)


@EVERY_HEAD
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    model = model_of(name)
    packed = pack(bags_of([4, 1, 6]))
    torch.manual_seed(SEED)
    chosen = torch.randn(3, 3)

    def loss() -> torch.Tensor:
        return (model(packed.rows_ND, packed.offsets).logits_BC * chosen).sum()

    loss().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        direction = torch.randn_like(parameter)
        step = 1e-2 / direction.norm()
        with torch.no_grad():
            parameter += step * direction
            above = loss().double()
            parameter -= 2 * step * direction
            below = loss().double()
            parameter += step * direction
        slope = ((above - below) / (2 * step)).item()
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=0.05, abs=0.02)


@EVERY_HEAD
def test_empty_and_single_instance_bags_are_finite(name: str) -> None:
    packed = pack(bags_of([0, 1, 0, 3]))
    output = model_of(name)(packed.rows_ND, packed.offsets)
    assert torch.isfinite(output.logits_BC).all()
    assert output.logits_BC.dtype == torch.float32


@EVERY_HEAD
def test_a_bad_bag_does_not_reach_its_neighbours(name: str) -> None:
    bags = bags_of([5, 6, 4])
    bags[1][2, 3] = np.nan
    packed = pack(bags)
    logits = model_of(name)(packed.rows_ND, packed.offsets).logits_BC
    assert torch.isfinite(logits).all(dim=1).tolist() == [True, False, True]


@EVERY_HEAD
def test_bfloat16_products_leave_pooling_in_float32(name: str) -> None:
    model, packed = model_of(name), pack(bags_of([2000, 50]))
    exact = model(packed.rows_ND, packed.offsets)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(packed.rows_ND, packed.offsets)
    assert mixed.logits_BC.dtype == torch.float32
    torch.testing.assert_close(mixed.logits_BC, exact.logits_BC, atol=0.03, rtol=0.03)
    if mixed.attention_N is not None:
        sums = torch.stack([part.sum() for part in torch.split(mixed.attention_N, packed.sizes)])
        torch.testing.assert_close(sums, torch.ones(2), atol=1e-5, rtol=0)


@EVERY_HEAD
def test_a_pickle_round_trip_keeps_the_model(name: str) -> None:
    model, packed = model_of(name), pack(bags_of([5]))
    copy = pickle.loads(pickle.dumps(model))
    assert torch.equal(*(m(packed.rows_ND, packed.offsets).logits_BC for m in (model, copy)))


@EVERY_HEAD
def test_a_saved_model_is_the_same_and_a_damaged_one_is_refused(name: str, tmp_path_factory: object) -> None:
    folder = tmp_path_factory.mktemp(name)  # type: ignore[attr-defined]
    model, packed = model_of(name), pack(bags_of([5]))
    save_model(folder, model, {"fold": 0})
    loaded, facts = load_model(folder)
    assert facts["fold"] == 0
    assert torch.equal(*(m(packed.rows_ND, packed.offsets).logits_BC for m in (model, loaded)))
    (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:-40])
    with pytest.raises(RequestError, match="no whole model"):
        load_model(folder)


def test_attention_of_huge_scores_stays_finite() -> None:
    scores = torch.tensor([1e4, 0.0, -1e4, 3e4, 3e4])
    pooled, weights = attention_pool(scores, torch.eye(5), (0, 3, 5))
    assert weights.tolist() == [1, 0, 0, 0.5, 0.5]
    assert torch.isfinite(pooled).all()


def test_standardisation_counts_bags_alike() -> None:
    model = model_of("mean_pool")
    model.standardise(
        [np.full((1, 7), 2.0, np.float16), np.full((999, 7), 4.0, np.float16), np.empty((0, 7), np.float16)]
    )
    assert model.mean_D.tolist() == pytest.approx([3.0] * 7)
    assert model.scale_D.tolist() == pytest.approx([1.0] * 7)


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 60))
def test_groups_hold_every_bag_once_within_the_limit(sizes: list[int], most: int) -> None:
    groups = group_by_rows(sizes, most)
    assert [i for group in groups for i in group] == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in group) <= most or sum(sizes[i] > 0 for i in group) == 1 for group in groups)
