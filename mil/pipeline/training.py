"""The train stage: rows of the table, one after the other, until none is left."""

from collections.abc import Iterator
from dataclasses import replace

from mil.pipeline.cohort_file import CohortFile, Experiment
from mil.pipeline.experiments import DONE, FAILED, WAITING, Experiments, Row, now
from mil.pipeline.options import RunOptions
from mil.run.ending import ending_of_run
from wsi.errors import ClaimedError, GigamilError
from wsi.outcome import Outcome, Progress, Status
from wsi.recipe import Json


def work_through(file: CohortFile, options: RunOptions, progress: Progress) -> Iterator[Outcome]:
    """Take rows and train them; give what became of each."""
    table, tried = Experiments(file.folder), set[str]()
    table.add(file.experiments)
    known = {own.name: own for own in file.experiments}
    while not options.rows or len(tried) < options.rows:
        with table.take(file.experiments, tried) as row:
            if row is None:
                return
            tried.add(row.name)
            yield _trained(table, known[row.name], row, options, progress)


def _trained(table: Experiments, experiment: Experiment, row: Row, options: RunOptions, progress: Progress) -> Outcome:
    """Train the experiment of a row that is held, and write into the row what came of it."""
    from mil.train import train

    asked = replace(experiment.options, overwrite=options.overwrite)
    if options.workers is not None:
        asked = replace(asked, workers=max(1, options.workers))
    try:
        train(asked, progress)
        found = score_of(ending_of_run(asked.out))
    except ClaimedError as error:
        table.update(row.name, state=WAITING, where="", start="")
        return Outcome(row.name, Status.FAILED, str(error))
    except GigamilError as error:
        table.update(row.name, state=FAILED, end=now(), reason=str(error))
        return Outcome(row.name, Status.FAILED, str(error))
    table.update(row.name, state=DONE, end=now(), reason="", **found)
    return Outcome(row.name, Status.DONE, facts=found)


def score_of(ending: Json) -> Json:
    """Return the columns of a row that tell a finished run's score."""
    score = ending["score"]
    return {"metric": ending["metric"], "score": score["value"], "low": score["low"], "high": score["high"]}
