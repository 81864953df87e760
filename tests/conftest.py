"""What all tests share: small slides with known content, and stores made from them."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch; for the commands that tests start, too

import pytest
from hypothesis import settings
from making import RGB, SEED, picture, write_deflate, write_pyramid

from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

settings.register_profile("fixed", deadline=None, derandomize=True)
settings.load_profile("fixed")

LONG = (
    "tests/test_kills",
    "tests/mil/slurm/test_on_slurm",
    "tests/mil/pipeline/",
    "tests/wsi/remote/",
    "tests/cli/",
    "tests/test_python_door",
    "tests/mil/training/",
    "tests/mil/targets/",
    "tests/features/",
    "tests/mil/data/",
)
"""Files that take longest: they go out first, so that no core works alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first, others in their order."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


REAL_SLIDES = Path(__file__).resolve().parents[2] / "shared" / "slides"


@pytest.fixture(scope="session")
def real_slides() -> Path:
    """Give the folder of real slides, or skip where it is not there."""
    if not REAL_SLIDES.is_dir():
        pytest.skip("the folder of real slides is not there")
    return REAL_SLIDES


@pytest.fixture(scope="session")
def slide_pixels() -> RGB:
    """The pixels of `deflate_slide`."""
    return picture()


@pytest.fixture(scope="session")
def deflate_slide(tmp_path_factory: pytest.TempPathFactory, slide_pixels: RGB) -> Path:
    """A STRIP AI-like slide, ``049194_0.tif``."""
    return write_deflate(tmp_path_factory.mktemp("deflate") / "049194_0.tif", slide_pixels)


@pytest.fixture(scope="session")
def pyramid_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG pyramid of 0.25 um/px, ``008e5c_0.tif``."""
    return write_pyramid(tmp_path_factory.mktemp("pyramid") / "008e5c_0.tif", picture(2100, 1700, SEED + 1), 0.25)


@pytest.fixture(scope="session")
def tiled() -> Callable[..., TileStore]:
    """Give a function that tiles one slide with one worker and opens the store."""

    def run(slide: Path, out: Path, **options: object) -> TileStore:
        settings = {"assume_mpp": 0.5, "workers": 0} | options
        summary = tile(TileOptions(slides=(slide,), out=out, **settings))  # type: ignore[arg-type]
        assert summary.exit_code == 0, summary.outcomes
        return TileStore(out / f"{summary.outcomes[0].item_id}.zarr")

    return run


@pytest.fixture(scope="session")
def small_store(
    tmp_path_factory: pytest.TempPathFactory, deflate_slide: Path, tiled: Callable[..., TileStore]
) -> TileStore:
    """The store of `deflate_slide`: 256-px tiles at 0.5 um/px."""
    return tiled(deflate_slide, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def second_store(
    tmp_path_factory: pytest.TempPathFactory, pyramid_slide: Path, tiled: Callable[..., TileStore]
) -> TileStore:
    """The store of `pyramid_slide`: averaged 2 x 2 to 0.5 um/px."""
    return tiled(pyramid_slide, tmp_path_factory.mktemp("store2"))
