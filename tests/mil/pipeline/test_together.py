"""One cohort file run by several processes at once, some killed: each thing is done once, and as by one."""

import random
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from commanding import Command, session_members
from making_cohort import AFTER, NAMES, content, write_cohort

from mil.pipeline.experiments import DONE, Experiments, Row
from wsi.progress.events import read_events

HEADS = '"gated_abmil", "mean_pool", "max_pool", "abmil", "mean_mlp", "additive"'


def models_trained(folder: Path) -> Counter[str]:
    """Return how often each experiment's models were trained to their end, by the log."""
    events = [event for event in read_events(folder / "events.jsonl") if event.kind == "item_ended"]
    trained = [event.facts for event in events if event.stage == "train" and event.facts["status"] == "done"]
    return Counter(f"{facts['into']} {facts['id']}" for facts in trained if "into" in facts)


def rows_of(folder: Path) -> list[Row]:
    """Return the rows without what tells when and where."""
    return [replace(row, start="", end="", where="") for row in Experiments(folder).rows()]


def end(commands: list[Command]) -> None:
    for command in commands:
        command.kill()
        for pipe in (command.process.stdout, command.process.stderr):
            if pipe is not None:
                pipe.close()
    assert not [own for command in commands for own in session_members(command.process.pid)]


def test_two_runs_at_once_do_each_experiment_once(slides: Path, tmp_path: Path, finished: Path) -> None:
    path, undisturbed = write_cohort(slides, tmp_path, AFTER), finished.parent / "work"
    commands = [Command("run", path) for _ in range(2)]
    try:
        told = [command.process.communicate(timeout=250)[1] for command in commands]
        assert [command.process.returncode for command in commands] == [0, 0], told
    finally:
        end(commands)
    trained = models_trained(tmp_path / "work")
    assert trained == models_trained(undisturbed)
    assert set(trained.values()) == {1}
    assert rows_of(tmp_path / "work") == rows_of(undisturbed)
    ours, theirs = content(tmp_path / "work", alone=False), content(undisturbed, alone=False)
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_four_runs_and_twelve_deaths_leave_what_one_run_leaves(slides: Path, tmp_path: Path) -> None:
    """Processes are killed at random moments, with all that they started, and others take their place."""
    rng = random.Random(4)
    heads = ('"gated_abmil", "mean_pool"', HEADS)
    (tmp_path / "one").mkdir()
    (tmp_path / "four").mkdir()
    alone, path = (write_cohort(slides, tmp_path / name) for name in ("one", "four"))
    for own in (alone, path):
        own.write_text(own.read_text().replace(*heads) + AFTER)
    undisturbed = Command("run", alone)
    undisturbed.process.communicate()
    assert undisturbed.process.returncode == 0
    commands, killed = [Command("run", path) for _ in range(4)], 0
    try:
        while any(command.process.poll() is None for command in commands):
            time.sleep(rng.uniform(1.0, 6.0))
            victim = rng.choice(commands)
            if killed < 12 and victim.process.poll() is None:
                victim.kill()
                killed += 1
                commands.append(Command("run", path))
            Experiments(tmp_path / "four" / "work").rows()  # whole at every moment
        codes = [command.process.returncode for command in commands]
        assert set(codes) <= {0, -signal.SIGKILL}, [command.process.communicate() for command in commands]
    finally:
        end(commands)
    one, four = tmp_path / "one" / "work", tmp_path / "four" / "work"
    assert rows_of(four) == rows_of(one)
    assert all(row.state == DONE for row in rows_of(four))
    ours, theirs = content(four, alone=False), content(one, alone=False)
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert len(NAMES) < len(rows_of(four))
