"""Batches and work items: every wanted row once, and cuts that do not depend on who works."""

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from features.extraction.plan import LARGEST_ITEM, Job, SlideJob, Span, Target, joined


def slide(n_tiles: int, tile_px: int = 256, wanted: bool = True, covered: tuple[tuple[int, int], ...] = ()) -> SlideJob:
    target = Target(Path("s.h5"), "e", {}, {}, slice(0, 1))
    return SlideJob("s", Path("s.zarr"), (target,), n_tiles, tile_px, {}, wanted, covered=covered)


def job(slides: list[SlideJob], batch_size: int) -> Job:
    return Job(tuple(slides), batch_size, 8, "texture", "0" * 64)


@st.composite
def slides(draw: st.DrawFn) -> list[SlideJob]:
    made = []
    for tile_px in (224, 256):
        for n_tiles in draw(st.lists(st.integers(0, 50), max_size=4)):
            pairs = st.tuples(st.integers(0, n_tiles), st.integers(0, n_tiles))
            covered = joined([(min(p), max(p)) for p in draw(st.lists(pairs, max_size=3)) if p[0] != p[1]])
            made.append(slide(n_tiles, tile_px, draw(st.booleans()), covered))
    return made


@given(slides(), st.integers(1, 17))
def test_batches_hold_every_tile_once_and_in_order(made: list[SlideJob], batch_size: int) -> None:
    batches = job(made, batch_size).batches()
    rows = [(span.slide, row) for batch in batches for span in batch.spans for row in range(span.start, span.stop)]
    assert rows == [(index, row) for index, entry in enumerate(made) for row in range(entry.n_tiles)]
    for batch, following in pairwise(batches):
        assert 0 < batch.n_tiles <= batch_size
        assert batch.n_tiles == batch_size or following.tile_px != batch.tile_px
        assert all(made[span.slide].tile_px == batch.tile_px for span in batch.spans)


@given(slides(), st.integers(1, 17), st.integers(1, 5))
def test_items_hold_every_missing_row_once_for_any_number_of_ranks(
    made: list[SlideJob], batch_size: int, n_ranks: int
) -> None:
    plan = job(made, batch_size)
    items = plan.items(n_ranks)
    computed = [(run.slide, row) for item in items for run in plan.runs(item) for row in range(run.start, run.stop)]
    wanted = [
        (index, row)
        for index, entry in enumerate(made)
        for row in range(entry.n_tiles)
        if entry.wanted and not any(start <= row < stop for start, stop in entry.covered)
    ]
    assert computed == wanted
    assert len(computed) == sum(entry.missing() for entry in made)
    whole = plan.batches()
    assert all(batch in whole for item in items for batch in item)
    assert all(1 <= len(item) <= LARGEST_ITEM for item in items)
    assert [len(item) for item in items] == sorted((len(item) for item in items), reverse=True)


def test_a_batch_crosses_slides_and_stays_the_same_when_one_is_done() -> None:
    first = job([slide(5), slide(3), slide(4)], 4).batches()
    assert first[1].spans == (Span(0, 4, 5), Span(1, 0, 3))
    later = job([slide(5, wanted=False), slide(3), slide(4, wanted=False)], 4)
    assert [batch for item in later.items(1) for batch in item] == [first[1]]
    assert later.runs((first[1],)) == [Span(1, 0, 3)]


def test_joined() -> None:
    assert joined([(5, 7), (0, 2), (2, 3), (6, 9)]) == ((0, 3), (5, 9))
