"""The table of experiments and the cohort file, brought together: new rows, rows of other settings, rows without a run.

Beside the table stand the recipes of its rows, `RECIPES`, so that a setting that was changed can be named.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mil.pipeline.cohort.cohort_file import CohortFile
from mil.pipeline.cohort.grid import Experiment
from mil.pipeline.experiments import DONE, RUNNING, WAITING, Experiments, Row, row_of
from mil.run.folder import is_begun
from wsi.errors import RequestError
from wsi.files.atomic import write_text
from wsi.files.documents import parse_json, read_document
from wsi.recipe import differences

RECIPES = "experiments.json"


def settle(file: CohortFile, table: Experiments, *, overwrite: bool) -> dict[str, str]:
    """Give every experiment of the file its row; return those that are refused, and why.

    A row that was begun with other settings is refused, or with ``overwrite`` begun anew; one that nobody has begun
    takes the new settings. Its priority stays the table's. A row that is done and whose run is gone waits again.
    """
    refused = {}
    with table.changing():
        before = table.rows()
        rows = {row.name: row for row in before}
        recipes = _recipes(file.folder)
        for own in file.experiments:
            row = rows.get(own.name)
            if row is None:
                rows[own.name] = row_of(own)
            elif row.recipe_hash != own.recipe_hash:
                if is_row_begun(file, row) and (not overwrite or table.holder(own.name)):
                    refused[own.name] = _refusal(table, row, own)
                    continue
                rows[own.name] = replace(row_of(own), priority=row.priority, more=row.more)
            elif row.state == DONE and not is_finished(file, own.name):
                rows[own.name] = replace(row, state=WAITING, reason="its run folder is gone")
            recipes[own.recipe_hash] = own.recipe
        if list(rows.values()) != before:
            _write_recipes(file.folder, {row.recipe_hash: recipes.get(row.recipe_hash) for row in rows.values()})
            table.write(list(rows.values()))
    return refused


def other_settings(folder: Path, row: Row, wanted: Experiment) -> str:
    """Return how the settings of a row differ from those of today, field by field."""
    found = _recipes(folder).get(row.recipe_hash)
    if found is None:
        return f"other settings ({row.settings or 'those by default'})"
    lines = differences(found, wanted.recipe)
    told = ["the manifest's contents" if line.startswith("manifest: ") else line for line in lines]
    return f"other settings ({'; '.join(told)})"


def is_finished(file: CohortFile, name: str) -> bool:
    """Tell whether the run of an experiment was evaluated, the last but one thing that training does."""
    return (file.run_folder(name) / "metrics.json").exists()


def is_row_begun(file: CohortFile, row: Row) -> bool:
    """Tell whether something was trained, or is, that other settings would replace."""
    return row.state in (RUNNING, DONE) or is_begun(file.run_folder(row.name))


def _refusal(table: Experiments, row: Row, wanted: Experiment) -> str:
    told = other_settings(table.folder, row, wanted)
    if holder := table.holder(row.name):
        return f"{holder} trains it with {told}: wait for it, or give it another name"
    return f"it was begun with {told}: give it another name, or --overwrite to train it anew"


def _recipes(folder: Path) -> dict[str, Any]:
    """Return the recipes by hash; none where the file is not there, or is damaged: it is a help alone."""
    try:
        found = parse_json(read_document(folder / RECIPES, RequestError))
    except ValueError:  # a RequestError is one, too
        return {}
    return found if isinstance(found, dict) else {}


def _write_recipes(folder: Path, recipes: dict[str, Any]) -> None:
    write_text(folder / RECIPES, json.dumps({key: own for key, own in recipes.items() if own}, indent=1) + "\n")
