"""The parts of pretraining that are functions: draws, views, losses, statistics of batch norm, the gauge."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from features.distributed import Place
from features.encoders.spec import EncoderSpec
from features.learning.norms import Statistics
from features.learning.ranks import Setting
from features.learning.slides import Slide
from features.pretrain.cohort import Probe
from features.pretrain.dino import BOTTLENECK, Dino, Prototypes
from features.pretrain.gauge import gauge
from features.pretrain.options import PretrainOptions
from features.pretrain.probe import TILES, OnlineProbe
from features.pretrain.sources import draw_balanced
from features.pretrain.student import Student
from features.pretrain.vicreg import Vicreg, off_diagonal
from features.pretrain.views import View, draw_changes, plain, stained, viewed
from wsi.arrays import Floats
from wsi.store.tile_store import TileStore

SPEC = EncoderSpec(
    name="x", dim=4, input_px=32, trained=False, weights_sha256="", licence="", description=""
)  # fmt: skip
SETTING = Setting(Place(), torch.device("cpu"), "fp32", SPEC, save=True)


def options(**more: object) -> PretrainOptions:
    known = {"source": (Path("stores"),), "out": Path("w.safetensors")}
    return PretrainOptions(**(known | more))  # type: ignore[arg-type]


@settings(max_examples=25)
@given(
    counts=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=9), wanted=st.integers(1, 90)
)
def test_centers_and_slides_have_equal_shares(counts: list[tuple[int, int]], wanted: int) -> None:
    slides = [
        Slide(f"s{n}", f"p{n}", -1, Path("x"), np.arange(count) * 3, f"c{center}")
        for n, (count, center) in enumerate(counts)
    ]
    draw = draw_balanced(slides, wanted, seed=1, epoch=2)
    assert len(draw) == len(draw.tiles) == len(draw.weights) == wanted
    centers = [slides[n].center_id for n in draw.slides]
    for center in {slide.center_id for slide in slides}:
        own = [n for n, slide in enumerate(slides) if slide.center_id == center]
        shares = [int((draw.slides == n).sum()) for n in own]
        assert max(shares) - min(shares) <= 1
        assert abs(centers.count(center) - wanted / len({s.center_id for s in slides})) < 1
    for number, slide in enumerate(slides):
        taken = draw.tiles[draw.slides == number]
        assert set(taken.tolist()) <= set(slide.tiles.tolist())
        times = [int((taken == tile).sum()) for tile in slide.tiles]
        assert max(times) - min(times) <= 1


def test_a_view_without_changes_is_the_image_and_turns_are_numpys() -> None:
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    view, still = View(32, (1.0, 1.0)), options(jitter=0.0, stain_jitter=0.0)
    changes = draw_changes(np.random.default_rng(0), 8, view, still)
    views = viewed(images, changes, view, stain=True).numpy()
    found = set()
    for image, own in zip(images.numpy(), views, strict=True):
        turned = [np.rot90(part, turn, (1, 2)) for part in (image, image[:, :, ::-1]) for turn in range(4)]
        near = [np.abs(own - other).max() < 1e-4 for other in turned]
        assert sum(near) == 1
        found.add(near.index(True))
    assert len(found) > 2
    plain_options = options(jitter=0.0, stain_jitter=0.0, flips=False)
    unchanged = draw_changes(np.random.default_rng(0), 8, view, plain_options)
    torch.testing.assert_close(viewed(images, unchanged, view, stain=False), images, rtol=0, atol=1e-5)


def test_views_keep_the_scale_of_the_encoders_input() -> None:
    """Half the pixels show the middle half of the tile; a ramp's slope tells."""
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    half = plain(ramp, View(32, (1.0, 1.0), 0.5))
    torch.testing.assert_close(half[0, 0, 0], ramp[0, 0, 0, 16:48], rtol=0, atol=1e-5)
    coarse = plain(ramp, View(16, (1.0, 1.0)))
    torch.testing.assert_close(coarse[0, 0, 0], ramp[0, 0, 0].view(16, 4).mean(1), rtol=0, atol=1e-5)


def test_stains_change_as_scikit_images_separation_tells() -> None:
    """With scikit-image's own stains in place of ours: more haematoxylin, and nothing else."""
    from skimage.color import combine_stains, hed_from_rgb, rgb_from_hed, separate_stains

    from features.pretrain import views

    rng = np.random.default_rng(3)
    amounts = rng.uniform(0.03, 0.08, (16, 16, 3))
    pixels = combine_stains(amounts, rgb_from_hed)
    changed = torch.tensor([[[1.5, 1.0, 1.0], [0.0, 0.0, 0.0]]])
    tiles = torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(views, "_STAINS_33", rgb_from_hed.T.copy())
        found = stained(tiles, changed)[0].numpy().transpose(1, 2, 0)
    before, after = (separate_stains(own, hed_from_rgb) for own in (pixels, found))
    np.testing.assert_allclose(after[..., 0] / before[..., 0], 1.5, atol=0.06)
    np.testing.assert_allclose(after[..., 1] / before[..., 1], 1.0, atol=0.06)


def test_running_statistics_are_torchs_with_one_part_and_the_mean_of_two() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(6, 3, 4, 4, generator=generator) * 2 + 1 for _ in range(2)]
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    statistics = Statistics(ours)
    for step in range(3):
        ours(parts[0]), theirs(parts[0])
        statistics.note()
        statistics.settle(1, SETTING, step)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    for part in parts:
        ours(part)
        statistics.note()
    statistics.settle(2, SETTING, 3)
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    assert theirs.running_mean is not None
    torch.testing.assert_close(ours.running_mean, 0.9 * theirs.running_mean + 0.1 * mean)


def test_the_gauge_counts_directions() -> None:
    rng = np.random.default_rng(0)
    base = np.linalg.qr(rng.standard_normal((200, 5)) - 0.0)[0]
    base = np.linalg.qr(base - base.mean(0))[0]
    features = base @ np.linalg.qr(rng.standard_normal((32, 5)))[0].T + 7
    assert gauge(features).rank == pytest.approx(5, rel=1e-3)
    noise = gauge(rng.standard_normal((4000, 16)))
    assert noise.rank == pytest.approx(16, rel=0.01)
    assert noise.spread == pytest.approx(1, rel=0.05)
    assert not noise.collapsed(noise)
    same = np.ones((50, 16)) + 1e-4 * rng.standard_normal((50, 16))
    assert "all images look alike" in gauge(same).collapsed(noise)
    assert not gauge(same).collapsed(gauge(same))
    assert not gauge(same[:4]).collapsed(noise)
    line = np.outer(rng.standard_normal(50), rng.standard_normal(16))
    assert "on one line" in gauge(line).collapsed(noise)


def test_vicreg_is_the_papers_formula() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.standard_normal((7, 4)), rng.standard_normal((7, 4)) * 0.3
    expected = 25 * np.mean((one - two) ** 2)
    for own in (one, two):
        expected += 25 / 2 * np.mean(np.maximum(0, 1 - np.sqrt(own.var(0, ddof=1) + 1e-4)))
        covariance = np.cov(own.T)
        expected += (np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)) / 4
    student = Student(nn.Identity(), nn.Linear(4, 4))
    outputs = [torch.from_numpy(own) for own in (one, two)]
    found = Vicreg(student, 0.0).loss_sum(outputs, outputs, torch.zeros(7))
    assert float(found.detach()) / 7 == pytest.approx(expected, rel=1e-5)
    assert float(off_diagonal(torch.eye(4))) >= 0


def test_dino_pairs_views_centers_and_holds_prototypes_back() -> None:
    torch.manual_seed(0)
    student = Student(nn.Flatten(), nn.Sequential(nn.Linear(12, BOTTLENECK), Prototypes(BOTTLENECK, 6)))
    dino = Dino(student, 0.9, SETTING)
    views = [torch.rand(3, 3, 2, 2) for _ in range(3)]
    outputs = [student([view])[0] for view in views]
    assert dino.average is not None
    taught = [np.asarray(dino.average([view])[0]) for view in views[:2]]

    def softmax(values: Floats, temperature: float) -> Floats:
        shifted = np.exp((values - values.max(1, keepdims=True)) / temperature)
        return shifted / shifted.sum(1, keepdims=True)

    told = [np.log(softmax(own.detach().numpy(), 0.1)) for own in outputs]
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2)]
    expected = np.mean([-(softmax(taught[a], 0.04) * told[b]).sum() for a, b in pairs])
    loss = dino.loss_sum(outputs, views, torch.zeros(3))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    loss.backward()
    dino.hold_back(0)
    assert [name for name, own in student.named_parameters() if own.grad is None] == ["head.1.weight"]
    dino.settle(SETTING, 0, 10)
    np.testing.assert_allclose(dino.state()["center"].numpy(), 0.1 * np.concatenate(taught).mean(0), rtol=1e-4)


class MeanColour(nn.Module):
    """The mean of each channel, as the network is given it."""

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return images_NCHW.mean((2, 3))


def test_the_probe_by_neighbours_is_the_vote_of_the_five_nearest_slides(
    small_store: TileStore, second_store: TileStore
) -> None:
    """Slides are parts of two stores, three classes between them; a patient has two slides."""
    parts = [(store, tiles) for store in (small_store, second_store) for tiles in np.array_split(range(len(store)), 8)]
    labels = (0, 0, 1, 1, 0, 2, 1, 0, 2, 2, 1, 2, 2, 1, 0, 0)
    slides = [
        Slide(f"s{n}", f"p{n - (n == 15)}", labels[n], store.path, tiles) for n, (store, tiles) in enumerate(parts)
    ]
    told, taught = slides[1::2] + slides[14:15], slides[0:14:2]
    px = small_store.tile_px
    spec = replace(SPEC, dim=3, mean=(0.7, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    probe = Probe(tuple(taught), tuple(told), ("a", "b", "c"), px)
    by = OnlineProbe(options(manifest=Path("m"), probe_by="knn"), probe, View(px, (1, 1)), replace(SETTING, spec=spec))

    def vector(slide: Slide) -> Floats:
        assert len(slide.tiles) <= TILES
        pixels = TileStore(slide.store).read_tiles(slide.tiles).astype(np.float64) / 255
        mean_3 = ((pixels.mean((0, 2, 3)) - spec.mean) / spec.std).ravel()
        return np.asarray(mean_3 / np.linalg.norm(mean_3))

    votes: dict[str, list[Floats]] = {}
    for slide in told:
        distances = [float(np.linalg.norm(vector(slide) - vector(own))) for own in taught]
        nearest = [taught[n].label for n in np.argsort(distances)[:5]]
        votes.setdefault(slide.patient_id, []).append(np.bincount(nearest, minlength=3) / 5)
    label_of = {slide.patient_id: slide.label for slide in told}
    expected = []
    for label in sorted(set(label_of.values())):
        of, rest = (
            [np.mean(votes[p], 0)[label] for p in votes if (label_of[p] == label) == own] for own in (True, False)
        )
        expected.append(np.mean([(a > b) + (a == b) / 2 for a in of for b in rest]))
    assert len(expected) == 3
    found = by.measured(MeanColour())["probe_auc"]
    assert found == pytest.approx(np.mean(expected))
    linear = OnlineProbe(options(manifest=Path("m")), probe, View(px, (1, 1)), replace(SETTING, spec=spec))
    assert linear.measured(MeanColour())["probe_auc"] != found
