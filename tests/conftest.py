"""What all tests share: small slides with known content, and stores made from them."""

import hashlib
import os
from collections.abc import Callable, Iterator
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


SHARED: dict[Path, dict[str, str]] = {}
"""What was made once for all tests of a process, by folder, as `shared` found it."""


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    files = sorted(own for own in folder.rglob("*") if own.is_file())
    return {own.relative_to(folder).as_posix(): hashlib.md5(own.read_bytes()).hexdigest() for own in files}


@pytest.fixture(scope="session")
def shared() -> Callable[[Path], None]:
    """Give a function that names a folder which tests share: a file of tests that changes it fails."""
    return lambda folder: SHARED.update({folder: contents(folder)})


@pytest.fixture(scope="module", autouse=True)
def shared_folders_stay() -> Iterator[None]:
    """Fail the file of tests that changed what others share: which others come after it differs by machine."""
    yield
    found = {folder: contents(folder) for folder in SHARED}
    changed = {folder: sorted(dict(now.items() ^ SHARED[folder].items())) for folder, now in found.items()}
    SHARED.update(found)
    assert not any(changed.values()), {folder: files for folder, files in changed.items() if files}


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
    tmp_path_factory: pytest.TempPathFactory,
    deflate_slide: Path,
    tiled: Callable[..., TileStore],
    shared: Callable[[Path], None],
) -> TileStore:
    """The store of `deflate_slide`: 256-px tiles at 0.5 um/px."""
    store = tiled(deflate_slide, tmp_path_factory.mktemp("store"))
    shared(Path(store.path))
    return store


@pytest.fixture(scope="session")
def second_store(
    tmp_path_factory: pytest.TempPathFactory,
    pyramid_slide: Path,
    tiled: Callable[..., TileStore],
    shared: Callable[[Path], None],
) -> TileStore:
    """The store of `pyramid_slide`: averaged 2 x 2 to 0.5 um/px."""
    store = tiled(pyramid_slide, tmp_path_factory.mktemp("store2"))
    shared(Path(store.path))
    return store
