"""A cohort of small slides, and the same cohort run once to its end."""

from pathlib import Path

import pytest
from making_cohort import AFTER, make_slides, write_cohort

from mil.pipeline.options import RunOptions
from mil.pipeline.run import run


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slides/ of ten patients, train.csv, and new/ with an eleventh."""
    return make_slides(tmp_path_factory.mktemp("slides"))


@pytest.fixture(scope="session")
def finished(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort file that was run once, by one process, to its end."""
    path = write_cohort(slides, tmp_path_factory.mktemp("finished"), AFTER)
    summary = run(RunOptions(cohort=path))
    assert summary.exit_code == 0, summary.outcomes
    return path
