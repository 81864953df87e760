"""`gigamil run`: all of a cohort, its table of experiments, or what would be done."""

import json as json_format
import os
import sys
from dataclasses import asdict
from typing import Any

import click

from cli.console import progress_bars, stderr
from mil.pipeline.options import RunOptions
from wsi.errors import RequestError, masked
from wsi.machine.interrupt import SAVED_CODE
from wsi.progress.outcome import Summary


def run(options: RunOptions, json: bool) -> int:
    """Do, list or explain; return the exit code."""
    if options.list_rows:
        return _list(options, json)
    if options.explain:
        return _explain(options, json)
    rank = int(os.environ.get("RANK", "-1"))
    if rank >= 0 and options.stage != "extract":
        raise RequestError(f"torchrun is for extraction alone: expected --stage extract, found {options.stage}")
    if rank >= 0 and options.take:
        raise RequestError("--take and torchrun exclude each other: its ranks share all slides at once")
    from mil.pipeline.run import run as do

    with progress_bars() as progress:
        summary = do(options, progress)
    if rank <= 0:
        _tell(options, summary, json)
    return exit_code(options, summary) if rank <= 0 else 0


def exit_code(options: RunOptions, summary: Summary) -> int:
    """Return 75 where a stage alone met work that others hold, else 1 where something failed, else 0."""
    from mil.pipeline.patience import is_held

    held = options.stage != "all" and any(map(is_held, summary.outcomes))
    return SAVED_CODE if held else summary.exit_code


def _tell(options: RunOptions, summary: Summary, json: bool) -> None:
    from mil.pipeline.cohort.cohort_file import read_cohort_file
    from mil.pipeline.ending import ending_of

    told = ending_of(read_cohort_file(options.cohort), summary)
    lines = told.pop("lines")
    if json:
        _print(summary.as_dict() | {"ending": told})
        return
    for line in lines:
        stderr.print(masked(line), markup=False, soft_wrap=True)


def _list(options: RunOptions, json: bool) -> int:
    from mil.pipeline.cohort.cohort_file import read_cohort_file
    from mil.pipeline.listing import listed, table_text

    file = read_cohort_file(options.cohort)
    rows = listed(file)
    if json:
        _print([asdict(row) for row in rows])
    else:
        click.echo(masked(table_text(file, rows)))
    return 0


def _explain(options: RunOptions, json: bool) -> int:
    from mil.pipeline.cohort.cohort_file import read_cohort_file
    from mil.pipeline.listing import explained
    from mil.pipeline.stages import states

    file = read_cohort_file(options.cohort)
    found = states(file, thorough=True)
    if json:
        _print([{"stage": own.stage, "waiting": dict(own.waiting), "done": list(own.done)} for own in found])
    else:
        click.echo(masked(explained(file, found)))
    return 0


def _print(content: Any) -> None:
    sys.stdout.write(masked(json_format.dumps(content, indent=1, default=str)) + "\n")
