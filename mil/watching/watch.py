"""Looks at a cohort, or at a log alone: its outputs, its table, its event log and Slurm's queue, put together."""

import time
from pathlib import Path
from typing import Any

from mil.pipeline.cohort.cohort_file import CohortFile, read_cohort_file
from mil.watching.alive import Known, here
from mil.watching.seen import Seen
from mil.watching.status import Status
from mil.watching.tally import Tally
from wsi.errors import RequestError
from wsi.pages import plural
from wsi.progress.events import Events, read_events

LOG = "events.jsonl"
"""Name of a cohort's log, in its folder."""


class Watch:
    """Looks at a cohort, or at a log alone, again and again; each look reads what is new of the log."""

    def __init__(self, path: Path, stuck_after: float = 900.0) -> None:
        self._file, self._log = _opened(path)
        self._name = self._file.name if self._file else str(path)
        self._events: Events = read_events(self._log)
        self._tally, self._stuck_after = Tally(), stuck_after

    def look(self) -> Status:
        """Return how far everything is now.

        Raises
        ------
        RequestError
            The table or the cohort file cannot be understood, or Slurm does not answer.
        """
        for event in self._events:
            self._tally.take(event)
        now = time.time()
        queue, notes = self._queue()
        known = Known(here(), None if queue is None else {job["id"] for job in queue if job["state"] == "RUNNING"})
        seen = Seen(self._tally, known, now, self._stuck_after)
        if self._events.damaged:
            notes.append(f"{self._log}: {plural(self._events.damaged, 'damaged line')} left out")
        notes += seen.stopped_runs()
        if self._file is None:
            stages = [seen.of_log(stage) for stage in seen.stages_of_log()]
        else:
            stages = seen.of_cohort(self._file)
        return Status(
            name=self._name,
            time=now,
            stages=tuple(stages),
            queue=tuple(queue or ()),
            notes=tuple(notes),
            tally=self._tally,
        )

    def _queue(self) -> tuple[list[dict[str, Any]] | None, list[str]]:
        """Return Slurm's jobs of the cohort, None where there is no queue to ask; and what is to be said of it."""
        from mil.slurm.command import has_slurm
        from mil.slurm.queue import jobs

        if self._file is None or not has_slurm():
            return None, []
        try:
            found = jobs(self._file)
        except RequestError as error:
            return None, [str(error)]
        return [
            {"id": job.name, "stage": job.stage, "state": job.state, "reason": job.reason, "node": job.node}
            | {"elapsed_s": job.elapsed_s}
            for job in found
        ], []


def _opened(path: Path) -> tuple[CohortFile | None, Path]:
    """Return the cohort file, if it is one, and the log."""
    if path.is_dir():
        if not (path / LOG).is_file():
            raise RequestError(f"{path}: expected a cohort file, or a folder with {LOG}, found none")
        return None, path / LOG
    if path.suffix == ".toml":
        file = read_cohort_file(path)
        return file, file.folder / LOG
    if not path.is_file():
        raise RequestError(f"{path}: expected a cohort file (.toml), an event log or its folder, found none")
    return None, path
