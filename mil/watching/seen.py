"""One look at a cohort: what is there on the disk counts as done; the log tells who works, since when, what failed.

Without a cohort file, the log is all that is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from features.extraction.options import folder_name
from mil.pipeline.cohort.cohort_file import CohortFile
from mil.pipeline.experiments import FAILED as ROW_FAILED
from mil.pipeline.experiments import RUNNING as ROW_RUNNING
from mil.pipeline.experiments import Experiments, Row, lock_of
from mil.pipeline.stages import StageState, states
from mil.watching import tally as told
from mil.watching.alive import Known
from mil.watching.status import StageStatus, Work
from mil.watching.tally import Item, Process, Stage, Tally
from wsi.pages import plural


@dataclass(frozen=True, slots=True)
class Seen:
    """One look: the log's tally, held against who is alive."""

    tally: Tally
    known: Known
    now: float
    stuck_after: float

    def stages_of_log(self) -> list[Stage]:
        """Return the stages that the log tells of, in their order: those that have items, work, or failed."""
        found = [*self.tally.items, *(stage for stage, _ in self.tally.processes), *self.tally.failures]
        return [stage for stage in dict.fromkeys(found) if stage[0] != "run"]

    def stopped_runs(self) -> list[str]:
        """Return why `gigamil run` ended, where it did so as a whole."""
        found = [why for (verb, _), why in self.tally.failures.items() if verb == "run"]
        return [f"gigamil run could not go on: {why}" for why in found]

    def of_log(self, stage: Stage) -> StageStatus:
        """Return a stage as the log alone tells it."""
        items = self.tally.items.get(stage, {})
        running = [work for item in items.values() if (work := self.work_of(stage, item))]
        names = {work.id for work in running}
        failed = {item.id: item.reason for item in items.values() if item.state == told.FAILED}
        done = sum(item.state in (told.DONE, told.SKIPPED) for item in items.values())
        waiting = sum(item.state in (told.RUNNING, told.LEFT) and item.id not in names for item in items.values())
        name = f"{stage[0]} {stage[1]}".strip()
        return self._made(name, (stage,), done=done, waiting=waiting, running=running, failed=failed)

    def of_cohort(self, file: CohortFile) -> list[StageStatus]:
        """Return the stages of a cohort."""
        rows = {row.name: row for row in Experiments(file.folder).rows()}
        found = []
        for state in states(file):
            if state.stage == "train":
                found.append(self._of_rows(file, state, rows))
            else:
                found.append(self._of_state(state, self._stages_in_log(file, state.stage)))
        return found

    def _stages_in_log(self, file: CohortFile, stage: str) -> list[Stage]:
        verb, _, encoder = stage.partition(" ")
        into = folder_name(encoder) if encoder else ""
        return [own for own in self.stages_of_log() if own[0] == verb and into in ("", own[1])]

    def _of_state(self, state: StageState, stages: Sequence[Stage]) -> StageStatus:
        items = {name: (stage, item) for stage in stages for name, item in self.tally.items.get(stage, {}).items()}
        running, failed = [], {}
        for name in state.waiting:
            if name not in items:
                continue
            stage, item = items[name]
            if work := self.work_of(stage, item):
                running.append(work)
            elif item.state == told.FAILED:
                failed[name] = item.reason
        waiting = len(state.waiting) - len(running) - len(failed)
        return self._made(state.stage, stages, done=len(state.done), waiting=waiting, running=running, failed=failed)

    def _of_rows(self, file: CohortFile, state: StageState, rows: Mapping[str, Row]) -> StageStatus:
        """Return the experiments: what the table says, held against who holds each row."""
        running, failed = [], {}
        for name in state.waiting:
            row = rows.get(name)
            if row is None:
                continue
            if row.state == ROW_FAILED:
                failed[name] = row.reason
            elif row.state == ROW_RUNNING and self.known.holds(lock_of(file.folder, name), _job_of(row)) is not False:
                running.append(self._row_work(row))
        waiting = len(state.waiting) - len(running) - len(failed)
        return self._made("train", (), done=len(state.done), waiting=waiting, running=running, failed=failed)

    def _row_work(self, row: Row) -> Work:
        stage = ("train", row.name)
        models = list(self.tally.items.get(stage, {}).values())
        processes = [process for (own, _), process in self.tally.processes.items() if own == stage]
        since = _time_of(row.start)
        heard = max([since, *(item.heard for item in models), *(process.heard for process in processes)])
        current = [item for item in models if item.state == told.RUNNING]
        done = sum(item.state in (told.DONE, told.SKIPPED) for item in models)
        notes = [f"{plural(done, 'model')} done", *(epoch_text(item) for item in current[-1:])] if models else []
        return Work(
            id=row.name,
            where=row.where,
            since=since,
            heard=heard,
            stuck=self._silent(heard),
            note="; ".join(filter(None, notes)),
        )

    def work_of(self, stage: Stage, item: Item) -> Work | None:
        """Return an item as work under way; None where it is not, or whoever began it is gone."""
        if item.state != told.RUNNING:
            return None
        process = self.tally.processes.get((stage, item.of))
        if process is None or self.known.alive(process.host, process.pid, process.job, process.heard) is False:
            return None
        job = f" job {process.job}" if process.job else ""
        return Work(
            id=item.id,
            where=f"{process.host} process {process.pid}{job}",
            since=item.since,
            heard=max(item.heard, process.heard),
            stuck=self._silent(max(item.heard, process.heard)),
            note=epoch_text(item),
        )

    def _silent(self, heard: float) -> bool:
        return self.now - heard > self.stuck_after

    def _made(
        self,
        name: str,
        stages: Sequence[Stage],
        *,
        done: int,
        waiting: int,
        running: Sequence[Work],
        failed: Mapping[str, str],
    ) -> StageStatus:
        """Return a stage with its rate and how long it will still take."""
        left = waiting + len(running)
        alive = self._processes(stages)
        rate, unit, eta = rate_of(self.tally, stages, alive, left)
        return StageStatus(
            stage=name,
            done=done,
            waiting=waiting,
            running=tuple(running),
            failed=dict(failed),
            rate=rate,
            unit=unit,
            eta_seconds=eta if left else 0.0,
            trouble="; ".join(filter(None, (self.tally.failures.get(stage, "") for stage in stages))),
        )

    def _processes(self, stages: Sequence[Stage]) -> list[Process]:
        return [
            process
            for (stage, _), process in self.tally.processes.items()
            if stage in stages and self.known.alive(process.host, process.pid, process.job, process.heard) is not False
        ]


def rate_of(
    tally: Tally, stages: Sequence[Stage], alive: Sequence[Process], left: int
) -> tuple[float, str, float | None]:
    """Return the rate a second, its unit, and the seconds that what is left will take; 0 and None where unknown.

    One process tells itself how much it has to do, in bytes or tiles. Of several, items are counted: each knows its
    own part alone.
    """
    if len(alive) == 1 and alive[0].rate > 0:
        (process,) = alive
        return process.rate, process.unit, max(0.0, process.total - process.done) / process.rate
    rate = sum(tally.items_per_second(stage) for stage in stages)
    return (rate, "items", left / rate) if alive and rate > 0 else (0.0, "items", None)


def epoch_text(item: Item) -> str:
    """Return a model's last epoch in words, or nothing."""
    facts = item.latest
    if not facts:
        return ""
    loss = facts.get("val_loss")
    after = f", validation loss {loss:.3f}" if isinstance(loss, int | float) else ""
    return f"{item.id}: epoch {int(told.number(facts.get('epoch'))) + 1} of {int(told.number(facts.get('of')))}{after}"


def _job_of(row: Row) -> str:
    return row.where.partition(" job ")[2]


def _time_of(text: str) -> float:
    """Return the seconds since 1970 of a time in the table; 0 where a person has changed it into something else."""
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
