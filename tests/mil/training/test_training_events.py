"""What training tells the event log: models, epochs, losses, as the run folder has them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from witness import Witness

import mil.training.fit
from mil.run.evidence import read_history
from mil.train import train
from wsi.progress.events import EVENTS, read_events


def test_models_and_epochs_are_told(
    tmp_path: Path, write_cohort: Callable[..., Witness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mil.training.fit, "SHOWN_SECONDS", 0.0)
    monkeypatch.setenv(EVENTS, str(tmp_path / "events.jsonl"))
    witness = write_cohort(tmp_path / "bags", 12)
    run = tmp_path / "run"
    summary = train(witness.options(run, folds=2, epochs=3, baselines=()))
    events = [event for event in read_events(tmp_path / "events.jsonl") if event.stage == "train"]
    names = {outcome.item_id for outcome in summary.outcomes}
    for kind in ("item_started", "item_ended"):
        assert sorted(event.facts["id"] for event in events if event.kind == kind) == sorted(names)
    told = [event.facts for event in events if event.kind == "epoch" and event.facts["fold"] == 1]
    history = read_history(run / "fold1" / "seed0" / "history.csv")
    assert [own["val_loss"] for own in told] == pytest.approx([row["val_loss"] for row in history], abs=1e-5)
    assert [(own["epoch"], own["of"], own["seed"]) for own in told] == [(epoch, 3, 0) for epoch in range(len(history))]
