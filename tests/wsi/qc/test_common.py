"""What most slides are warned of is told once, and what is odd comes first, on a page that people can read."""

from dataclasses import replace
from pathlib import Path

import pytest
from browsing import Visits

from wsi.qc.common import common_warnings, own_warnings, rare_warnings
from wsi.qc.rows import COLUMNS, SlideRow
from wsi.qc.sheet import oddest_first, page, read_row
from wsi.store.tile_store import TileStore

SAME = "TIFF resolution says 1000 um/px: a placeholder"


@pytest.fixture(scope="module")
def rows(small_store: TileStore) -> list[SlideRow]:
    """Twelve slides: all but two have one warning, eight a border of their own size, one a fold."""
    plain = replace(read_row(small_store), warnings=())
    warnings = [[SAME] * (i not in (2, 7)) + [f"a border of {i}.5 % was left out"] * (i < 8) for i in range(12)]
    warnings[9].append("folds on 2 % of the tissue")
    return [replace(plain, image_id=f"s{i}", warnings=tuple(own)) for i, own in enumerate(warnings)]


def test_a_warning_of_most_slides_is_told_once_with_those_that_lack_it(rows: list[SlideRow]) -> None:
    same, border = common_warnings(rows)
    assert (same.text, same.same, same.count, same.others) == (SAME, True, 10, ("s2", "s7"))
    assert (border.same, border.count) == (False, 8)
    assert border.text.startswith("a border of \N{HORIZONTAL ELLIPSIS} % was left out")
    assert own_warnings(rows[0], [same, border]) == ["a border of 0.5 % was left out"]
    assert own_warnings(rows[9], [same, border]) == ["folds on 2 % of the tissue"]
    assert [row.image_id for row in rows if rare_warnings(row, [same, border])] == ["s9"]


def test_few_slides_have_nothing_in_common(rows: list[SlideRow]) -> None:
    assert common_warnings(rows[3:6]) == []
    assert own_warnings(rows[0], []) == list(rows[0].warnings)
    assert common_warnings([]) == []


def test_a_rare_warning_comes_before_the_common_ones(rows: list[SlideRow]) -> None:
    assert oddest_first(rows)[0].image_id == "s9"


def test_the_page_tells_it_once_and_is_searched_and_printed(
    rows: list[SlideRow], visit: Visits, tmp_path: Path
) -> None:
    odd = replace(rows[4], odd=("tint",))
    text = page(oddest_first([*rows[:4], odd, *rows[5:]]), COLUMNS, [("broken", "no zarr.json")])
    assert text.count(SAME) == 1
    assert "10 of 12 slides" in text
    (tmp_path / "qc.html").write_text(text)
    for width in (1400, 390):
        window = visit(width).open((tmp_path / "qc.html").as_uri())
        assert window.page.evaluate("document.documentElement.scrollWidth") <= width
        assert window.barriers() == []
    every = "[...document.querySelectorAll('#slides tbody tr')].filter((row) => !row.hidden)"
    shown = f"{every}.map((row) => row.cells[1].dataset.value)"
    assert window.page.evaluate(shown)[:2] == ["s4", "s9"]
    window.page.select_option("[data-row=odd]", "warned")
    assert window.page.evaluate(shown) == ["s9"]
    window.page.select_option("[data-row=odd]", "fine")
    assert len(window.page.evaluate(shown)) == 10
    window.page.emulate_media(media="print")
    window.page.set_viewport_size({"width": 1032, "height": 700})  # A4 landscape less its margins
    assert window.page.evaluate("document.documentElement.scrollWidth") <= 1032
    cut = "((box) => box.scrollWidth > box.clientWidth)(document.querySelector('.scroll'))"
    assert not window.page.evaluate(cut)
