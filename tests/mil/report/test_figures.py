"""The report's figures: told apart without colour, dark where the page is, with who was still followed."""

import base64
import re

import numpy as np
import pytest

from mil.report.figures import (
    _DARK,
    PAD_PT,
    _axes,
    _draw_line,
    _look,
    _write_followed,
    history_figures,
    plot_figure,
    svg_uri,
)
from mil.targets import SurvivalTarget
from mil.targets.plot import Line, Plot


def svg_of(uri: str) -> str:
    return base64.b64decode(uri.partition(",")[2]).decode()


def survival() -> Plot:
    times, events = np.array([1.0, 2, 3, 4, 5, 6, 7, 8]), np.array([True, True, False, True] * 2)
    risks = np.array([3.0, 2, 1, 0, 7, 6, 5, 4])[:, None]
    (plot,) = SurvivalTarget(times, events, cut_before=False).plots(
        {"own": risks}, "own", "", np.ones((1, 8)), np.repeat([0, 1], 4)
    )
    return plot


def test_lines_differ_by_more_than_colour() -> None:
    looks = [_look(number) for number in range(36)]
    assert len({(own["color"], str(own["linestyle"])) for own in looks}) == 36
    assert len({str(own["linestyle"]) for own in looks[:6]}) == 6


def test_every_line_is_drawn() -> None:
    x = np.linspace(0, 1, 5)
    lines = tuple(Line(f"class {c}", x, x * c / 9) for c in range(9))
    svg = svg_of(plot_figure(Plot(lines=lines, x_label="x", y_label="y", alt="", caption="")))
    assert len(re.findall(r'id="line2d_\d+"[^#]*?clip-path', svg)) == 9


def test_colours_are_others_on_a_dark_screen_and_nowhere_fixed() -> None:
    svg = svg_of(plot_figure(survival()))
    style, drawn = svg.split("</style>", 1)
    assert "@media screen and (prefers-color-scheme:dark)" in style
    assert all(own in style for own in (*_DARK, *_DARK.values()))
    assert not re.search(r"(?:fill|stroke): #(?!0{6}\b)", drawn), "black is drawn nowhere by itself"
    assert "#000000" not in drawn
    assert "#ffffff" not in drawn


def test_beneath_a_curve_stands_who_was_still_followed() -> None:
    plot = survival()
    _, axes = _axes(3.6, 3.6)
    for number, line in enumerate(plot.lines):
        _draw_line(axes, line, {**_look(number), "label": line.name, "lw": 1}, number)
    _write_followed(axes, plot.lines)
    texts = [text.get_text() for text in axes.texts]
    ticks = [round(tick, 6) for tick in axes.get_xticks()]
    assert ticks[:3] == [0, 2, 4]
    higher = [sum(time >= tick for time in (1, 2, 5, 6)) for tick in ticks]
    lower = [sum(time >= tick for time in (3, 4, 7, 8)) for tick in ticks]
    assert texts == ["still followed", "higher risk", *map(str, higher), "lower risk", *map(str, lower)]
    censored = [line for line in axes.lines if line.get_marker() == "|"]
    assert [np.asarray(line.get_xdata()).tolist() for line in censored] == [[], [3, 7]]
    at_3_and_7 = np.asarray(censored[1].get_ydata())
    np.testing.assert_allclose(at_3_and_7, [1, 2 / 3])  # of 3, 4, 7, 8: one event, at 4, then two of three go on


@pytest.mark.parametrize("what", ["wide numbers", "long names", "beneath the axis"])
def test_no_word_leaves_the_figure_and_no_room_is_wasted(what: str) -> None:
    x = np.linspace(0, 1, 5)
    if what == "long names":
        figure, axes = _axes(6.4, 2.3)
        axes.set_yticks(range(3), [f"a run with a rather long name {i}" for i in range(3)])
    else:
        figure, axes = _axes(3.6, 3.6)
        axes.plot(x, 1e6 * x)
    axes.set(xlabel="the axis", ylabel="the axis")
    if what == "beneath the axis":
        _write_followed(axes, survival().lines)
    svg_uri(figure)
    box, whole, pad = axes.get_tightbbox(), figure.bbox, PAD_PT / 72 * figure.dpi
    assert box is not None
    found = np.array([box.x0, box.y0, whole.x1 - box.x1, whole.y1 - box.y1])
    np.testing.assert_allclose(found, pad, atol=pad / 2)
    assert axes.bbox.width > 0.4 * whole.width


def test_training_and_validation_have_one_scale() -> None:
    rows = [{"epoch": 0, "train_loss": 4.0, "val_loss": 1.0}, {"epoch": 1, "train_loss": 2.0, "val_loss": 0.5}]
    training, validation = map(svg_of, history_figures([rows, rows], [0, 1], "loss", 2))
    assert training != validation
    ticks = [re.findall(r"<!-- ([\d.]+) -->", own) for own in (training, validation)]
    assert "4.0" in ticks[0]
    assert ticks[0] == ticks[1]
