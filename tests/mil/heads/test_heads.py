"""The contract of every head: packing and streaming change nothing, order changes nothing, gradients are right."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import SEED
from torch import Tensor

from mil.heads import HEADS, Explains, HeadOutput, HeadSpec, has_attention, has_embedding, make_head
from mil.models.model import BagModel, load_model, save_model
from mil.ragged import instances
from mil.ragged.instances import Instances
from mil.ragged.packing import group_by_rows, pack
from wsi.errors import BagError, RequestError

EVERY_HEAD = pytest.mark.parametrize("name", HEADS)
ORDER_FREE = pytest.mark.parametrize("name", [name for name, head in HEADS.items() if head.order_free])
POINTED = pytest.mark.parametrize("name", [name for name in HEADS if has_embedding(name)])
DIM = 7


@dataclass(frozen=True)
class Labels:
    """What the heads' own losses ask."""

    classes_B: Tensor

    def loss(self, logits_BC: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits_BC, self.classes_B, reduction="none")


def model_of(name: str, n_classes: int = 3, **spec: object) -> BagModel:
    torch.manual_seed(SEED)
    model = BagModel(HeadSpec(name=name, dim=DIM, n_classes=n_classes, hidden=12, attention=5, **spec))  # type: ignore[arg-type]
    model.mean_D.normal_()
    model.scale_D.uniform_(0.5, 2)
    return model.eval()


def bags_of(sizes: list[int], seed: int = SEED) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(size, DIM)).astype(np.float32) for size in sizes]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream bags of more than five instances, three rows at a time."""
    monkeypatch.setattr(instances, "STREAM_ABOVE", 5)
    monkeypatch.setitem(instances.CHUNK, "cpu", 3)


@EVERY_HEAD
@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), seed=st.integers(0, 1000))
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
def test_gradients_of_packed_bags_are_those_of_a_loop(name: str) -> None:
    model, bags, labels = model_of(name), bags_of([9, 1, 70, 4]), torch.tensor([0, 2, 1, 2])

    def gradients(groups: list[list[int]]) -> list[Tensor]:
        model.zero_grad()
        for group in groups:
            packed, truth = pack([bags[i] for i in group]), Labels(labels[group])
            output = model(packed.rows_ND, packed.offsets, truth)
            loss = truth.loss(output.logits_BC) + (0 if output.aux_loss_B is None else output.aux_loss_B)
            loss.sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    for one, other in zip(gradients([[0, 1, 2, 3]]), gradients([[0], [1], [2], [3]]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@EVERY_HEAD
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.usefixtures("small_chunks")
def test_streaming_equals_packing(name: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, parameter gradients and row gradients of small chunks are those of all rows at once."""
    model, labels = model_of(name, dropout=0.0).train(training), Labels(torch.tensor([1, 0, 2, 1]))
    packed = pack(bags_of([40, 1, 17, 5]))

    def run() -> tuple[HeadOutput, list[Tensor | None], Tensor | None]:
        rows = packed.rows_ND.clone().requires_grad_()
        model.zero_grad()
        torch.manual_seed(SEED)
        output = model(rows, packed.offsets, labels)
        extra = 0 if output.aux_loss_B is None else output.aux_loss_B.sum()
        seen = 0 if output.attention_N is None else (output.attention_N**2).sum()
        (labels.loss(output.logits_BC).sum() + extra + seen).backward()
        return output, [p.grad for p in model.parameters()], rows.grad

    assert Instances(packed.rows_ND, packed.offsets).streamed
    streamed, streamed_grads, streamed_rows = run()
    streamed_grads = [None if g is None else g.clone() for g in streamed_grads]
    monkeypatch.setattr(instances, "STREAM_ABOVE", 1000)
    whole, whole_grads, whole_rows = run()
    for one, other in zip(streamed, whole, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    for one, other in zip(streamed_grads, whole_grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(streamed_rows, whole_rows, atol=1e-5, rtol=1e-5)


@EVERY_HEAD
@pytest.mark.parametrize("streamed", [False, True])
def test_gradients_are_those_of_finite_differences(name: str, streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if streamed:
        monkeypatch.setattr(instances, "STREAM_ABOVE", 4)
        monkeypatch.setitem(instances.CHUNK, "cpu", 3)
    model, packed = model_of(name).double(), pack(bags_of([8, 1, 4]))
    parameters = [p for p in model.parameters() if p.requires_grad]

    def logits(rows: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip((n for n, _ in model.named_parameters()), values, strict=True))
        output = torch.func.functional_call(model, named, (rows, packed.offsets))
        return output.logits_BC

    def of_rows(rows: Tensor) -> Tensor:
        return model(rows, packed.offsets).logits_BC

    rows = packed.rows_ND.double().requires_grad_()
    assert torch.autograd.gradcheck(of_rows, rows, fast_mode=True)
    if not streamed:
        assert torch.autograd.gradcheck(logits, (rows, *parameters), fast_mode=True)


@ORDER_FREE
@settings(max_examples=25)
@given(size=st.integers(1, 40), seed=st.integers(0, 1000))
def test_the_order_of_instances_changes_nothing(name: str, size: int, seed: int) -> None:
    model, (bag,) = model_of(name), bags_of([size], seed)
    order = np.random.default_rng(seed).permutation(size)
    one, other = (model(p.rows_ND, p.offsets) for p in (pack([bag]), pack([bag[order]])))
    torch.testing.assert_close(one.logits_BC, other.logits_BC, atol=1e-5, rtol=1e-5)
    if one.attention_N is not None:
        torch.testing.assert_close(one.attention_N[order], other.attention_N, atol=1e-6, rtol=1e-5)


def test_the_order_of_instances_matters_where_a_head_says_so() -> None:
    model, (bag,) = model_of("transmil"), bags_of([30])
    one, other = (model(p.rows_ND, p.offsets).logits_BC for p in (pack([bag]), pack([bag[::-1].copy()])))
    assert not torch.allclose(one, other, atol=1e-4)


@EVERY_HEAD
def test_every_parameter_learns(name: str) -> None:
    model, packed, truth = model_of(name).train(), pack(bags_of([20, 30, 70])), Labels(torch.tensor([0, 1, 2]))
    output = model(packed.rows_ND, packed.offsets, truth)
    loss = truth.loss(output.logits_BC).sum() + (0 if output.aux_loss_B is None else output.aux_loss_B.sum())
    loss.backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert idle == []


@EVERY_HEAD
def test_a_single_instance_makes_a_bag_and_trains(name: str) -> None:
    model, packed, truth = model_of(name).train(), pack(bags_of([1, 1, 3])), Labels(torch.tensor([0, 1, 2]))
    output = model(packed.rows_ND, packed.offsets, truth)
    assert torch.isfinite(output.logits_BC).all()
    assert output.logits_BC.dtype == torch.float32
    if output.aux_loss_B is not None:
        assert output.aux_loss_B.shape == (3,)
        assert torch.isfinite(output.aux_loss_B).all()
    if output.attention_N is not None:
        assert output.attention_N[:2].tolist() == pytest.approx([1.0, 1.0])


@EVERY_HEAD
def test_an_empty_bag_is_refused_by_name(name: str) -> None:
    with pytest.raises(BagError, match="bag 049194_0 is empty"):
        pack(bags_of([3, 0]), names=["0_0", "049194_0"])
    with pytest.raises(BagError, match="bag 1 of the batch is empty"):
        model_of(name)(torch.zeros(3, DIM), (0, 3, 3))


@EVERY_HEAD
def test_a_bad_bag_does_not_reach_its_neighbours(name: str) -> None:
    bags = bags_of([5, 6, 4])
    bags[1][2, 3] = np.nan
    packed = pack(bags)
    logits = model_of(name)(packed.rows_ND, packed.offsets).logits_BC
    assert torch.isfinite(logits).all(dim=1).tolist() == [True, False, True]


@EVERY_HEAD
@pytest.mark.parametrize("limit", [100, 10_000])
def test_bfloat16_products_leave_pooling_in_float32(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "STREAM_ABOVE", limit)
    model, packed, truth = model_of(name), pack(bags_of([2000, 50])), Labels(torch.tensor([0, 2]))
    exact = model(packed.rows_ND, packed.offsets, truth)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(packed.rows_ND, packed.offsets, truth)
    assert mixed.logits_BC.dtype == torch.float32
    torch.testing.assert_close(mixed.logits_BC, exact.logits_BC, atol=0.03, rtol=0.03)
    truth.loss(mixed.logits_BC).sum().backward()
    if mixed.attention_N is not None:
        assert mixed.attention_N.dtype == torch.float32
        sums = torch.stack([part.sum() for part in torch.split(mixed.attention_N, packed.sizes)])
        torch.testing.assert_close(sums, torch.ones(2), atol=1e-5, rtol=0)


@EVERY_HEAD
def test_half_precision_features_give_what_their_float32_values_give(name: str) -> None:
    model, bags = model_of(name), [bag.astype(np.float16) for bag in bags_of([12, 3])]
    half, full = pack(bags), pack([bag.astype(np.float32) for bag in bags])
    assert half.rows_ND.dtype == torch.float16
    assert torch.equal(*(model(p.rows_ND, p.offsets).logits_BC for p in (half, full)))


@EVERY_HEAD
def test_the_same_bags_give_the_same_bits(name: str) -> None:
    model, packed = model_of(name), pack(bags_of([30, 8]))
    assert torch.equal(*(model(packed.rows_ND, packed.offsets).logits_BC for _ in range(2)))

    def seeded() -> Tensor:
        torch.manual_seed(SEED)
        return model.train()(packed.rows_ND, packed.offsets).logits_BC

    assert torch.equal(seeded(), seeded())


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


@EVERY_HEAD
def test_one_output_is_enough(name: str) -> None:
    """A regression or a survival model has a single output."""
    packed = pack(bags_of([9, 2]))
    output = model_of(name, n_classes=1)(packed.rows_ND, packed.offsets)
    assert output.logits_BC.shape == (2, 1)


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


def test_every_head_tells_what_it_is() -> None:
    lines = [head.about for head in HEADS.values()]
    assert len(set(lines)) == len(HEADS)
    assert all(0 < len(line) < 90 and "\n" not in line for line in lines)


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
@pytest.mark.parametrize("n_classes", [1, 2, 3])
@pytest.mark.parametrize("streamed", [False, True])
def test_what_tiles_say_makes_the_logits_exactly(
    name: str, n_classes: int, streamed: bool, request: pytest.FixtureRequest
) -> None:
    if streamed:
        request.getfixturevalue("small_chunks")
    model, packed = model_of(name, n_classes, scale=3.0, shift=7.0), pack(bags_of([40, 1, 17, 5]))
    with torch.no_grad():
        plain, told = model(packed.rows_ND, packed.offsets), model.explain(packed.rows_ND, packed.offsets)
    assert told is not None
    assert told.tile_logits_NC is not None
    torch.testing.assert_close(told.logits_BC, plain.logits_BC, atol=1e-5, rtol=1e-5)
    if plain.attention_N is None:
        assert told.attention_N is None
    else:
        torch.testing.assert_close(told.attention_N, plain.attention_N, atol=1e-6, rtol=1e-5)
    bags = torch.split(told.tile_logits_NC, packed.sizes)
    says = HEADS[name].says  # type: ignore[attr-defined]
    made = torch.stack([bag.sum(0) if says == "sum" else bag.max(0).values for bag in bags])
    if says == "max" and n_classes == 2:
        made = torch.stack([bag[bag[:, 1].argmax()] for bag in bags])  # one score, for the second class being there
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
