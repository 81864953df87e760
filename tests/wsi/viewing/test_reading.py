"""Drawing and judging in a real browser, on the real server, and what then lies on the disk."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any, ClassVar

import pytest
from asking import Server, served_of, serving
from browsing import Visit, axe_findings
from shapely.geometry import LineString, shape

from wsi.cohort.manifest import ManifestRow
from wsi.store.tile_store import TileStore
from wsi.viewing.frontend import openseadragon

Open = Callable[..., Visit]
FIRST, SECOND = "008e5c_0", "049194_0"


class Said:
    """A run that says CE of every slide."""

    classes = ("CE", "LAA")
    rows: ClassVar = {name: ManifestRow(name, name[:6], label="LAA", center_id="3") for name in (FIRST, SECOND)}
    orders: ClassVar = {"uncertainty": {FIRST: 0.2, SECOND: 0.9}}

    def predicted(self, image_id: str) -> str | None:
        return "CE"

    def of_slide(self, image_id: str, document: dict[str, Any]) -> dict[str, Any]:
        facts = {"label": "LAA", "right": False, "uncertainty": None, "out_of_fold": True, "cohort": [], "said": "CE!"}
        values = {"classes": ["CE", "LAA"], "values": [0.9, 0.1], "kind": "probabilities", "cohort_class": "CE"}
        return document | {"prediction": facts | values}

    def of_cohort(self, document: dict[str, Any]) -> dict[str, Any]:
        return document


@pytest.fixture
def stores(tmp_path: Path, small_store: TileStore, second_store: TileStore) -> Path:
    try:
        openseadragon()
    except ValueError as error:
        pytest.skip(str(error))
    for store in (small_store, second_store):
        copytree(store.path, tmp_path / "stores" / Path(str(store.path)).name)
    return tmp_path / "stores"


@pytest.fixture
def server(stores: Path) -> Iterator[Server]:
    with serving(served_of((stores,), opinions=Said(), judgements=stores.parent / "judgements.jsonl")) as server:
        yield server


def open_slide(visit: Visit, server: Server, image_id: str = SECOND, hash_: str = "#at=800,600,1") -> Visit:
    return visit.open(f"http://127.0.0.1:{server.port}/slides/{image_id}/index.html{hash_}").settled()


def features(stores: Path, image_id: str = SECOND) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads((stores / f"{image_id}.geojson").read_text())["features"]
    return told


def use(visit: Visit, tool: str) -> None:
    visit.page.get_by_role("group", name="Tools").get_by_role("button", name=tool).click()


def click(visit: Visit, *places: tuple[int, int]) -> None:
    for x, y in places:
        visit.page.locator(".viewer").first.click(position={"x": x, "y": y})
        visit.page.wait_for_timeout(350)  # or two would be a double click


def drag(visit: Visit, *places: tuple[int, int]) -> None:
    box = visit.page.locator(".viewer").first.bounding_box()
    assert box
    for index, (x, y) in enumerate(places):
        visit.page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
        if index == 0:
            visit.page.mouse.down()
    visit.page.mouse.up()


def wait_saved(visit: Visit) -> None:
    visit.page.wait_for_timeout(50)
    visit.page.wait_for_selector(".save-state:text-is('Saved')")


def on_slide(visit: Visit, x: float, y: float) -> tuple[float, float]:
    """Level-0 px of a place in the viewer: at scale 1, and a store px is a slide px."""
    box = visit.page.locator(".viewer").first.bounding_box()
    assert box
    return 800 + x - box["width"] / 2, 600 + y - box["height"] / 2


def test_a_polygon_is_drawn_and_found_on_the_disk(server: Server, stores: Path, visit: Open) -> None:
    """Its corners are where they were pressed; its class and name stay; undo, redo and a reload agree with the disk."""
    window = open_slide(visit(width=1000, height=760), server)
    page = window.page
    page.locator("label.field:has(> span:text-is('Class')) select").select_option("Tumor")
    use(window, "Polygon")
    corners = [(300, 300), (500, 310), (480, 520), (310, 500)]
    click(window, *corners)
    page.keyboard.press("Enter")
    wait_saved(window)
    (feature,) = features(stores)
    (ring,) = feature["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    for corner, place in zip(ring, corners, strict=False):
        assert corner == pytest.approx(on_slide(window, *place), abs=1)
    assert feature["properties"]["classification"] == {"name": "Tumor", "color": [200, 0, 0]}
    area = shape(feature["geometry"]).area * 0.5**2  # um per px
    assert page.locator(".annotations li").inner_text() == f"Tumor {area:.0f} µm²"
    page.locator(".chosen input").fill("the edge")
    page.locator(".chosen input").press("Tab")
    wait_saved(window)
    assert features(stores)[0]["properties"]["name"] == "the edge"
    for _ in range(2):
        page.keyboard.press("Control+z")
        wait_saved(window)
    assert features(stores) == []
    page.keyboard.press("Control+y")
    wait_saved(window)
    page.reload()
    page.wait_for_selector(".annotations li")
    assert features(stores) == [feature]


def test_every_tool_makes_its_shape(server: Server, stores: Path, visit: Open) -> None:
    window = open_slide(visit(width=1000, height=760), server)
    use(window, "Rectangle")
    drag(window, (100, 200), (260, 330))
    use(window, "Line")
    drag(window, (400, 200), (500, 260))
    use(window, "Point")
    click(window, (600, 300))
    use(window, "Brush")
    drag(window, (300, 500), (420, 560), (560, 500))
    wait_saved(window)
    rectangle, line, point, brush = (shape(own["geometry"]) for own in features(stores))
    assert rectangle.bounds == pytest.approx((*on_slide(window, 100, 200), *on_slide(window, 260, 330)), abs=1)
    assert list(line.coords[0]) + list(line.coords[-1]) == pytest.approx(
        [*on_slide(window, 400, 200), *on_slide(window, 500, 260)], abs=1
    )
    assert (point.x, point.y) == pytest.approx(on_slide(window, 600, 300), abs=1)
    wanted = LineString([on_slide(window, *own) for own in ((300, 500), (420, 560), (560, 500))]).buffer(24)
    assert brush.is_valid
    assert brush.intersection(wanted).area / brush.union(wanted).area > 0.95
    # Alt takes away: a stroke across the middle leaves two pieces, one object
    window.page.keyboard.down("Alt")
    drag(window, (420, 470), (420, 640))
    window.page.keyboard.up("Alt")
    wait_saved(window)
    cut = shape(features(stores)[3]["geometry"])
    assert cut.geom_type == "MultiPolygon"
    stroke = LineString([on_slide(window, 420, 470), on_slide(window, 420, 640)]).buffer(24)
    left = wanted.difference(stroke)
    assert cut.intersection(left).area / cut.union(left).area > 0.93


def test_what_another_tab_saved_is_not_overwritten(server: Server, stores: Path, visit: Open) -> None:
    first, second = open_slide(visit(width=1000, height=760), server), open_slide(visit(width=1000, height=760), server)
    use(first, "Point")
    click(first, (300, 300))
    wait_saved(first)
    use(second, "Point")
    click(second, (500, 500))
    second.page.wait_for_selector("text=changed elsewhere (another tab")
    second.faults = [own for own in second.faults if "412" not in own]  # the browser's own line on the refusal
    assert len(features(stores)) == 1
    second.page.get_by_role("button", name="Keep both").click()
    wait_saved(second)
    places = sorted(tuple(own["geometry"]["coordinates"]) for own in features(stores))
    wanted = [on_slide(first, 300, 300), on_slide(first, 500, 500)]
    assert [own == pytest.approx(by, abs=1) for own, by in zip(places, wanted, strict=True)] == [True, True]


def test_what_could_not_be_saved_comes_back(server: Server, stores: Path, visit: Open) -> None:
    """The server goes away while one draws, and the window is closed: the next visit offers what was drawn."""
    window = open_slide(visit(width=1000, height=760), server)
    window.page.context.set_offline(True)
    use(window, "Point")
    click(window, (300, 300))
    window.page.wait_for_selector("text=Not saved yet")
    assert not (stores / f"{SECOND}.geojson").exists()
    again = window.page.context.new_page()
    window.page.close()
    again.context.set_offline(False)
    window.faults = [own for own in window.faults if "ERR_INTERNET_DISCONNECTED" not in own]
    again.goto(f"http://127.0.0.1:{server.port}/slides/{SECOND}/index.html")
    again.get_by_role("button", name="Bring it back").click()
    again.wait_for_selector(".annotations li")
    again.wait_for_selector(".save-state:text-is('Saved')")
    assert len(features(stores)) == 1


def test_a_judgement_is_kept_and_the_next_slide_opened(server: Server, stores: Path, visit: Open) -> None:
    window = open_slide(visit(width=1000, height=760), server)
    page = window.page
    page.get_by_role("textbox", name="Your name").fill("Dr. A")
    page.get_by_role("button", name="Start").click()
    page.wait_for_selector("text=0 of 2 judged")
    page.keyboard.press("x")
    page.locator("label.field:has(> span:text-is('Corrected label')) select").select_option("LAA")
    page.locator("textarea").fill("no clot of that kind")
    page.get_by_role("button", name="Save and next").click()
    page.wait_for_url(f"**/{FIRST}/**")
    page.wait_for_selector("text=1 of 2 judged")
    (line,) = (stores.parent / "judgements.jsonl").read_text().splitlines()
    told = json.loads(line)
    wanted = {"slide": SECOND, "reader": "Dr. A", "verdict": "disagree", "label": "LAA", "note": "no clot of that kind"}
    assert {name: told[name] for name in wanted} == wanted
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.wait_for_selector("text=Dr. A: 1 of 2 judged")
    assert page.locator("tbody tr:has-text('judged') th a").inner_text() == SECOND


def test_blind_the_prediction_comes_after_the_judgement(stores: Path, visit: Open) -> None:
    served = served_of((stores,), opinions=Said(), blind=True, judgements=stores.parent / "judgements.jsonl")
    with serving(served) as server:
        window = open_slide(visit(width=1000, height=760), server)
        page = window.page
        assert page.locator("text=CE!").count() == 0
        page.get_by_role("textbox", name="Your name").fill("Dr. B")
        page.get_by_role("button", name="Start").click()
        page.get_by_label("It is:").check()
        page.locator("label.field:has(> span:text-is('What it is, in your opinion')) select").select_option("CE")
        page.get_by_role("button", name="Save", exact=True).click()
        page.wait_for_selector("text=CE!")
        window.page.close()
    (line,) = (stores.parent / "judgements.jsonl").read_text().splitlines()
    assert {name: json.loads(line)[name] for name in ("verdict", "label", "blind")} == {
        "verdict": "agree",
        "label": "CE",
        "blind": True,
    }


def test_axe_finds_nothing_where_one_draws_and_judges(server: Server, visit: Open, axe: str) -> None:
    window = open_slide(visit(width=390, height=800), server)
    window.page.get_by_role("textbox", name="Your name").fill("Dr. A")
    window.page.get_by_role("button", name="Start").click()
    window.page.wait_for_selector("text=0 of 2 judged")
    use(window, "Rectangle")
    drag(window, (100, 200), (200, 300))
    wait_saved(window)
    assert axe_findings(window.page, axe) == []
    assert window.page.evaluate("() => document.documentElement.scrollWidth") <= 390
    window.open(f"http://127.0.0.1:{server.port}/", "text=Read next")
    assert axe_findings(window.page, axe) == []
