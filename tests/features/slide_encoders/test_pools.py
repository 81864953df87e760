"""Pools of a bag's features, compared with numpy over all rows."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from witness import DIM, facts, grid

from features.bags.bag import BagHeader, read_header, write_bag
from features.encoders.spec import WeightsChoice
from features.slide_encoders.pools import POOLS
from features.slide_encoders.registry import build_slide_encoder
from wsi.arrays import Floats
from wsi.errors import RequestError

PLAIN: dict[str, Callable[[Floats], Floats]] = {
    "mean": lambda rows: rows.mean(axis=0),
    "mean-std": lambda rows: np.concatenate([rows.mean(axis=0), rows.std(axis=0)]),
    "max": lambda rows: rows.max(axis=0),
}


def a_bag(folder: Path) -> tuple[BagHeader, np.ndarray]:
    rows = (np.random.default_rng(0).normal(size=(150, DIM)) * 5 + 40).astype(np.float16)
    write_bag(folder / "a_0.h5", [rows], grid(150), facts("a_0"))
    return read_header(folder / "a_0.h5"), rows.astype(np.float64)


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_is_the_plain_computation(name: str, tmp_path: Path) -> None:
    header, rows = a_bag(tmp_path)
    encoder = build_slide_encoder(name, WeightsChoice())
    found = encoder.encode(header)
    assert len(found) == encoder.width(DIM)
    np.testing.assert_allclose(found, PLAIN[name](rows), rtol=1e-12)


def test_a_bag_of_another_tool_is_read_for_it(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    with h5py.File(tmp_path / "clam.h5", "w") as file:
        file["features"], file["coords"] = rows, np.arange(14).reshape(7, 2)
    found = build_slide_encoder("mean", WeightsChoice()).encode(read_header(tmp_path / "clam.h5"))
    np.testing.assert_allclose(found, rows.astype(np.float64).mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("name", ["titan", "prism", "nobody"])
def test_what_cannot_be_had_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(RequestError, match="never run here" if name != "nobody" else "expected one of mean, mean-std"):
        build_slide_encoder(name, WeightsChoice())


def test_a_pool_has_no_weights() -> None:
    with pytest.raises(RequestError, match="mean has no weights"):
        build_slide_encoder("mean", WeightsChoice(random_seed=1))
