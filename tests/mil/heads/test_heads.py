"""Every head keeps the contract, and what a head and its standardisation are together."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import SEED

from mil.heads import HEADS, Explains, Head, HeadOutput, HeadSpec, Truth, has_embedding, make_head
from mil.heads.contract import CHECKS, Labels, check_head
from mil.heads.mean_pool import MeanPool, mean_features
from mil.models.model import BagModel, load_model, save_model
from mil.ragged.instances import Instances
from mil.ragged.packing import group_by_rows, pack
from wsi.errors import BagError, RequestError

EVERY_HEAD = pytest.mark.parametrize("name", HEADS)
POINTED = pytest.mark.parametrize("name", [name for name in HEADS if has_embedding(name)])
DIM = 7


def model_of(name: str, n_classes: int = 3, **spec: object) -> BagModel:
    torch.manual_seed(SEED)
    model = BagModel(HeadSpec(name=name, dim=DIM, n_classes=n_classes, hidden=12, attention=5, **spec))  # type: ignore[arg-type]
    model.mean_D.normal_()
    model.scale_D.uniform_(0.5, 2)
    return model.eval()


def bags_of(sizes: list[int], seed: int = SEED) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(size, DIM)).astype(np.float32) for size in sizes]


@EVERY_HEAD
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_head_keeps_the_contract(name: str, check: Callable[[type[Head]], None]) -> None:
    check(HEADS[name])


def altered(**attributes: object) -> type[Head]:
    """A head of means, with something wrong."""
    return type("Altered", (MeanPool,), {"about": "altered", **attributes})


def with_others(self: Head, instances: Instances, truth: Truth | None = None) -> HeadOutput:
    output = MeanPool.forward(self, instances, truth)  # type: ignore[arg-type]
    return output._replace(logits_BC=output.logits_BC - output.logits_BC.mean(0))


def of_the_first(self: Head, instances: Instances, truth: Truth | None = None) -> HeadOutput:
    first_BD = instances.take(torch.tensor(instances.offsets[:-1])) + mean_features(instances)
    return MeanPool.forward(self, Instances(first_BD, range(len(first_BD) + 1)), truth)  # type: ignore[arg-type]


def only_small(self: Head, instances: Instances, truth: Truth | None = None) -> HeadOutput:
    output = MeanPool.forward(self, instances, truth)  # type: ignore[arg-type]
    return output._replace(logits_BC=2 * output.logits_BC) if instances.streamed else output


def detached(self: Head, instances: Instances, truth: Truth | None = None) -> HeadOutput:
    output = MeanPool.forward(self, instances, truth)  # type: ignore[arg-type]
    unseen = mean_features(instances).detach().square().sum(1, keepdim=True)
    return output._replace(logits_BC=output.logits_BC + unseen)


def wide_weights(self: Head, instances: Instances, truth: Truth | None = None) -> HeadOutput:
    output = MeanPool.forward(self, instances, truth)  # type: ignore[arg-type]
    return output._replace(attention_N=torch.ones(len(instances.rows_ND)))


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"forward": with_others}, "logits depend on the other bags"),
        ({"forward": of_the_first}, "the order of instances counts"),
        ({"forward": only_small}, "streamed, outputs differ"),
        ({"forward": detached}, "Jacobian"),
        ({"forward": wide_weights, "attends": True}, "attention does not sum to 1"),
        ({"attends": True}, "attention_N: expected just where the head attends"),
        ({"order_free": False}, "order_free is false, but"),
        ({"about": "two\nlines"}, "about: expected one line"),
    ],
)
def test_the_contract_finds_what_is_broken(attributes: dict[str, object], told: str) -> None:
    with pytest.raises((AssertionError, RuntimeError), match=told):
        check_head(altered(**attributes))


@EVERY_HEAD
def test_an_empty_bag_is_refused_by_name(name: str) -> None:
    with pytest.raises(BagError, match="bag 049194_0 is empty"):
        pack(bags_of([3, 0]), names=["0_0", "049194_0"])
    with pytest.raises(BagError, match="bag 1 of the batch is empty"):
        model_of(name)(torch.zeros(3, DIM), (0, 3, 3))


@EVERY_HEAD
def test_half_precision_features_give_what_their_float32_values_give(name: str) -> None:
    model, bags = model_of(name), [bag.astype(np.float16) for bag in bags_of([12, 3])]
    half, full = pack(bags), pack([bag.astype(np.float32) for bag in bags])
    assert half.rows_ND.dtype == torch.float16
    assert torch.equal(*(model(p.rows_ND, p.offsets).logits_BC for p in (half, full)))


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


@pytest.mark.parametrize(
    ("field", "value"), [("shift", float("nan")), ("scale", "2"), ("dropout", True), ("target", 1), ("hidden", 1 << 40)]
)
def test_a_field_of_another_kind_is_refused(tmp_path: Path, field: str, value: object) -> None:
    save_model(tmp_path, model_of("mean_pool"), {})
    told = json.loads((tmp_path / "model.json").read_text())
    told["spec"][field] = value
    (tmp_path / "model.json").write_text(json.dumps(told))
    with pytest.raises(RequestError, match=rf"{field} of model\.json cannot be "):
        load_model(tmp_path)


@POINTED
def test_arcface_replaces_the_last_layer(name: str) -> None:
    model, packed = model_of(name, output="arcface", margins=(0.2, 0.3, 0.5), subcenters=2), pack(bags_of([9, 2]))
    truth = Labels(torch.tensor([0, 2]))
    plain, margin = (model(packed.rows_ND, packed.offsets, t).logits_BC for t in (None, truth))
    assert plain.abs().max() <= 30
    assert (margin[[0, 1], [0, 2]] < plain[[0, 1], [0, 2]]).all()
    torch.testing.assert_close(margin[0, 1:], plain[0, 1:])


def test_arcface_is_refused_where_no_point_stands_for_the_bag() -> None:
    with pytest.raises(RequestError, match="clam_mb has no single point"):
        make_head(HeadSpec(name="clam_mb", dim=4, n_classes=2, output="arcface"))


def test_additive_tile_scores_sum_to_the_slides_logits() -> None:
    packed = pack(bags_of([40, 3]))
    output = model_of("additive")(packed.rows_ND, packed.offsets)
    sums = torch.stack([part.sum(0) for part in torch.split(output.tile_logits_NC, packed.sizes)])
    assert torch.equal(sums, output.logits_BC)


def test_no_two_heads_tell_the_same_of_themselves() -> None:
    assert len({head.about for head in HEADS.values()}) == len(HEADS)


def test_standardisation_counts_bags_alike() -> None:
    model = model_of("mean_pool")
    model.standardise(
        [np.full((1, DIM), 2.0, np.float16), np.full((999, DIM), 4.0, np.float16), np.empty((0, DIM), np.float16)]
    )
    assert model.mean_D.tolist() == pytest.approx([3.0] * DIM)
    assert model.scale_D.tolist() == pytest.approx([1.0] * DIM)


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 60))
def test_groups_hold_every_bag_once_within_the_limit(sizes: list[int], most: int) -> None:
    groups = group_by_rows(sizes, most)
    assert [i for group in groups for i in group] == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in group) <= most or sum(sizes[i] > 0 for i in group) == 1 for group in groups)


EXPLAINING = [name for name, head in HEADS.items() if issubclass(head, Explains)]


@pytest.mark.parametrize("name", EXPLAINING)
def test_what_tiles_say_of_values_adds_up_in_their_unit(name: str) -> None:
    """That it makes the logits stands in the contract; here with what turns them into values."""
    model, packed = model_of(name, 1, scale=3.0, shift=7.0), pack(bags_of([40, 1, 17, 5]))
    with torch.no_grad():
        plain, told = model(packed.rows_ND, packed.offsets), model.explain(packed.rows_ND, packed.offsets)
    assert told is not None
    assert told.tile_logits_NC is not None
    torch.testing.assert_close(told.logits_BC, plain.logits_BC, atol=1e-5, rtol=1e-5)
    bags = torch.split(told.tile_logits_NC, packed.sizes)
    says = HEADS[name].says  # type: ignore[attr-defined]
    made = torch.stack([bag.sum(0) if says == "sum" else bag.max(0).values for bag in bags])
    torch.testing.assert_close(made + 7, plain.logits_BC, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in EXPLAINING if HEADS[name].attends and name != "dsmil"])
def test_what_a_tile_says_is_its_weight_times_the_logits_of_a_slide_of_nothing_but_its_like(name: str) -> None:
    model, (bag,) = model_of(name, 1), bags_of([12])
    told = model.explain(*(pack([bag]).rows_ND, (0, 12)))
    assert told is not None
    assert told.attention_N is not None
    assert told.tile_logits_NC is not None
    for place in (0, 5, 11):
        alone = model(torch.from_numpy(bag[[place] * 3]), (0, 3)).logits_BC[0, 0]
        weight = told.attention_N[place] if name != "max_pool" else 1.0
        torch.testing.assert_close(told.tile_logits_NC[place, 0], weight * alone, atol=1e-6, rtol=1e-5)


@POINTED
def test_with_arcface_no_head_claims_that_tiles_add_up(name: str) -> None:
    packed = pack(bags_of([6]))
    assert model_of(name, output="arcface").explain(packed.rows_ND, packed.offsets) is None
