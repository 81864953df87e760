"""Pages as `gigamil page` writes them, opened by file:// in a real browser: the slide's own pixels at their place."""

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from browsing import Visits
from making import RGB, picture, write_own_levels
from PIL import Image

from wsi.errors import RequestError
from wsi.progress.outcome import Silent, Status
from wsi.store.tile_store import TileStore
from wsi.units import YX
from wsi.viewing.frontend import openseadragon
from wsi.viewing.pages.folder import Wanted, write_pages
from wsi.viewing.pages.stores_alone import StoresAlone


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, small_store: TileStore) -> Path:
    try:
        openseadragon()
    except RequestError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("pages") / "out"
    (outcome,) = write_pages(Wanted(out, [small_store], False, 1, 1), StoresAlone([small_store]), Silent())
    assert outcome.status is Status.DONE
    return out


def test_from_the_list_to_the_slides_pixels_and_to_a_tile(
    written: Path, small_store: TileStore, slide_pixels: RGB, visit: Visits
) -> None:
    window = visit(height=901).open((written / "index.html").as_uri(), "tbody tr")
    window.page.get_by_role("link", name=small_store.image_id, exact=True).first.click()
    window.settled()
    y, x = 520, 560  # in the larger piece of tissue
    window.page.evaluate(f"document.body.classList.remove('still'); location.hash = '#at={x},{y},1&heat=off&outline=0'")
    window.settled()
    shown = np.asarray(Image.open(io.BytesIO(window.page.locator(".viewer").first.screenshot())).convert("RGB"))
    middle_y, middle_x = shown.shape[0] // 2, shown.shape[1] // 2
    seen = shown[middle_y - 100 : middle_y + 100, middle_x - 100 : middle_x + 100].astype(int)
    wanted = slide_pixels[y - 100 : y + 100, x - 99 : x + 101].astype(int)
    assert np.abs(seen - slide_pixels[y - 100 : y + 100, x - 100 : x + 100]).mean() < 5
    assert np.abs(seen - wanted).mean() > 8, "a px further must be worse"
    window.page.get_by_role("button", name="Go to tile 1", exact=False).first.click()
    at = dict(own.split("=") for own in window.settled().page.url.split("#")[1].split("&"))["at"]
    row, column = small_store.tiles_yx[small_store.scores["focus"].argmax()].tolist()
    assert list(map(float, at.split(",")))[:2] == pytest.approx([(column + 0.5) * 256, (row + 0.5) * 256], abs=1)
    assert {own.split(":")[0] for own in window.requests} <= {"file", "data", "blob"}


@pytest.mark.slow
def test_levels_in_steps_of_four_are_shown_where_halves_are(
    tmp_path: Path, tiled: Callable[..., TileStore], visit: Visits
) -> None:
    """At 1:4 a slide's own second level is shown, a quarter of its size: a pixel further it fits worse."""
    sizes = [YX(2048, 2304), YX(512, 576), YX(128, 144)]
    path = write_own_levels(tmp_path / "own.svs", picture(2048, 2304), sizes, 256)
    seen = {}
    for pyramid in ("halves", "source"):
        store = tiled(path, tmp_path / pyramid, pyramid=pyramid, assume_mpp=None)
        out = tmp_path / f"{pyramid}-page"
        write_pages(Wanted(out, [store], False, 1, 1), StoresAlone([store]), Silent())
        page = (out / "slides" / "own" / "index.html").as_uri()
        window = visit(height=901).open(f"{page}#at=700,720,0.25&heat=off&outline=0").settled()
        assert any("/tiles/1/" in own for own in window.requests)
        view = window.page.locator(".viewer").first.screenshot()
        grey = np.asarray(Image.open(io.BytesIO(view)).convert("L"))[300:550, 400:650]
        seen[pyramid] = cv2.GaussianBlur(grey, (0, 0), 2).astype(int)
    middle = seen["halves"][9:-9, 9:-9]
    height, width = middle.shape
    off = {
        (dy, dx): float(np.abs(seen["source"][9 + dy : 9 + dy + height, 9 + dx : 9 + dx + width] - middle).mean())
        for dy in (-2, 0, 2)
        for dx in (-2, 0, 2)
    }
    assert min(off, key=lambda shift: off[shift]) == (0, 0), off
