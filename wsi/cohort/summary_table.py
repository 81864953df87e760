"""What tiling a cohort did, slide by slide: a table for a spreadsheet, or JSON for a program."""

import json
from pathlib import Path

from wsi.errors import RequestError, masked
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text
from wsi.files.regular import first_bytes
from wsi.files.replace import refuse_foreign
from wsi.progress.outcome import Summary

STEPS = ("read", "decode", "scale", "score", "encode", "write")
"""Seconds that a slide's regions took, summed over the workers. What a reader does not tell apart stands in decode."""
COLUMNS = ("image_id", "status", "tiles", "mpp", "mpp_source", "reader", "bytes_in", "bytes_out", *STEPS, "notes")
ENDINGS = (".csv", ".json")


def check_summary_path(path: Path) -> None:
    """Raise `RequestError` where the file's ending is not known, or the file is there and is no summary."""
    if path.suffix not in ENDINGS:
        raise RequestError(f"--summary {path}: expected a file that ends in {' or '.join(ENDINGS)}")
    refuse_foreign(path, _is_ours)


def summary_rows(summary: Summary) -> list[dict[str, str | int | float]]:
    """Return one row per slide by `COLUMNS`; what is not known of a slide is empty."""
    rows = []
    for outcome in summary.outcomes:
        facts = outcome.facts
        row = {name: facts.get(name, "") for name in COLUMNS}
        row |= {step: facts.get("seconds", {}).get(step, "") for step in STEPS}
        rows.append(row | {"image_id": outcome.item_id, "status": outcome.status.value, "notes": outcome.reason})
    return rows


def write_summary(path: Path, summary: Summary) -> None:
    """Write the table as CSV, or all that is known as JSON, by the file's ending."""
    check_summary_path(path)
    if path.suffix == ".json":
        write_text(path, masked(json.dumps(summary.as_dict(), indent=1, default=str)) + "\n", _is_ours)
        return
    rows = [[row[name] for name in COLUMNS] for row in summary_rows(summary)]
    write_text(path, masked(csv_text([COLUMNS, *rows])), _is_ours)


def _is_ours(path: Path) -> bool:
    """Tell whether a file is a summary, which another one may take the place of."""
    start = ('{\n "stage": ' if path.suffix == ".json" else ",".join(COLUMNS)).encode()
    return first_bytes(path, len(start)) == start
