"""What the browser tests of this room share: a page written by hand, and a server of this machine that shows it."""

from pathlib import Path

import pytest
from browsing import axe, browser, visit
from making import RGB
from making_page import write_page

from wsi.viewing.frontend import openseadragon

__all__ = ["axe", "browser", "visit"]


@pytest.fixture(scope="session")
def small_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, RGB]]:
    """A static page of three slides, and their pixels by id; skips where OpenSeadragon could not be fetched."""
    try:
        openseadragon()
    except ValueError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("page with a space")
    return folder, write_page(folder)
