"""What an event log adds up to."""

from typing import Any

import pytest

from mil.watching.tally import DONE, FAILED, LEFT, RUNNING, Tally
from wsi.progress.events import Event

TILE = ("tile", "stores")


def event(time: float, kind: str, of: str = "n1/1", stage: str = "tile", into: str = "stores", **facts: Any) -> Event:
    host, pid = of.split("/")
    return Event(time, kind, host, int(pid), "", {"stage": stage, "into": into, "of": of, **facts})


def tally_of(*events: Event) -> Tally:
    tally = Tally()
    for own in events:
        tally.take(own)
    return tally


def test_items_go_through_their_states() -> None:
    tally = tally_of(
        event(0, "stage_started"),
        *(event(1, "item_started", id=name) for name in "abc"),
        event(5, "item_ended", id="a", status="done", spent={"read": 1.5, "decode": 2.0}, bytes=10),
        event(6, "item_ended", id="b", status="failed", reason="why", spent={"read": 0.5}, bytes=5),
        event(7, "item_ended", id="d", status="skipped"),
    )
    states = {name: item.state for name, item in tally.items[TILE].items()}
    assert states == {"a": DONE, "b": FAILED, "c": RUNNING, "d": "skipped"}
    assert tally.items[TILE]["b"].reason == "why"
    assert tally.spent == {"tile": {"read": 2.0, "decode": 2.0}}
    assert tally.bytes_read == {"tile": 15}
    assert list(tally.processes) == [(TILE, "n1/1")]
    assert (tally.processes[TILE, "n1/1"].heard, tally.last) == (7, 7)


def test_what_another_process_holds_has_not_failed() -> None:
    held: dict[str, Any] = {"status": "failed", "reason": "is being written by process 1 on n1", "claimed": True}
    begun = [event(0, "stage_started"), event(1, "item_started", id="a")]
    other = [event(2, "item_ended", of="n2/9", id=name, **held) for name in "ab"]
    tally = tally_of(*begun, *other)
    assert {name: (item.state, item.of) for name, item in tally.items[TILE].items()} == {"a": (RUNNING, "n1/1")}
    tally.take(event(3, "item_ended", id="a", status="done"))
    assert tally.items[TILE]["a"].state == DONE


@pytest.mark.parametrize("how", ["stage_ended", "stage_started"])
def test_what_a_process_leaves_is_left(how: str) -> None:
    tally = tally_of(
        event(0, "stage_started"),
        event(0, "stage_started", of="n2/1"),
        event(1, "item_started", id="a"),
        event(1, "item_started", id="b", of="n2/1"),
        event(2, how, status="stopped", reason="interrupted", seconds=2.0),
    )
    assert {name: item.state for name, item in tally.items[TILE].items()} == {"a": LEFT, "b": RUNNING}
    assert tally.failures == {}


def test_a_stage_that_fails_as_a_whole_is_told_until_it_is_begun_again() -> None:
    events = [event(0, "stage_started"), event(1, "stage_ended", status="failed", reason="no disk")]
    assert tally_of(*events).failures == {TILE: "no disk"}
    assert tally_of(*events, event(2, "stage_started")).failures == {}
    counted = event(1, "stage_ended", status="failed", counts={"failed": 1})
    assert tally_of(events[0], counted).failures == {}


def test_the_rate_is_that_of_the_last_ten_minutes_of_one_task() -> None:
    slow = [event(t, "progress", title="tile", done=t, total=9000, unit="B") for t in range(0, 1000, 10)]
    fast = [
        event(1000 + t, "progress", title="tile", done=990 + 5 * t, total=9000, unit="B") for t in range(0, 700, 10)
    ]
    process = tally_of(event(0, "stage_started"), *slow, *fast).processes[TILE, "n1/1"]
    assert process.rate == pytest.approx(5.0)
    other = event(1800, "progress", title="evaluate", done=0, total=2, unit="steps")
    assert tally_of(event(0, "stage_started"), *slow, other).processes[TILE, "n1/1"].rate == 0


def test_items_a_second() -> None:
    ends = [event(10 * n, "item_ended", id=str(n), status="done") for n in range(5)]
    assert tally_of(*ends).items_per_second(TILE) == pytest.approx(0.1)
    assert tally_of(ends[0]).items_per_second(TILE) == 0


def test_the_log_of_another_version_does_no_harm() -> None:
    odd = Event(1, "item_ended", "h", 1, "", {"spent": 3, "bytes": "many", "id": None, "status": 7})
    tally = tally_of(odd, Event(2, "progress", "h", 1, "", {}), Event(3, "unheard_of", "h", 1, "", {}))
    assert tally.last == 3
