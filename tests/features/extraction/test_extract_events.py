"""What extraction tells the event log: each slide's end once, whoever encoded it."""

from collections import Counter
from pathlib import Path

import pytest

from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from wsi.progress.events import EVENTS, read_events


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_slide_is_told_once(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nproc: int) -> None:
    log = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS, str(log))
    options = ExtractOptions(stores=(stores,), out=tmp_path / "bags", nproc=nproc)
    summary = extract(options)
    events = list(read_events(log))
    ends = [event.facts for event in events if event.kind == "item_ended"]
    wanted = {outcome.item_id: (outcome.status.value, outcome.facts["tiles"]) for outcome in summary.outcomes}
    assert {own["id"]: (own["status"], own["tiles"]) for own in ends} == wanted
    assert len(ends) == len(wanted)
    begun = Counter(event.facts["id"] for event in events if event.kind == "item_started")
    assert begun == Counter(name for name, (_, tiles) in wanted.items() if tiles)
    assert events[-1].facts["spent"] == {step: round(seconds, 3) for step, seconds in summary.spent.items()}
    bars = [(event.facts["done"], event.facts["total"]) for event in events if event.kind == "progress"]
    total = sum(tiles for _, tiles in wanted.values())
    assert (bars[0], bars[-1]) == ((0, total), (total, total))
    extract(options)
    again = list(read_events(log))[len(events) :]
    assert {event.facts["status"] for event in again if event.kind == "item_ended"} == {"skipped"}
