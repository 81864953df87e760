"""What a person wants to know when a cohort file was run: the best experiment, what was left out, where it lies."""

from collections.abc import Sequence
from typing import Any

from mil.pipeline.cohort.cohort_file import CohortFile
from mil.pipeline.experiments import DONE, FAILED, TABLE
from mil.pipeline.outputs import best_of, chosen_experiments, output_of, rows_of_file
from mil.pipeline.run import STAGE
from mil.pipeline.training import told_score
from wsi.progress.outcome import Outcome, Status, Summary

_NAMED = 5


def ending_of(file: CohortFile, summary: Summary) -> dict[str, Any]:
    """Return the best experiment, what was left out and what is where, as JSON values; ``lines`` for a person."""
    rows, best = rows_of_file(file), best_of(file)
    done = [row for row in rows if row.state == DONE]
    made = {verb: [str(output_of(file, verb, name)) for name in chosen_experiments(file, verb)] for verb in file.after}
    bad = summary.ended(Status.FAILED)
    told: dict[str, Any] = {
        "experiments": {"done": len(done), "failed": sum(row.state == FAILED for row in rows), "all": len(rows)},
        "table": str(file.folder / TABLE),
        "made": made,
    }
    lines = _left_out(bad)
    if best is not None:
        found = {"metric": best.metric, "score": best.score, "low": best.low, "high": best.high}
        told["best"] = {"name": best.name, "run": str(file.run_folder(best.name)), **found}
        of = f" of {len(done)}" if len(done) > 1 else ""
        lines.append(f"best{of}: {best.name}, {told_score(found)}, by models that had not seen the patients")
        if len(done) > 1:
            lines.append("  a little too good, for it was chosen by this score: `gigamil compare` tells them apart")
        if best.reason:
            lines.append(f"  {best.reason}")
        lines.append(f"report: {file.run_folder(best.name) / 'report.html'}")
    lines += [f"{verb}: {path}" for verb, paths in made.items() if verb != "report" for path in paths]
    if rows:
        lines.append(f"table: {told['table']}")
    lines.append(f"next: {_next(file, summary, len(done), len(rows))}")
    return told | {"lines": lines}


def _left_out(bad: Sequence[Outcome]) -> list[str]:
    """Return a line for each reason, stage by stage, and whom it concerns."""
    alike: dict[tuple[str, str], list[str]] = {}
    for own in bad:
        alike.setdefault((str(own.facts.get(STAGE, "")), own.reason), []).append(own.item_id)
    lines = []
    for (stage, reason), items in alike.items():
        more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
        lines.append(f"{stage}, left out: {', '.join(items[:_NAMED])}{more}: {reason}")
    return lines


def _next(file: CohortFile, summary: Summary, done: int, rows: int) -> str:
    if summary.exit_code:
        return "mend what was left out, and give the same command again; what is finished is kept"
    if not rows or done < rows:
        return f"gigamil run {file.path}"
    best = best_of(file)
    return f"gigamil predict {file.run_folder(best.name)} NEW_SLIDES -o predictions.csv" if best else ""
