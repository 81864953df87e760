"""What is made of trained runs: of which experiments, and where it lies."""

from pathlib import Path

from mil.pipeline.cohort_file import ALL, BEST, CohortFile
from mil.pipeline.experiments import DONE, Experiments, Row


def output_of(file: CohortFile, verb: str, experiment: str) -> Path:
    """Return where predict, heatmap, page or report writes what it makes of an experiment."""
    places = {
        "predict": file.folder / "predictions" / f"{experiment}.csv",
        "heatmap": file.folder / "heatmaps" / experiment,
        "page": file.folder / "pages" / experiment,
        "report": file.run_folder(experiment) / "report.html",
    }
    return places[verb]


def best_of(file: CohortFile) -> Row | None:
    """Return the row of the finished experiment with the highest score; None where none is finished."""
    hashes = {own.name: own.recipe_hash for own in file.experiments}
    rows = [
        row
        for row in Experiments(file.folder).rows()
        if row.state == DONE and row.score is not None and hashes.get(row.name) == row.recipe_hash
    ]
    metric = next((row.metric for row in rows), "")
    return max((row for row in rows if row.metric == metric), key=lambda row: row.score or 0.0, default=None)


def chosen_experiments(file: CohortFile, verb: str) -> list[str]:
    """Return the experiments of which a verb makes something; the best one only once there is one."""
    match file.chosen[verb]:
        case (name,) if name == BEST:
            best = best_of(file)
            return [] if best is None else [best.name]
        case (name,) if name == ALL:
            return [own.name for own in file.experiments]
    return list(file.chosen[verb])
