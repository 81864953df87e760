"""The table of experiments: taken by one at a time, given back by the dead, mended by people, never torn."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mil.pipeline.cohort.cohort_file import CohortFile, read_cohort_file
from mil.pipeline.experiments import COLUMNS, DONE, FAILED, RUNNING, WAITING, Experiments
from mil.pipeline.outputs import best_of
from mil.pipeline.settling import settle
from wsi.errors import RequestError

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from mil.pipeline.cohort.cohort_file import read_cohort_file
from mil.pipeline.experiments import Experiments
file = read_cohort_file(Path(sys.argv[1]))
with Experiments(file.folder).take(file.experiments) as row:
    print(row.name, flush=True)
    time.sleep(600)
"""
WORKER = """
import os, random, sys, time
from pathlib import Path
from mil.pipeline.cohort.cohort_file import read_cohort_file
from mil.pipeline.experiments import DONE, RUNNING, Experiments
from mil.pipeline.patience import wait_while
from mil.pipeline.settling import settle
from wsi.progress.outcome import Silent
file = read_cohort_file(Path(sys.argv[1]))
table = Experiments(file.folder)
settle(file, table, overwrite=False)
def others():
    return {row.name: who for row in table.rows() if row.state == RUNNING and (who := table.holder(row.name))}
while True:
    with table.take(file.experiments) as row:
        if row is not None:
            marker = file.folder / "runs" / row.name / "metrics.json"
            marker.parent.mkdir(exist_ok=True)
            time.sleep(random.uniform(0.0, 0.02))
            if not marker.exists() or not marker.stat().st_size:  # as a run folder that is whole is skipped
                descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.write(descriptor, b"1")  # at once: no death comes in between
            table.update(row.name, state=DONE, score=float(row.name.split("=")[1]), metric="auc")
            continue
    if not others():
        break
    wait_while(others, "rows", Silent())
"""


def cohort(folder: Path, count: int = 4) -> CohortFile:
    (folder / "train.csv").write_text("image_id,patient_id,label\na_0,a,CE\nb_0,b,LAA\n")
    (folder / "c.toml").write_text(f'slides = "slides"\nmanifest = "train.csv"\n[grid]\nseed = {list(range(count))}\n')
    return read_cohort_file(folder / "c.toml")


def settled(folder: Path, count: int = 4) -> tuple[CohortFile, Experiments]:
    file = cohort(folder, count)
    table = Experiments(file.folder)
    assert settle(file, table, overwrite=False) == {}
    return file, table


def start(program: str, file: CohortFile) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", program, str(file.path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


def name(seed: int) -> str:
    return f"texture-gated_abmil-seed={seed}"


def test_rows_are_taken_by_priority_then_in_order(tmp_path: Path) -> None:
    file, table = settled(tmp_path)
    table.update(name(2), priority=5)
    taken: list[str] = []
    while True:
        with table.take(file.experiments, taken) as row:
            if row is None:
                break
            assert row.state == RUNNING
            assert row == next(own for own in table.rows() if own.name == row.name)
            assert str(os.getpid()) in row.where
            taken.append(row.name)
    assert taken == [name(2), name(0), name(1), name(3)]


def test_a_row_is_held_by_one_and_given_back_by_the_dead(tmp_path: Path) -> None:
    file, table = settled(tmp_path)
    with start(HOLDER, file) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline().strip() == name(0)
            assert str(other.pid) in table.holder(name(0))
            with table.take(file.experiments) as row:
                assert row is not None
                assert row.name == name(1)
        finally:
            other.kill()
    assert table.holder(name(0)) == ""
    assert table.rows()[0].state == RUNNING
    with table.take(file.experiments) as row:
        assert row is not None
        assert row.name == name(0)


def test_failed_rows_are_taken_only_when_asked_for(tmp_path: Path) -> None:
    file, table = settled(tmp_path, 2)
    table.update(name(0), state=FAILED, reason="no reason")
    table.update(name(1), state=DONE)
    with table.take(file.experiments) as row:
        assert row is None
    with table.take(file.experiments, again={name(0)}) as row:
        assert row is not None
        assert (row.name, row.reason) == (name(0), "")


def test_what_an_error_leaves_behind_can_be_taken(tmp_path: Path) -> None:
    file, table = settled(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt), table.take(file.experiments):
        raise KeyboardInterrupt
    assert table.holder(name(0)) == ""
    with table.take(file.experiments) as row:
        assert row is not None


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_that_a_spreadsheet_saved_is_understood(tmp_path: Path, delimiter: str, encoding: str) -> None:
    file, table = settled(tmp_path)
    table.update(name(0), state=DONE, score=0.875, low=0.5, high=1.0, metric="auc", reason="=cmd, and a; b")
    lines = [line.split(",") for line in table.path.read_text().splitlines()]
    import csv

    lines = list(csv.reader(table.path.read_text().splitlines()))
    lines[0].append("remark")
    for line in lines[1:]:
        line.append("mine")
    lines[4][COLUMNS.index("priority")] = "7,5" if delimiter == ";" else "7.5"
    lines[1][COLUMNS.index("score")] = "0,875" if delimiter == ";" else "0.875"
    lines[1][COLUMNS.index("state")] = " Done "
    with table.path.open("w", encoding=encoding, newline="") as out:
        csv.writer(out, delimiter=delimiter, lineterminator="\r\n").writerows([*lines, [""] * len(lines[0])])
    rows = table.rows()
    assert len(rows) == 4
    assert (rows[0].state, rows[0].score, rows[0].reason) == (DONE, 0.875, "=cmd, and a; b")
    with table.take(file.experiments) as row:
        assert row is not None
        assert row.name == name(3)
    assert [row.more for row in table.rows()] == [{"remark": "mine"}] * 4
    assert table.path.read_text().splitlines()[0] == ",".join([*COLUMNS, "remark"])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("waiting", "idle", "line 2: state idle: expected waiting, running, done or failed"),
        ("name,", "nom,", "expected a column name, found nom"),
        (",0,waiting", ",high,waiting", "line 2: priority high: expected a number"),
        (f"{name(1)},", f"{name(0)},", f"{name(0)} stands there twice"),
        (f"{name(1)},", ",", "line 3: expected a name, found none"),
    ],
)
def test_a_table_that_was_mangled_is_one_line(tmp_path: Path, before: str, after: str, expected: str) -> None:
    file, table = settled(tmp_path, 2)
    text = table.path.read_text()
    assert before in text
    table.path.write_text(text.replace(before, after, 1))
    with pytest.raises(RequestError) as told:
        settle(file, table, overwrite=False)
    assert expected in str(told.value)
    assert str(told.value).endswith("mend the table, or move it away: it is made anew of the run folders")
    assert table.path.read_text() == text.replace(before, after, 1)


def test_a_lost_row_and_a_lost_table_come_back(tmp_path: Path) -> None:
    file, table = settled(tmp_path)
    before = table.rows()
    lines = table.path.read_text().splitlines()
    table.path.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    settle(file, table, overwrite=False)
    assert sorted(table.rows(), key=lambda row: row.name) == before
    table.path.unlink()
    settle(file, table, overwrite=False)
    assert table.rows() == before


def test_rows_of_other_settings_are_named_never_mixed(tmp_path: Path) -> None:
    file, table = settled(tmp_path)
    table.update(name(0), state=DONE, score=0.9, metric="auc")
    (file.run_folder(name(0))).mkdir(parents=True)
    (file.run_folder(name(0)) / "metrics.json").write_text("{}")
    table.update(name(1), priority=3)
    file.path.write_text(file.path.read_text() + "[train]\nepochs = 9\n[tile]\nmpp = 1.0\n")
    other = read_cohort_file(file.path)
    refused = settle(other, table, overwrite=False)
    assert list(refused) == [name(0)]
    assert "train.epochs: found 60, wanted 9" in refused[name(0)]
    assert "tile.target_mpp: found 0.5, wanted 1.0" in refused[name(0)]
    rows = {row.name: row for row in table.rows()}
    assert rows[name(0)].recipe_hash == file.experiments[0].recipe_hash
    assert rows[name(1)].recipe_hash == other.experiments[1].recipe_hash  # nobody had begun it
    assert rows[name(1)].priority == 3
    assert best_of(other) is None
    with table.take(other.experiments, again=[name(0)]) as row:
        assert row is not None
        assert row.name == name(1)
    assert settle(other, table, overwrite=True) == {}
    assert {row.state for row in table.rows()} == {WAITING, RUNNING}


def test_a_done_row_without_a_run_waits_again(tmp_path: Path) -> None:
    file, table = settled(tmp_path, 1)
    table.update(name(0), state=DONE)
    settle(file, table, overwrite=False)
    (row,) = table.rows()
    assert (row.state, row.reason) == (WAITING, "its run folder is gone")


def test_rows_of_another_file_are_left_alone(tmp_path: Path) -> None:
    file, table = settled(tmp_path, 2)
    other = tmp_path / "other.toml"
    other.write_text(
        f'folder = "{file.folder.name}"\nslides = "s"\nmanifest = "train.csv"\n[[experiments]]\nname = "x"\n'
    )
    found = read_cohort_file(other)
    assert found.folder == file.folder
    settle(found, table, overwrite=False)
    assert [row.name for row in table.rows()] == [name(0), name(1), "x"]
    with table.take(found.experiments) as row:
        assert row is not None
        assert row.name == "x"


def test_a_hundred_rows_are_quick(tmp_path: Path) -> None:
    """Reading and rewriting the table is nothing beside a training: below a fifth of a second, on a busy machine."""
    file, table = settled(tmp_path, 100)
    used = time.process_time()
    for _ in range(5):
        with table.take(file.experiments) as row:
            assert row is not None
            table.update(row.name, state=DONE)
    assert (time.process_time() - used) / 5 < 0.2


def worked_through(file: CohortFile, kills: int, seed: int) -> int:
    """Have four processes work through a table; kill one now and then, and start another; return how many died."""
    rng, killed = random.Random(seed), 0
    workers = [start(WORKER, file) for _ in range(4)]
    try:
        while any(worker.poll() is None for worker in workers):
            time.sleep(rng.uniform(0.2, 0.6))
            victim = rng.choice(workers)
            if killed < kills and victim.poll() is None:
                victim.send_signal(signal.SIGKILL)
                killed += 1
                workers.append(start(WORKER, file))
            Experiments(file.folder).rows()  # whole at every moment
        assert {worker.returncode for worker in workers} <= {0, -signal.SIGKILL}
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    return killed


def check_done_once(file: CohortFile, count: int) -> None:
    done = {own.parent.name: own.stat().st_size for own in (file.folder / "runs").glob("*/metrics.json")}
    assert done == {name(seed): 1 for seed in range(count)}
    rows = Experiments(file.folder).rows()
    assert [row.name for row in rows] == [name(seed) for seed in range(count)]
    assert all(row.state == DONE for row in rows)
    assert [row.score for row in rows] == [float(seed) for seed in range(count)]


@pytest.mark.parametrize("kills", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_four_processes_do_each_row_once(tmp_path: Path, kills: int) -> None:
    file = cohort(tmp_path, 12)
    assert worked_through(file, kills, seed=kills) == kills
    check_done_once(file, 12)


@pytest.mark.slow
def test_four_processes_and_twenty_deaths_do_a_hundred_rows_once(tmp_path: Path) -> None:
    file = cohort(tmp_path, 100)
    worked_through(file, 20, seed=20)
    check_done_once(file, 100)
