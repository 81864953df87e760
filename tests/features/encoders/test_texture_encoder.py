"""The handcrafted encoder: what it must not react to, and what it must tell apart."""

import numpy as np
import pytest
import torch

from features.encoders.spec import WeightsChoice
from features.encoders.texture_encoder import TextureEncoder, build
from wsi.errors import RequestError

SIZE_PX = 256
Kind = str


@pytest.fixture(scope="module")
def encoder() -> TextureEncoder:
    return TextureEncoder()


def tile(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    """Return stained ground with the same 100 nuclei, arranged; float32 (3, H, W) in [0, 1]."""
    haematoxylin = 0.1 * rng.random((SIZE_PX, SIZE_PX), np.float32)
    y, x = np.mgrid[-10:11, -10:11]
    nucleus = 1.2 * np.exp(-(((y**2 + x**2) / (2 * 3.5**2)) ** 2))
    for cy, cx in np.rint(_centres(kind, rng)).astype(int):
        haematoxylin[cy - 10 : cy + 11, cx - 10 : cx + 11] += nucleus
    od = rng.uniform(0.8, 1.2) * haematoxylin * np.array([0.65, 0.70, 0.29])[:, None, None]
    od += rng.uniform(0.2, 0.4) * np.array([0.07, 0.99, 0.11])[:, None, None]
    return np.exp(-od).astype(np.float32)


def _centres(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    """Return 100 centres that lie inside the tile and hardly overlap."""
    if kind == "scattered":
        lattice = np.stack(np.meshgrid(np.arange(10), np.arange(10)), 2).reshape(-1, 2)
        return 20 + 24 * lattice + rng.uniform(-8, 8, (100, 2))
    if kind == "islands":
        lattice = np.stack(np.meshgrid(np.arange(5), np.arange(5)), 2).reshape(-1, 2) - 2
        corners = np.array([[64, 64], [64, 192], [192, 64], [192, 192]]) + rng.uniform(-20, 20, (4, 2))
        return np.concatenate([corner + 11 * lattice + rng.normal(0, 1, (25, 2)) for corner in corners])
    angle = rng.uniform(0, np.pi)
    along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
    steps = [(11 * i - 50, 22 * j - 99) for i in range(10) for j in range(10)]
    return np.clip([128 + a * along + b * across + rng.normal(0, 1, 2) for a, b in steps], 12, SIZE_PX - 12)


def batch(kinds: list[Kind], seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([tile(kind, rng) for kind in kinds]))


def test_turned_and_mirrored_tiles_give_nearly_the_same(encoder: TextureEncoder) -> None:
    tiles = batch(["islands", "rows", "scattered"] * 3, seed=1)
    features = encoder.encode(tiles)
    spread = features.std(0) + 1e-3
    for turned in (tiles.rot90(1, (2, 3)), tiles.rot90(2, (2, 3)), tiles.flip(2), tiles.flip(3)):
        distance = ((encoder.encode(turned.contiguous()) - features) / spread).abs()
        assert distance.mean() < 0.02
        assert distance.max() < 1.5


def test_tells_arrangements_of_the_same_nuclei_apart(encoder: TextureEncoder) -> None:
    kinds = ["islands", "rows", "scattered"] * 20
    train, test = (encoder.encode(batch(kinds, seed)) for seed in (2, 3))
    scale = train.std(0) + 1e-4
    labels = np.array([sorted(set(kinds)).index(kind) for kind in kinds])
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels)).double() - 1 / 3
    x, z = (((part - train.mean(0)) / scale).double() for part in (train, test))
    weights = torch.linalg.solve(x.T @ x + 10 * torch.eye(x.shape[1], dtype=torch.float64), x.T @ targets)
    assert ((z @ weights).argmax(1).numpy() == labels).mean() > 0.95


def test_mean_colour_alone_does_not_tell_them_apart() -> None:
    """The control of the test above: its tiles do not differ in colour."""
    kinds = ["islands", "rows"] * 30
    means = batch(kinds, seed=4).mean((1, 2, 3)).numpy()
    islands, rows = means[::2], means[1::2]
    assert abs((islands[:, None] > rows[None]).mean() - 0.5) < 0.2


@pytest.mark.parametrize("size_px", [32, 100, 224, 240, 512])
def test_any_tile_size_and_blank_tiles(encoder: TextureEncoder, size_px: int) -> None:
    for value in (0.0, 1.0):
        features = encoder.encode(torch.full((2, 3, size_px, size_px), value))
        assert features.shape == (2, encoder.spec.dim)
        assert torch.isfinite(features).all()
        assert features.abs().max() < 100


def test_values_suit_float16_and_a_linear_layer(encoder: TextureEncoder) -> None:
    features = encoder.encode(batch(["islands", "rows", "scattered"] * 4, seed=5))
    assert features.abs().max() < 20
    error = (features.half().float() - features).abs().max()
    assert error < 0.01


def test_has_no_weights() -> None:
    with pytest.raises(RequestError, match="has no weights"):
        build("texture", WeightsChoice(random_seed=1))
    with pytest.raises(RequestError, match="no variants"):
        build("texture:big", WeightsChoice())
