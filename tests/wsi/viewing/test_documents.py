"""What a page says of a slide, read back: it is what the store holds."""

import base64
import json
import re

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsi.store.tile_store import TileStore
from wsi.viewing.documents import (
    cohort_document,
    cohort_row,
    column,
    gallery,
    layer,
    script,
    slide_document,
    tissue_outline,
)
from wsi.viewing.picture import StorePicture


def _array(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_a_document_holds_the_stores_arrays(small_store: TileStore) -> None:
    picture = StorePicture(small_store)
    script_text = script("slide", slide_document(picture, small_store)).decode("ascii")
    found = json.loads(re.fullmatch(r"gigamil\.slide\((.*)\);\n", script_text, re.DOTALL)[1])  # type: ignore[index]
    assert (found["width"], found["height"]) == (1900, 1500)
    assert found["levels"] == [[1500 >> n, 1900 >> n] for n in range(len(picture.levels))]
    assert (found["mpp"], found["l0_per_px"], found["tile_px"]) == (0.5, 1.0, 256)
    for level, bits in enumerate(found["present"]):
        rows, columns = picture.present(level).shape
        flags = [base64.b64decode(bits)[i >> 3] >> (i & 7) & 1 for i in range(rows * columns)]
        assert np.array_equal(np.reshape(flags, (rows, columns)), picture.present(level))
    assert np.array_equal(_array(found["places"], "<i4").reshape(-1, 2), small_store.tiles_yx)
    assert found["n"] == small_store.n_tiles
    stored = {"tissue": small_store.tissue, **small_store.scores}
    for one in found["layers"]:
        values = _array(one["values"], "<f4")
        assert np.array_equal(values, stored[one["key"]], equal_nan=True)
        assert one["low"] == np.nanmin(values)
        assert one["high"] == np.nanmax(values)
        assert one["how"].endswith(".")
    assert [one["key"] for one in found["layers"]][:3] == ["focus", "texture", "tissue"]
    focus = small_store.scores["focus"]
    assert found["top"][0] == focus.argmax()
    assert found["bottom"][0] == focus.argmin()
    assert not set(found["top"]) & set(found["bottom"])
    assert (
        dict(map(tuple, found["facts"]))["Size"].replace("\N{MULTIPLICATION SIGN}", "x")
        == "0.9 x 0.8 mm (1,900 x 1,500 pixels)"
    )
    assert found["prediction"] is None


def test_a_picture_without_a_store_has_neither_tissue_nor_scores(small_store: TileStore) -> None:
    found = slide_document(StorePicture(small_store), None)
    assert (found["layers"], found["outline"], found["n"], found["places"]) == ([], [], 0, "")
    assert (found["top"], found["bottom"], found["icc"]) == ([], [], None)


def test_the_outline_encloses_the_mask(small_store: TileStore) -> None:
    mask, mask_mpp = small_store.tissue_mask()
    rings = tissue_outline(mask, mask_mpp, small_store.mpp)
    drawn = np.zeros(small_store.shape_yx, np.uint8)
    cv2.fillPoly(drawn, [np.array(ring) for ring in rings], 1)
    whole = cv2.resize(mask, drawn.shape[::-1], interpolation=cv2.INTER_NEAREST)
    both, either = (drawn & whole).sum(), (drawn | whole).sum()
    assert both / either > 0.93  # the ring runs along the middle of the mask's outermost pixels, of 16 px each


def test_an_outline_of_many_points_is_simplified() -> None:
    rng = np.random.default_rng(1)
    mask = (rng.random((600, 600)) > 0.45).astype(np.uint8)
    assert 0 < sum(map(len, tissue_outline(mask, 8.0, 0.5))) <= 20_000


@given(st.lists(st.one_of(st.just(np.nan), st.floats(-5, 5, width=32)), max_size=60))
def test_the_gallery_shows_known_values_in_order(values: list[float]) -> None:
    found = gallery([layer("a", "A", "score", np.array(values, np.float32), "So.")])
    told = np.array(values, np.float32)
    top, bottom = told[found["top"]], told[found["bottom"]]
    assert np.isfinite([*top, *bottom]).all()
    assert (np.diff(top) <= 0).all()
    assert (np.diff(bottom) >= 0).all()
    assert len(top) + len(bottom) == min(24, np.isfinite(told).sum())


def test_what_is_below_the_mean_does_not_stand_out() -> None:
    values = np.array([3, 0.2, 1.4, np.nan, 0.3, 0.1])
    found = gallery([layer("a", "A", "factor", values, "So.", log=True)])
    assert found == {"top": [0, 2], "bottom": [5, 1, 4]}
    assert gallery([layer("a", "A", "factor", np.ones(3), "So.")])["top"] == [0]


def test_a_log_scale_starts_above_0() -> None:
    found = layer("a", "A", "factor", np.array([0, 0.5, 4, np.nan]), "So.", log=True)
    assert (found["low"], found["high"], found["scale"]) == (0.5, 4.0, "log")
    assert layer("a", "A", "factor", np.zeros(2), "So.", log=True)["scale"] == "linear"


def test_hostile_ids_lead_nowhere_else() -> None:
    row = cohort_row('a b"</script>#?%2e', None, {})
    assert row["href"] == "slides/a%20b%22%3C%2Fscript%3E%23%3F%252e/index.html"
    text = script("cohort", cohort_document("\u2028", "", [column("a", "A", "text")], [row])).decode("ascii")
    assert json.loads(text[len("gigamil.cohort(") : -3])["slides"] == [row]
