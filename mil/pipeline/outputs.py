"""What is made of trained runs: of which experiments, and where it lies."""

from pathlib import Path

from mil.pipeline.cohort.cohort_file import ALL, BEST, CohortFile
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


def rows_of_file(file: CohortFile) -> list[Row]:
    """Return the rows of the file's experiments, those of the same settings alone, in the table's order."""
    hashes = {own.name: own.recipe_hash for own in file.experiments}
    return [row for row in Experiments(file.folder).rows() if hashes.get(row.name) == row.recipe_hash]


def best_of(file: CohortFile) -> Row | None:
    """Return the finished experiment with the highest score, of those told by the first one's metric; None without."""
    rows = [row for row in rows_of_file(file) if row.state == DONE and row.score is not None]
    metric = next((row.metric for row in rows), "")
    return max((row for row in rows if row.metric == metric), key=lambda row: row.score or 0.0, default=None)


def chosen_experiments(file: CohortFile, verb: str) -> list[str]:
    """Return the finished experiments of which a verb makes something."""
    done = [row.name for row in rows_of_file(file) if row.state == DONE]
    match file.chosen[verb]:
        case (name,) if name == BEST:
            best = best_of(file)
            return [] if best is None else [best.name]
        case (name,) if name == ALL:
            return done
    return [name for name in file.chosen[verb] if name in done]
