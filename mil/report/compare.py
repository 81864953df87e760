"""`gigamil compare`: several runs on the patients that they share, as a table, its JSON and a page."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mil.evaluation.compare import Shared, compared, read_shared
from mil.evaluation.spread.repeats import members
from mil.evaluation.spread.verdicts import TESTS, verdict_of_runs
from mil.report.figures import compare_figure
from mil.report.options import CompareOptions
from mil.run.folder import RunFolder
from mil.run.outputs import Tables
from wsi.errors import RequestError
from wsi.files.atomic import check_folder, make_folder
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.options import stage
from wsi.pages import fill
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import Json, recipe_hash

MARK = "gigamil-compare-1"


@stage
def compare(options: CompareOptions, progress: Progress | None = None) -> Summary:
    """Compare runs; write a table, its JSON and a page.

    Raises
    ------
    RequestError
        A run is not finished, targets or truths differ, or no patient is in all of them.
    """
    start, progress = time.monotonic(), progress or Silent()
    if (options.out / "config.toml").exists():
        raise RequestError(f"--out {options.out}: expected a folder for the comparison, found a run: choose another")
    shared = read_shared(options.runs)
    tables = Tables(options.out / "compare.json", (options.out / "compare.csv", options.out / "compare.html"), MARK)
    recipe = {"runs": folders_told(options.runs, options.out), "seed": options.seed}
    check_folder(options.out)
    with claim(options.out):
        if tables.earlier(recipe, overwrite=options.overwrite) is not None:
            return Summary("compare", [Outcome(str(options.out), Status.SKIPPED)], time.monotonic() - start)
        return _compared(options, shared, tables, recipe, start, progress)


def _compared(
    options: CompareOptions, shared: Shared, tables: Tables, recipe: Json, start: float, progress: Progress
) -> Summary:
    """Compare, and write the table, its JSON and the page."""
    for note in shared.notes:
        progress.note(note)
    progress.begin("compare", len(shared.told), "runs")
    rows = compared(shared, options.seed, lambda: progress.advance(1))
    progress.end()
    make_folder(options.out)
    about = {"patients": len(shared.ids), "classes": list(shared.truth.names), "notes": list(shared.notes)}
    verdict = verdict_of_runs(rows, list(shared.told), shared.truth, len(shared.ids))
    about |= {
        "patients_compared": "across folds (pooled)",
        "runs": rows,
        "other_runs_beside": shared.looks,
        "verdict": verdict,
    }
    if shared.repeats is not None:
        about["repeats"] = len(shared.repeats.folds)
    texts = {tables.files[0]: _csv(rows), tables.files[1]: _page(shared, rows, verdict)}
    tables.write(recipe, texts, {"folders": recipe["runs"], **about})
    first = shared.truth.shown[0]
    facts = {"patients": len(shared.ids), first: {name: row["metrics"][first]["value"] for name, row in rows.items()}}
    return Summary("compare", [Outcome(str(options.out), Status.DONE, facts=facts)], time.monotonic() - start)


def folders_told(runs: Sequence[Path], out: Path) -> list[Json]:
    """Return what compare.json says of where its runs lie, seen from its own folder."""
    found = []
    for run in runs:
        each = [RunFolder(own).config["recipe_hash"] for own in members(run)]
        told = each[0] if len(each) == 1 else recipe_hash({"repeats": each})
        found.append({"folder": os.path.relpath(run.resolve(), out.resolve()), "recipe_hash": told})
    return found


def _csv(rows: Mapping[str, Json]) -> str:
    metrics = next(iter(rows.values()))["metrics"]
    parts = ("", "_low", "_high", "_difference", "_difference_low", "_difference_high")
    test = next((kind for row in rows.values() for kind in TESTS if kind in row), "delong")
    names = [f"{key}{part}" for key in metrics for part in parts]
    lines: list[list[Any]] = [["run", *names, f"{test}_p", "corrected_p"]]
    for name, row in rows.items():
        cells: list[Any] = []
        for key in metrics:
            gap = row.get("difference", {}).get(key, {})
            cells += [row["metrics"][key][part] for part in ("value", "low", "high")]
            cells += [gap.get(part) for part in ("value", "low", "high")]
        told = [row.get(test, {}).get(kind) for kind in ("p", "corrected_p")]
        lines.append([name, *cells, *("" if p is None else f"{p:.3g}" for p in told)])
    return csv_text(lines)


def _page(shared: Shared, rows: Mapping[str, Json], verdict: str) -> str:
    first, metrics = shared.truth.shown[0], next(iter(rows.values()))["metrics"]
    keys = [key for key in shared.truth.metrics if key in metrics]
    names = [shared.truth.metrics[key][0] for key in keys]
    picture = compare_figure({name: row["metrics"][first] for name, row in rows.items()}, names[0], shared.truth.chance)
    asked = {"keys": keys, "names": names, "ranked": shared.truth.words.ranked, "verdict": verdict}
    return fill("mil/report/compare.html", shared=shared, rows=rows, picture=picture, **asked)
