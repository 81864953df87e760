"""What tiling a cohort did, slide by slide: a table for a spreadsheet, or JSON for a program."""

import csv
import io
import json
from pathlib import Path

from wsi.atomic import write_text
from wsi.errors import RequestError
from wsi.outcome import Summary

STEPS = ("read", "decode", "scale", "score", "encode", "write")
"""Seconds that a slide's regions took, summed over the workers. What a reader does not tell apart stands in decode."""
COLUMNS = ("image_id", "status", "tiles", "mpp", "mpp_source", "reader", "bytes_in", "bytes_out", *STEPS, "notes")
ENDINGS = (".csv", ".json")


def check_summary_path(path: Path) -> None:
    """Raise `RequestError` where the file's ending is not known."""
    if path.suffix not in ENDINGS:
        raise RequestError(f"--summary {path}: expected a file that ends in {' or '.join(ENDINGS)}")


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
        write_text(path, json.dumps(summary.as_dict(), indent=1, default=str) + "\n")
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary_rows(summary))
    write_text(path, text.getvalue())
