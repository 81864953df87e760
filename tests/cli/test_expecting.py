"""The time that a progress bar names."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from cli.expecting import Remaining, beside_estimate, estimate_of, remaining_seconds
from mil.accounting.ranges import Range
from wsi.tiling.options import TileOptions


def test_at_the_beginning_the_estimate_counts_and_at_the_end_the_speed() -> None:
    assert remaining_seconds(0, 100, 0.0, estimate=600) == 600
    assert remaining_seconds(0, 100, 5.0) is None
    assert remaining_seconds(25, 100, 50.0) == 150
    late = remaining_seconds(90, 100, 90.0, estimate=1000)
    assert late is not None
    assert 10 < late < 25
    assert remaining_seconds(100, 100, 90.0) == 0


def test_it_does_not_jump_where_a_slow_step_follows_a_quick_one() -> None:
    """Steps of different speed: the time that is named changes little from one moment to the next."""
    told, elapsed = [], 0.0
    for done in range(1, 100):
        elapsed += 0.5 if done < 50 else 2.0
        left = remaining_seconds(done, 100, elapsed, estimate=120)
        assert left is not None
        told.append(left)
    steps = [abs(b - a) for a, b in pairwise(told)]
    assert max(steps) < 8  # by the speed of the last half minute alone it would jump by 75 s
    assert told[0] == pytest.approx(110, rel=0.1)


def _options(out: Path) -> TileOptions:
    return TileOptions(slides=(out,), out=out)


def test_an_estimate_lies_beside_or_in_the_output_s_folder(tmp_path: Path) -> None:
    out = tmp_path / "stores"
    out.mkdir()
    assert estimate_of("tile", _options(out)) == 0
    told = {"tile": {"todo": 2, "seconds": Range.about(40, 0.1).as_dict()}}
    (tmp_path / "plan.json").write_text(json.dumps({"stages": told}))
    assert estimate_of("tile", _options(out)) == 40
    assert estimate_of("verify", _options(out)) == 0
    with beside_estimate("tile", _options(out)) as account:
        account.done = 2
    assert account.line.startswith("of what plan expected: seconds ")


def test_what_was_done_before_says_nothing_of_the_speed() -> None:
    from rich.progress import Progress

    now = [0.0]
    progress = Progress(get_time=lambda: now[0])
    column = Remaining()
    column.max_refresh = 0.0
    progress.add_task("train", total=100)
    (task,) = progress.tasks
    progress.advance(task.id, 50)
    assert column.render(task).plain == "-:--:--"
    now[0] = 10.0
    progress.advance(task.id, 10)
    assert column.render(task).plain == "0:00:40"
