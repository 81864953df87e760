"""A cohort of small slides, and the same cohort run once to its end."""

from collections.abc import Callable
from pathlib import Path

import pytest
from making_cohort import AFTER, make_slides, write_cohort
from making_once import made_once

from mil.pipeline.options import RunOptions
from mil.pipeline.run import run


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory, shared: Callable[[Path], None]) -> Path:
    """slides/ of ten patients, train.csv, and new/ with an eleventh."""
    folder = make_slides(tmp_path_factory.mktemp("slides"))
    shared(folder)
    return folder


@pytest.fixture(scope="session")
def finished(slides: Path, tmp_path_factory: pytest.TempPathFactory, shared: Callable[[Path], None]) -> Path:
    """A cohort file that was run once, by one process, to its end; tests change only copies of it."""

    def make(folder: Path) -> None:
        summary = run(RunOptions(cohort=write_cohort(slides, folder, AFTER)))
        assert summary.exit_code == 0, summary.outcomes

    folder = made_once(tmp_path_factory, "finished", make)
    shared(folder)
    return folder / "c.toml"
