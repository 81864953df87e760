"""What the feature tests share: a folder of stores, and facts of a bag."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from features.bags.bag import BagFacts
from wsi.store.tile_store import TileStore

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def stores(
    tmp_path_factory: pytest.TempPathFactory,
    small_store: TileStore,
    second_store: TileStore,
    shared: Callable[[Path], None],
) -> Path:
    """A folder of three stores of different sizes: 008e5c_0, 049194_0 and, pixels as the last, 049194_1."""
    folder = tmp_path_factory.mktemp("stores")
    for source, name in ((second_store, "008e5c_0"), (small_store, "049194_0"), (small_store, "049194_1")):
        shutil.copytree(source.path, folder / f"{name}.zarr")
    shared(folder)
    return folder


@pytest.fixture
def facts() -> BagFacts:
    """Facts of a bag at 0.5 um/px from a slide of 0.25."""
    return BagFacts(
        image_id="049194_0",
        encoder="texture",
        recipe={"stage": "extract", "precision": "fp32"},
        provenance={"store_recipe_hash": "abc"},
        tile_px=256,
        l0_px_per_px=2.0,
        level0_shape_yx=(3000, 4000),
        mpp=0.5,
    )
