"""Pages: what they are given is escaped, and they need nothing else."""

import base64

import jinja2
import pytest
from markupsafe import Markup

from wsi.pages import data_uri, fill, natural, number


def test_texts_are_escaped_and_ready_html_is_not() -> None:
    assert "<title>&lt;b&gt;</title>" in fill("wsi/page.html", title="<b>")
    assert "<title><b></title>" in fill("wsi/page.html", title=Markup("<b>"))
    assert "--ink" in fill("wsi/page.html", title="")


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="title"):
        fill("wsi/page.html")


def test_numbers_that_are_not_defined_are_dashes() -> None:
    assert number(None) == "\N{EN DASH}"
    assert number(0.12345) == "0.123"
    assert number(1234.5, ",.0f") == "1,234"


def test_pictures_stand_in_the_page() -> None:
    head, _, data = data_uri(b"\x89PNG", "png").partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == b"\x89PNG"


def test_names_stand_as_people_count() -> None:
    names = ["10", "2", "a10", "A9", "site 2", "site 10", "", "007", "7"]
    assert sorted(names, key=natural) == ["", "2", "007", "7", "10", "A9", "a10", "site 2", "site 10"]
