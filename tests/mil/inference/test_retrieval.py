"""Slides as points: look-up, MAP@k, ArcFace's margins, and a class that was never seen."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import SEED

from mil.heads import HeadSpec, dynamic_margins
from mil.heads.parts.output import ArcFace
from mil.inference.retrieval import embed_bags, familiarity, map_at_k, nearest
from mil.models.model import BagModel
from mil.ragged.packing import pack
from mil.targets import ClassTarget
from mil.targets.metrics import macro_auc, ones
from wsi.errors import RequestError

CLASSES, DIM = 6, 12


def slides(rng: np.random.Generator, labels: np.ndarray) -> list[np.ndarray]:
    """Return bags of which a third of the instances lie near a place of their class."""
    places = np.random.default_rng(SEED).normal(size=(CLASSES, DIM)) * 3
    bags = []
    for label in labels:
        bag = rng.normal(size=(int(rng.integers(12, 30)), DIM))
        bag[: len(bag) // 3] += places[label]
        bags.append(bag.astype(np.float16))
    return bags


@pytest.fixture(scope="module")
def model() -> BagModel:
    """ArcFace on gated attention, trained on all classes but the last, the first of them rare."""
    rng = np.random.default_rng(SEED)
    labels = np.array([0] * 8 + [1, 2, 3, 4] * 20, np.int64)
    margins = dynamic_margins(np.bincount(labels).tolist())
    torch.manual_seed(SEED)
    spec = HeadSpec(
        name="gated_abmil", dim=DIM, n_classes=5, hidden=32, attention=16, output="arcface", margins=margins
    )
    model, bags = BagModel(spec), slides(rng, labels)
    model.standardise(bags)
    packed, truth = pack(bags), ClassTarget(labels, tuple("abcde")).batch(np.arange(len(labels)), "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        loss = truth.loss(model.train()(packed.rows_ND, packed.offsets, truth).logits_BC).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_new_slides_are_found_and_an_unknown_class_is_refused(model: BagModel) -> None:
    rng = np.random.default_rng(SEED + 1)
    labels = np.repeat(np.arange(5, dtype=np.int64), 12)
    gallery_points, held_points, new_points = (embed_bags(model, slides(rng, labels)) for _ in range(3))
    unknown_points = embed_bags(model, slides(rng, np.full(60, 5)))
    precision, counted = map_at_k(gallery_points, labels, 5)
    assert counted == 60
    assert precision > 0.9
    held, new, unknown = (familiarity(own @ gallery_points.T, 5) for own in (held_points, new_points, unknown_points))
    threshold = np.quantile(held, 0.1)
    assert (new >= threshold).mean() > 0.8
    order, _ = nearest(new_points, gallery_points, 5)
    called = np.array([np.bincount(labels[own]).argmax() for own in order])
    assert (called == labels)[new >= threshold].mean() > 0.95
    assert (unknown < threshold).mean() > 0.7
    both = np.concatenate([new, unknown])
    assert macro_auc(np.repeat([[1.0], [0.0]], 60, axis=0), both[:, None], ones(120)) > 0.9


def test_rarer_classes_get_wider_margins() -> None:
    margins = dynamic_margins([1000, 100, 10])
    assert margins[0] == pytest.approx(0.1)
    assert margins[2] == pytest.approx(0.5)
    assert margins[0] < margins[1] < margins[2]
    assert dynamic_margins([7, 7]) == (0.3, 0.3)


def test_arcface_adds_the_margin_to_the_angle() -> None:
    layer = ArcFace(HeadSpec(name="gated_abmil", dim=1, n_classes=2, margins=(0.2, 0.4)), 2)
    with torch.no_grad():
        layer.centers_KCH.copy_(torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]))
    point = torch.tensor([[np.cos(0.5), np.sin(0.5)]], dtype=torch.float32)
    logits = layer(point, torch.tensor([1]))
    assert logits[0].tolist() == pytest.approx([30 * np.cos(0.5), 30 * np.cos(np.pi / 2 - 0.5 + 0.4)], abs=1e-4)
    assert layer(point, None)[0].tolist() == pytest.approx([30 * np.cos(0.5), 30 * np.sin(0.5)], abs=1e-4)


def test_arcface_falls_all_the_way_from_the_center_to_its_opposite() -> None:
    layer = ArcFace(HeadSpec(name="gated_abmil", dim=1, n_classes=2, margins=(0.5, 0.5)), 2)
    with torch.no_grad():
        layer.centers_KCH.copy_(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    angles = torch.linspace(0.001, np.pi - 0.001, 400)
    points = torch.stack([angles.cos(), angles.sin()], dim=1).requires_grad_()
    logits = layer(points, torch.zeros(400, dtype=torch.long))[:, 0]
    assert (logits.diff() < 0).all()
    logits.sum().backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()


def test_the_best_of_several_centers_counts() -> None:
    layer = ArcFace(HeadSpec(name="gated_abmil", dim=1, n_classes=1, subcenters=2, margins=(0.0,)), 2)
    with torch.no_grad():
        layer.centers_KCH.copy_(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    assert layer(torch.eye(2), None)[:, 0].tolist() == pytest.approx([30.0, 30.0])


@given(st.integers(0, 300), st.integers(1, 6))
def test_map_at_k_is_its_definition(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    points, labels = rng.normal(size=(9, 3)), rng.integers(0, 3, 9)
    expected = []
    for query in range(9):
        others = [i for i in range(9) if i != query]
        cosine = {i: points[i] @ points[query] / np.linalg.norm(points[i]) for i in others}
        ranked = sorted(others, key=lambda i: -cosine[i])[:k]
        wanted = sum(labels[i] == labels[query] for i in others)
        hits = [labels[i] == labels[query] for i in ranked]
        if wanted:
            precisions = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
            expected.append(sum(precisions) / min(k, wanted))
    found, counted = map_at_k(points, labels, k)
    assert counted == len(expected)
    assert np.isnan(found) if not expected else found == pytest.approx(np.mean(expected))


def test_a_patients_own_slides_are_not_looked_up() -> None:
    points = np.array([[1.0, 0], [1.0, 0.01], [0.0, 1], [0.01, 1]])
    labels = np.array([0, 0, 0, 1])
    assert map_at_k(points, labels, 1)[0] == pytest.approx(2 / 3)
    mean, count = map_at_k(points, labels, 1, ["a", "a", "b", "b"])
    assert mean == pytest.approx(1 / 3)
    assert count == 3


def test_nearest_gives_no_more_than_there_is() -> None:
    order, cosines = nearest(np.array([[1.0, 0.1]]), np.eye(2), 5)
    assert order.tolist() == [[0, 1]]
    assert cosines[0, 0] > cosines[0, 1]


def test_a_head_without_points_is_refused() -> None:
    with pytest.raises(RequestError, match="no single point"):
        embed_bags(BagModel(HeadSpec(name="max_pool", dim=2, n_classes=2)), [np.eye(2)])
