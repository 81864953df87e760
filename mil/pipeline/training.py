"""The train stage: rows of the table, one after the other, until none is left."""

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from mil.pipeline.cohort.cohort_file import CohortFile, Experiment
from mil.pipeline.experiments import DONE, FAILED, RUNNING, WAITING, Experiments, Row, now
from mil.pipeline.options import RunOptions
from mil.pipeline.outputs import rows_of_file
from mil.pipeline.patience import wait_while
from mil.pipeline.settling import settle
from mil.run.ending import ending_of_run
from mil.targets import TARGETS
from wsi.cohort.manifest import load_manifest
from wsi.errors import ClaimedError, GigamilError, RecipeMismatchError
from wsi.files.csv_table import read_records
from wsi.machine.interrupt import leave_if_asked
from wsi.pages import plural
from wsi.progress.events import slurm_job, within
from wsi.progress.outcome import CLAIMED, Outcome, Progress, Status
from wsi.recipe import Json

_NAMED = 5
_A_MOMENT = 0.02


def work_through(file: CohortFile, options: RunOptions, progress: Progress, *, patient: bool) -> Iterator[Outcome]:
    """Take rows and train them; give what became of each, and of those that others finished.

    Rows that failed before are tried once more, those that failed meanwhile are not; of one Slurm job or array, none
    twice. With ``patient``, rows that others train are waited for, and taken where their holder dies.

    Raises
    ------
    RequestError
        Every experiment was begun with other settings.
    """
    table, tried = Experiments(file.folder), set[str]()
    refused = settle(file, table, overwrite=options.overwrite)
    if refused and len(refused) == len(file.experiments):
        name, why = next(iter(refused.items()))
        raise RecipeMismatchError(f"{name}: {why}")
    yield from (Outcome(name, Status.FAILED, why) for name, why in refused.items())
    before = rows_of_file(file)
    again = {row.name for row in before if row.state == FAILED and not _is_of_this_job(row)}
    known = {own.name: own for own in file.experiments}
    while not options.rows or len(tried) < options.rows:
        with table.take(file.experiments, tried, again) as row:
            outcome = None if row is None else _trained(file, table, known[row.name], options, progress)
        if outcome is not None:
            tried.add(outcome.item_id)
            yield outcome
            continue
        leave_if_asked()
        left = {own.name: table.holder(own.name) for own in rows_of_file(file) if _is_open(own, tried)}
        if not left or (all(left.values()) and not patient):
            break
        wait_while(lambda: _others(file, table, tried), "experiments", progress)
        time.sleep(_A_MOMENT)  # somebody looked at a row's lock, or gives it back just now
    if options.rows:
        return  # one of many: the others tell of theirs
    finished = {row.name for row in before if row.state == DONE}
    for row in rows_of_file(file):
        if row.name not in tried and row.state in (DONE, FAILED):
            status = Status.FAILED if row.state == FAILED else Status.SKIPPED
            told = row.reason if row.name in finished or row.state == FAILED else f"by {row.where}"
            yield Outcome(row.name, status, told)
        if row.name in finished:
            _note_new_bags(file, known[row.name], progress)


def _is_open(row: Row, tried: set[str]) -> bool:
    return row.state in (WAITING, RUNNING) and row.name not in tried


def _others(file: CohortFile, table: Experiments, tried: set[str]) -> dict[str, str]:
    """Return the rows that others are at, while none is free: name -> who."""
    left = {row.name: table.holder(row.name) for row in rows_of_file(file) if _is_open(row, tried)}
    return left if all(left.values()) else {}


def _is_of_this_job(row: Row) -> bool:
    """Tell whether a row was last tried by this Slurm job, or one of its array."""
    job = slurm_job().partition("_")[0]
    return bool(job) and row.where.partition(" job ")[2].partition("_")[0] == job


def _trained(
    file: CohortFile, table: Experiments, experiment: Experiment, options: RunOptions, progress: Progress
) -> Outcome:
    """Train the experiment of a row that is held, and write into the row what came of it."""
    name, without = experiment.name, _without_bag(file, experiment)
    try:
        with within(experiment=name):
            found = _run_of(experiment, options, progress)
    except ClaimedError as error:
        table.update(name, state=WAITING, start="", where="")
        return Outcome(name, Status.FAILED, str(error), {CLAIMED: True})
    except Exception as error:
        reason = _reason(error, progress)
        table.update(name, state=FAILED, end=now(), reason=reason)
        return Outcome(name, Status.FAILED, reason)
    except BaseException:  # stopped: who comes next goes on with it
        table.update(name, state=WAITING, reason="stopped; goes on where it was")
        raise
    table.update(name, state=DONE, end=now(), reason=without, **found)
    progress.note(f"{name}: {told_score(found)}")
    return Outcome(name, Status.DONE, without, found)


def _run_of(experiment: Experiment, options: RunOptions, progress: Progress) -> Json:
    """Train; return the columns that tell the run's score."""
    from mil.train import train

    asked = replace(experiment.options, overwrite=options.overwrite)
    if options.workers is not None:
        asked = replace(asked, workers=max(1, options.workers))
    train(asked, progress)
    ending = ending_of_run(asked.out)
    score = ending["score"]
    return {"metric": ending["metric"], "score": score["value"], "low": score["low"], "high": score["high"]}


def _reason(error: Exception, progress: Progress) -> str:
    """Return one line; what nobody foresaw is shown whole as well."""
    if isinstance(error, GigamilError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'writing'}"
    progress.note("".join(traceback.format_exception(error)).rstrip())
    first = (str(error).splitlines() or [""])[0]
    return f"unexpected {type(error).__name__}: {first}"[:500]


def _without_bag(file: CohortFile, experiment: Experiment) -> str:
    """Return which slides that are to be trained on have no bag, for a person; "" where each has one."""
    absent = [image_id for image_id, there in _bags_there(file, experiment) if not there]
    return f"without {plural(len(absent), 'slide', 'that', 'have')} no bag: {_named(absent)}" if absent else ""


def _note_new_bags(file: CohortFile, experiment: Experiment, progress: Progress) -> None:
    """Tell of slides that a finished run was not trained on, and whose bags are there now."""
    with suppress(ValueError, OSError):  # RequestError is a ValueError: what is wrong with the run others tell
        known = {row["image_id"] for row in read_records(file.run_folder(experiment.name) / "splits.csv")}
        new = [image_id for image_id, there in _bags_there(file, experiment) if there and image_id not in known]
        if new:
            told = f"was trained without slides whose bags are there now: {_named(new)}"
            progress.note(f"{experiment.name} {told}: --overwrite trains it anew")


def _bags_there(file: CohortFile, experiment: Experiment) -> Iterator[tuple[str, bool]]:
    """Give each slide that is to be trained on, and whether it has its bags."""
    options = experiment.options
    column = TARGETS[options.target].column
    for row in load_manifest(file.manifest):
        if getattr(row, column) is not None:
            yield row.image_id, all((folder / f"{row.image_id}.h5").exists() for folder in options.bags)


def _named(items: Sequence[str]) -> str:
    return ", ".join(items[:_NAMED]) + (f" and {len(items) - _NAMED} more" if len(items) > _NAMED else "")


def told_score(found: Json) -> str:
    """Return a score and its interval for a person."""
    value, low, high = (found[key] for key in ("score", "low", "high"))
    told = "not defined" if value is None else f"{value:.3f}"
    between = "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
    return f"{found['metric']} {told}{between}"
