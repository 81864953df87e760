"""The page in a real browser, opened from a folder as a double click does."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pytest
from browsing import Visit, axe_findings
from making import RGB
from making_page import BACKGROUND, TILE
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Locator

Open = Callable[..., Visit]
Page = tuple[Path, dict[str, RGB]]
FIRST, SECOND = "a0_10", "b1_9"


def address(page: Page, image_id: str, hash_: str = "") -> str:
    return (page[0] / "slides" / image_id / "index.html").as_uri() + hash_


def shown(visit: Visit) -> RGB:
    """What the viewer alone shows."""
    picture = visit.page.locator(".viewer").first.screenshot()
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def field(visit: Visit, name: str) -> "Locator":
    """The control behind a label."""
    return visit.page.locator(f"label.field:has(> span:text-is('{name}'))").locator("select, input")


def has(seen: RGB, colour: tuple[int, ...]) -> bool:
    return bool((seen == colour).all(axis=2).any())


def look(visit: Visit, hash_: str) -> Visit:
    """Go to another view of the page that is open."""
    visit.page.evaluate("(hash) => { document.body.classList.remove('still'); location.hash = hash; }", hash_)
    return visit.settled()


def told(visit: Visit) -> dict[str, str]:
    """The address behind ``#``."""
    return dict(own.split("=") for own in visit.page.url.split("#")[1].split("&"))


def test_at_full_resolution_a_place_shows_the_slides_pixels(small_page: Page, visit: Open) -> None:
    """1:1, heat map off: the middle of the viewer against the source, within JPEG's loss; nothing but files is read."""
    window = visit(height=901).open(address(small_page, FIRST, "#at=700,600,1&heat=off&outline=0")).settled()
    seen = shown(window).astype(int)
    pixels = small_page[1][FIRST].astype(int)
    middle_y, middle_x = seen.shape[0] // 2, seen.shape[1] // 2
    own = seen[middle_y - 200 : middle_y + 200, middle_x - 200 : middle_x + 200]
    y, x = 600 - 200, 700 - 200
    wanted = pixels[y : y + 400, x : x + 400]
    assert np.abs(own - wanted).mean() < 4
    assert np.abs(own - pixels[y : y + 400, x + 1 : x + 401]).mean() > 8, "a px further must be worse"
    assert {own.split(":")[0] for own in window.requests} <= {"file", "data"}


def test_absent_tiles_have_the_slides_background_at_every_zoom(small_page: Page, visit: Open) -> None:
    """Coarse tiles are white where the finest level has no tile; neither that nor a hole may show as white squares."""
    window = visit(width=1000, height=700).open(address(small_page, FIRST)).settled()
    for scale in (0.2, 0.5, 1):
        seen = shown(look(window, f"#at=950,750,{scale}&heat=off&outline=0"))[60:-60, 60:-200]
        assert not (seen == 255).all(axis=2).any()
        assert (np.abs(seen.astype(int) - BACKGROUND).max(axis=2) <= 2).mean() > 0.2


def test_the_heat_map_has_matplotlibs_colours_and_goes_off(small_page: Page, visit: Open) -> None:
    """Opaque, by rank: the highest tile has the map's last colour, the lowest its first; off, the slide shows."""
    window = (
        visit(width=1000, height=700)
        .open(address(small_page, FIRST, "#heat=rank&scale=rank&colours=magma&opacity=1"))
        .settled()
    )
    seen = shown(window)
    for place in (0.0, 1.0):
        wanted = tuple(round(own * 255) for own in matplotlib.colormaps["magma"](place)[:3])
        assert has(seen, wanted)
    bar = "() => [...document.querySelector('.bar').getContext('2d').getImageData(0, 0, 256, 1).data]"
    for name in ("viridis", "magma", "cividis"):
        field(window, "Colours").select_option(name)
        own = np.array(window.page.evaluate(bar)).reshape(256, 4)[:, :3]
        assert np.abs(own - matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]).mean() < 1.5
    window.page.keyboard.press("Escape")
    window.page.locator(".viewer").first.click(position={"x": 500, "y": 600})
    window.page.keyboard.press("h")
    window.settled()
    assert told(window)["heat"] == "off"
    assert not has(shown(window), wanted)


def test_the_threshold_hides_what_it_says_and_a_direction_goes_both_ways(small_page: Page, visit: Open) -> None:
    window = visit(width=1000, height=700).open(address(small_page, FIRST)).settled()
    look(window, "#heat=factor&scale=rank&below=0.75&opacity=1&outline=0")
    assert "5 of 20 tiles shown" in window.page.locator("output").first.inner_text()
    few = (np.ptp(shown(window).astype(int), axis=2) > 20).mean()
    field(window, "Hide below").fill("0")
    window.settled()
    assert (np.ptp(shown(window).astype(int), axis=2) > 20).mean() > few
    # least and most of a direction are the ends of blue and orange, and the reader's own map is not offered
    look(window, "#heat=push-LAA&opacity=1&outline=0")
    seen = shown(window)
    assert has(seen, (0x08, 0x30, 0x6B))
    assert has(seen, (0x7F, 0x3B, 0x08))
    assert not field(window, "Colours").is_visible()


def test_an_address_opens_the_same_view_again(small_page: Page, visit: Open) -> None:
    window = visit(width=1000, height=700).open(address(small_page, FIRST)).settled()
    page = window.page
    field(window, "Layer").select_option("push-LAA")
    field(window, "Hide below").fill("0.3")
    page.get_by_role("button", name="Go to tile 2", exact=False).first.click()
    page.get_by_role("button", name="Tissue outline", exact=False).click()
    link, seen = window.settled().page.url, shown(window)
    again = visit(width=1000, height=700).open(link).settled()
    assert told(again) == told(window)
    assert told(again)["outline"] == "0"
    # the gallery's frame around the tile that was pressed is no part of the view
    assert (np.abs(shown(again).astype(int) - seen).max(axis=2) > 8).mean() < 0.02


def test_only_tiles_that_are_there_are_read_and_the_gallery_goes_to_one(small_page: Page, visit: Open) -> None:
    window = visit(width=1000, height=700).open(address(small_page, FIRST)).settled()
    tiles = [own for own in window.requests if "/tiles/" in own]
    assert tiles
    assert all((small_page[0] / "slides" / FIRST / own.split(f"{FIRST}/")[1]).is_file() for own in tiles)
    doc = slide_doc(small_page, FIRST)
    window.page.get_by_role("button", name="Go to tile 1", exact=False).first.click()
    row, column = np.frombuffer(base64.b64decode(doc["places"]), "<i4").reshape(-1, 2)[doc["top"][0]]
    x, y, scale = map(float, told(window.settled())["at"].split(","))
    assert (x, y) == pytest.approx(((column + 0.5) * TILE, (row + 0.5) * TILE), abs=1)
    assert scale == 1


def slide_doc(page: Page, image_id: str) -> dict[str, Any]:
    text = (page[0] / "slides" / image_id / "slide.js").read_text()
    return json.loads(text.removeprefix("gigamil.slide(").removesuffix(");\n"))


def test_scale_bar_and_distances_are_in_um(small_page: Page, visit: Open) -> None:
    """Of a slide of 1 um/px: the bar's css px are its um times the scale; a distance on the screen is by it, too."""
    window = visit(width=1000, height=700).open(address(small_page, SECOND)).settled()
    for scale in (0.37, 1, 3):
        look(window, f"#at=900,700,{scale}")
        bar = window.page.locator(".scale-bar")
        text = bar.inner_text().split()
        um = float(text[0]) * {"µm": 1, "mm": 1000}[text[1]]
        assert bar.bounding_box()["width"] == pytest.approx(um * scale, abs=1)  # type: ignore[index]
        assert 40 < um * scale <= 161
    look(window, "#at=900,700,2")
    window.page.keyboard.press("m")
    for x, y in ((300, 300), (420, 460)):
        window.page.locator(".viewer").first.click(position={"x": x, "y": y}, delay=20)
        window.page.wait_for_timeout(400)  # two presses close together would be a double click
    assert window.page.locator(".measure-texts text").inner_html() == "100 µm"  # hypot(120, 160) css px at 2 a um


def test_a_second_slide_follows_in_um(small_page: Page, visit: Open) -> None:
    """One of 0.5 um/px beside one of 1 um/px: the second's scale is twice the first's, and both move together."""
    window = visit(width=1000, height=700).open(address(small_page, FIRST, "#at=900,700,1&heat=off")).settled()
    window.page.get_by_label("Slide beside").select_option(SECOND)
    window.page.wait_for_selector(".pane:nth-child(2) .scale-bar")
    window.settled()
    bars = window.page.locator(".scale-bar")
    assert bars.nth(0).inner_text() == bars.nth(1).inner_text()
    before = shown_second(window)
    window.page.keyboard.press("ArrowRight")
    window.settled()
    assert (np.abs(shown_second(window).astype(int) - before).max(axis=2) > 20).mean() > 0.01
    assert told(window)["beside"] == SECOND


def shown_second(visit: Visit) -> RGB:
    picture = visit.page.locator(".viewer").nth(1).screenshot()
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def test_the_keys_are_told_and_do_what_is_told(small_page: Page, visit: Open) -> None:
    window = visit(width=1000, height=700).open(address(small_page, FIRST, "#at=900,700,1")).settled()
    window.page.keyboard.press("?")
    assert "Tissue outline" in window.page.locator("dialog").inner_text()
    window.page.keyboard.press("Escape")
    window.page.keyboard.press("5")
    assert told(window.settled())["at"].split(",")[2] == "1"  # 20x of 0.5 um/px
    window.page.keyboard.press("4")
    assert told(window.settled())["at"].split(",")[2] == "0.5"
    window.page.keyboard.press("l")
    assert told(window.settled())["heat"] == "push-LAA"
    window.page.keyboard.press("PageDown")
    window.page.wait_for_url("**/b1_9/**")


def test_the_list_is_searched_filtered_and_sorted(small_page: Page, visit: Open) -> None:
    window = visit(width=1000, height=700).open((small_page[0] / "index.html").as_uri())
    page = window.page

    def ids() -> list[str]:
        return page.locator("tbody th").all_inner_texts()

    assert ids() == ["a0_10", "b1_9", "c2_8"]
    page.get_by_role("button", name="Center").press("Enter")
    assert ids() == ["c2_8", "b1_9", "a0_10"], "9 before 10 before 11"
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Center")
    page.get_by_role("button", name="Sometimes missing").click()
    page.get_by_role("button", name="Sometimes missing").click()
    assert ids()[0] == "a0_10", "what is missing comes last, whichever way"
    field(window, "Wrong").select_option("yes")
    assert ids() == ["b1_9"]
    field(window, "Wrong").select_option("")
    field(window, "Search").fill("center c2")
    assert ids() == ["c2_8"]
    assert page.locator(".count").inner_text() == "1 of 3 slides"
    again = visit(width=1000, height=700).open(page.url)
    assert again.page.locator("tbody th").all_inner_texts() == ["c2_8"]
    page.locator("tbody a").click()
    page.wait_for_selector(".viewer")


def test_axe_finds_nothing_and_nothing_is_cut_off(small_page: Page, visit: Open, axe: str) -> None:
    """At three widths, in light and in dark."""
    window = visit()
    for own, ready in ((address(small_page, FIRST), ".still"), ((small_page[0] / "index.html").as_uri(), "tbody")):
        window.open(own, ready)
        for width, scheme in ((1400, "light"), (800, None), (390, "dark")):
            window.page.set_viewport_size({"width": width, "height": 800})
            assert window.page.evaluate("() => document.documentElement.scrollWidth") <= width
            if scheme:
                window.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
                assert axe_findings(window.page, axe) == []


def test_the_small_picture_of_the_whole_slide_stays(small_page: Page, visit: Open) -> None:
    """OpenSeadragon's own fades away: looked at for a while, tissue still stands in the upper right corner."""
    window = visit(width=1000, height=700).open(address(small_page, FIRST, "#at=1200,200,1&heat=off")).settled()
    window.page.wait_for_timeout(2600)
    corner = shown(window)[:90, -100:].astype(int)
    assert (np.ptp(corner, axis=2) > 40).mean() > 0.05
