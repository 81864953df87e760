"""What streaming must give back beside the numbers: random numbers, precision, and rows left out."""

import numpy as np
import pytest
import torch
from making import SEED
from torch import Tensor, nn

from mil.heads import HEADS, HeadSpec, make_head
from mil.heads.acmil import Acmil
from mil.heads.mean_pool import MeanPool
from mil.heads.parts.attention import AttentionRows
from mil.models.model import BagModel
from mil.ragged import instances, streaming
from mil.ragged.instances import Instances
from mil.ragged.pooling import pool
from mil.ragged.segments import segment_softmax, weighted_sums
from mil.ragged.streaming import stream_pool
from mil.targets import ClassTarget


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "STREAM_ABOVE", 5)
    monkeypatch.setitem(instances.CHUNK, "cpu", 3)


def bags() -> Instances:
    return Instances(torch.randn(23, 4, generator=torch.Generator().manual_seed(SEED)), (0, 16, 17, 23))


@pytest.fixture(params=["all kept", "some kept", "none kept"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What of a pooling's graphs there is room for: that of every chunk, of three or so, of none."""
    room = {"all kept": 1 << 20, "some kept": 500, "none kept": 0}
    monkeypatch.setitem(streaming.KEPT_BYTES, "cpu", room[request.param])
    return str(request.param)


def test_dropout_in_a_chunk_is_the_same_when_it_is_computed_again(kept: str) -> None:
    layer, drop, held = nn.Linear(4, 5), nn.Dropout(0.5), bags()

    def attend(rows_nD: Tensor) -> tuple[Tensor, Tensor]:
        values_nH = drop(layer(rows_nD))
        return values_nH[:, :1], values_nH

    def gradients(pooled_BKH: Tensor) -> list[Tensor]:
        layer.zero_grad()
        (pooled_BKH**2).sum().backward()
        return [p.grad.clone() for p in layer.parameters() if p.grad is not None]

    torch.manual_seed(SEED)
    streamed = stream_pool(attend, list(layer.parameters()), held)[0]
    state = torch.get_rng_state()
    torch.rand(7)
    found = gradients(streamed)
    torch.manual_seed(SEED)
    parts = [attend(held.rows(start, stop)) for _, start, stop in held.chunks()]
    assert torch.equal(torch.get_rng_state(), state)
    weights_NK = segment_softmax(torch.cat([scores for scores, _ in parts]), held.offsets)
    whole = weighted_sums(weights_NK, torch.cat([values for _, values in parts]), held.offsets)
    torch.testing.assert_close(streamed, whole)
    for one, other in zip(found, gradients(whole), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("head", ["gated_abmil", "acmil", "dtfd", "mean_mlp"])
def test_what_is_kept_changes_no_bit_and_can_be_gone_through_twice(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bits(room: int) -> tuple[list[Tensor], int]:
        monkeypatch.setitem(streaming.KEPT_BYTES, "cpu", room)
        torch.manual_seed(SEED)
        model = BagModel(HeadSpec(name=head, dim=4, n_classes=2, hidden=8, attention=4, limit=2.0)).train()
        computed: list[None] = []
        embed = next(own for own in model.modules() if isinstance(own, nn.Linear))
        embed.register_forward_hook(lambda *_: computed.append(None))
        held = bags()
        output = model(
            held.rows_ND.half(), held.offsets, ClassTarget(np.array([0, 1, 1]), ("a", "b")).batch(np.arange(3), "cpu")
        )
        loss = output.logits_BC.square().sum()
        first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
        again = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return [own for own in (output.logits_BC, *first, *again) if own is not None], len(computed)

    wanted, twice = bits(0)
    for room in (1, 500, 1 << 20):
        found, count = bits(room)
        assert count < twice
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_rows_of_kept_chunks_are_made_again_and_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, made = Instances.rows, list[tuple[int, int]]()

    def counted(self: Instances, start: int = 0, stop: int | None = None) -> Tensor:
        made.append((start, stop or 0))
        return rows(self, start, stop)

    monkeypatch.setattr(Instances, "rows", counted)
    layer, held = nn.Linear(4, 5), bags()
    stream_pool(lambda rows: (rows[:, :1], layer(rows)), list(layer.parameters()), held)[0].sum().backward()
    places = [(start, stop) for _, start, stop in held.chunks()]
    assert sorted(made) == sorted([*places, *places])


def test_a_backward_pass_leaves_the_random_numbers_alone(kept: str) -> None:
    layer, held = nn.Linear(4, 5), bags()
    pooled, _ = stream_pool(
        lambda rows: (rows[:, :1], nn.functional.dropout(layer(rows))), list(layer.parameters()), held
    )
    torch.rand(7)
    before = torch.get_rng_state()
    pooled.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_chunks_are_computed_again_in_the_precision_of_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(streaming.KEPT_BYTES, "cpu", 0)
    layer, held, kinds = nn.Linear(4, 5), bags(), []

    def attend(rows_nD: Tensor) -> tuple[Tensor, Tensor]:
        values_nH = layer(rows_nD)
        kinds.append(values_nH.dtype)
        return values_nH[:, :1], values_nH

    with torch.autocast("cpu", torch.bfloat16):
        pooled, scores = stream_pool(attend, list(layer.parameters()), held)
    (pooled.sum() + scores.sum()).backward()
    assert len(kinds) == 2 * len(list(held.chunks()))
    assert set(kinds) == {torch.bfloat16}
    assert pooled.dtype == scores.dtype == torch.float32


def test_scores_are_made_in_float32_under_autocast() -> None:
    rows = AttentionRows(HeadSpec(name="gated_abmil", dim=4, n_classes=2, hidden=8, attention=4))
    with torch.autocast("cpu", torch.bfloat16):
        scores, values = rows(bags().rows())
    assert (scores.dtype, values.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("limit", [5, 1000])
def test_a_row_of_minus_infinity_is_left_out(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "STREAM_ABOVE", limit)
    held, kept = bags(), torch.arange(23) % 2 == 0
    bias = torch.zeros(23, 1).masked_fill(~kept[:, None], float("-inf"))
    rows = AttentionRows(HeadSpec(name="gated_abmil", dim=4, n_classes=2, hidden=8, attention=4))
    found = pool(rows, list(rows.parameters()), held, bias)
    alone = pool(rows, [], Instances(held.rows_ND[kept], (0, 8, 9, 12)))
    torch.testing.assert_close(found.values_BKH, alone.values_BKH)
    assert (found.attention_NK[~kept] == 0).all()


def test_acmil_masks_some_of_the_highest_tiles_of_each_branch() -> None:
    torch.manual_seed(SEED)
    head = make_head(HeadSpec(name="acmil", dim=4, n_classes=2, hidden=8, attention=4)).train()
    held = Instances(torch.randn(40, 4), (0, 40))
    assert isinstance(head, Acmil)
    scores_NK, _ = head.rows(held.rows())
    masked_NK = head._mask(held).isinf()
    assert masked_NK.sum(0).tolist() == [6] * 5
    for branch in range(5):
        highest = set(scores_NK[:, branch].topk(10).indices.tolist())
        assert set(masked_NK[:, branch].nonzero().flatten().tolist()) <= highest


def test_attention_of_huge_scores_stays_finite() -> None:
    held = Instances(torch.tensor([1e4, 0.0, -1e4, 3e4, 3e4, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0])[:, None], (0, 3, 5, 11))

    def attend(rows_nD: Tensor) -> tuple[Tensor, Tensor]:
        return rows_nD, rows_nD

    for weights in (segment_softmax(held.rows(), held.offsets), pool(attend, [], held).attention_NK):
        assert weights[:5, 0].tolist() == [1, 0, 0, 0.5, 0.5]
    assert pool(attend, [], held).values_BKH[:, 0, 0].tolist() == pytest.approx([1e4, 3e4, 5.0])


def test_mean_of_a_large_bag_is_the_mean() -> None:
    held = bags()
    head = make_head(HeadSpec(name="mean_pool", dim=4, n_classes=2, hidden=8)).eval()
    assert isinstance(head, MeanPool)
    assert held.streamed
    means = torch.stack([part.mean(0) for part in torch.split(held.rows(), held.sizes)])
    torch.testing.assert_close(head(held).embedding_BH, head.embed(means))


@pytest.mark.parametrize("biased", [False, True])
def test_parameter_gradients_are_those_of_finite_differences(biased: bool) -> None:
    """Both results, K = 2 weightings, in float64; a bag of one row and one chunk that is not full are among them."""
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    score_4K, value_4H = (torch.randn(4, n, generator=generator, dtype=torch.float64) for n in (2, 3))
    bias = torch.zeros(12, 2, dtype=torch.float64)
    bias[[1, 9], [0, 1]] = float("-inf")

    def pooled(rows_ND: Tensor, score: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        def attend(rows_nD: Tensor) -> tuple[Tensor, Tensor]:
            return (rows_nD @ score).tanh(), (rows_nD @ value).sigmoid()

        held = Instances(rows_ND, (0, 7, 8, 12))
        return stream_pool(attend, [score, value], held, bias if biased else None)

    inputs = tuple(part.requires_grad_() for part in (rows, score_4K, value_4H))
    assert torch.autograd.gradcheck(pooled, inputs)


@pytest.mark.parametrize("name", HEADS)
def test_a_large_bag_never_exists_whole_in_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, float16 rows are cast no more than a chunk at a time."""
    cast, ready = [], Instances._ready

    def counted(self: Instances, chosen: Tensor) -> Tensor:
        cast.append(len(chosen))
        return ready(self, chosen)

    monkeypatch.setattr(Instances, "_ready", counted)
    monkeypatch.setitem(instances.CHUNK, "cpu", 64)
    head = make_head(HeadSpec(name=name, dim=4, n_classes=2, hidden=8, attention=4)).train()
    held = Instances(torch.randn(300, 4).half(), (0, 300), torch.zeros(4), torch.ones(4))
    truth = ClassTarget(np.array([1]), ("a", "b")).batch(np.array([0]), "cpu")
    output = head(held, truth)
    forward = sum(cast)
    (truth.loss(output.logits_BC).sum() + (0 if output.aux_loss_B is None else output.aux_loss_B.sum())).backward()
    assert max(cast) <= 64
    assert forward >= 300
    assert sum(cast) >= forward + 300 or name in ("mean_pool", "linear")  # nothing is learnt below the mean
