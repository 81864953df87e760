"""The order of tasks over a cohort: no slide's end keeps the next one waiting, nor the next one's tasks its end."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from wsi.cohort.slides import Job
from wsi.progress.outcome import Outcome, Silent, Status
from wsi.tiling import engine
from wsi.tiling.options import TileOptions
from wsi.tiling.workers import this_process

REGIONS = 12


def test_the_next_slide_begins_while_one_settles_and_lets_it_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def steps_of(job: Job, _options: TileOptions) -> Generator[Any, Any, Outcome]:
        for step, count in (("plan", 1), ("region", REGIONS), ("tissue", 1), ("settle", 2), ("finish", 1)):
            yield 0.2, [(done.append, (f"{job.image_id} {step}",))] * count
        return Outcome(job.image_id, Status.DONE)

    monkeypatch.setattr(engine, "steps_of", steps_of)
    jobs = [Job(name, tmp_path / f"{name}.tif") for name in "abc"]
    options = TileOptions(slides=(tmp_path,), out=tmp_path / "out")
    with this_process() as workers:
        outcomes = engine.Engine(workers, options, Silent(), {job.image_id: 0 for job in jobs}).run(jobs)
    assert [outcome.status for outcome in outcomes] == [Status.DONE] * 3
    assert len(done) == 3 * (REGIONS + 5)
    for name, following in ("ab", "bc"):
        regions = [i for i, task in enumerate(done) if task == f"{following} region"]
        assert done.index(f"{following} plan") < done.index(f"{name} tissue")
        assert regions[0] < done.index(f"{name} finish") < regions[-1], done
