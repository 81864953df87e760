"""Which other runs were judged on the same cohort, in the same folder: how often it was looked at.

Whoever judges ten runs on a cohort and tells of the best one tells of luck, as whoever tries ten ways to train. What
stands in the same folder can be counted; what was deleted, or lies elsewhere, cannot.
"""

from collections.abc import Mapping
from pathlib import Path

from mil.run.beside import ALIKE
from mil.run.checks import checked_table
from mil.run.evidence import Evidence
from mil.run.outputs import Tables
from wsi.errors import GigamilError

SCORES, ABOUT = "scores.csv", "evaluation.json"


def judged_beside(out: Path, run_hash: str, evidence: Evidence, mark: str) -> list[str]:
    """Return the names of the folders beside ``out`` in which other runs were judged on the same patients and target.

    ``evidence``: of the cohort. Two evaluations of one run are one look. ``mark``: of `gigamil evaluate`.
    """
    columns = evidence.run.predicts.columns(evidence.classes)
    mine = _truths(evidence.patients, columns)
    found: dict[str, str] = {}
    for about in sorted(out.resolve().parent.glob(f"*/{ABOUT}")):
        told = Tables(about, (about.parent / SCORES,), mark).told()
        if about.parent == out.resolve() or told is None or told["recipe"].get("run") in (None, run_hash):
            continue
        try:
            rows = checked_table(about.parent / SCORES, ("level", "patient_id", *columns))
        except (GigamilError, OSError):  # of another target, damaged, or being written
            continue
        theirs = _truths([row for row in rows if row["level"] == "patient"], columns)
        if len(mine & theirs) >= ALIKE * max(len(mine), len(theirs)):
            found.setdefault(str(told["recipe"]["run"]), about.parent.name)
    return sorted(found.values())


def _truths(rows: list[dict[str, str]], columns: list[str]) -> frozenset[tuple[str, ...]]:
    """Return the patients with what is true of them."""
    return frozenset(_key(row, columns) for row in rows)


def _key(row: Mapping[str, str], columns: list[str]) -> tuple[str, ...]:
    return row["patient_id"], *(row[name] for name in columns)
