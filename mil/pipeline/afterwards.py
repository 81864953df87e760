"""What is made of trained runs: predictions, heat maps, pages, the report."""

from collections.abc import Iterator
from typing import Any

from mil.pipeline.cohort_file import CohortFile, Experiment
from mil.pipeline.options import RunOptions
from mil.pipeline.outputs import chosen_experiments, output_of
from mil.pipeline.tables import VERBS
from wsi.outcome import Outcome, Progress, Summary


def make_after(file: CohortFile, options: RunOptions, progress: Progress) -> Iterator[Outcome]:
    """Make what the file asks for of the chosen experiments; give what became of each."""
    known = {own.name: own for own in file.experiments}
    for verb in file.after:
        for name in chosen_experiments(file, verb):
            summary = _do(verb, made_options(file, verb, known[name], options), progress)
            yield from summary.outcomes


def made_options(file: CohortFile, verb: str, experiment: Experiment, options: RunOptions) -> Any:
    """Return the options of a verb for an experiment's run."""
    run, bags, stores = file.run_folder(experiment.name), experiment.options.bags, (file.stores,)
    out = output_of(file, verb, experiment.name)
    places: dict[str, dict[str, Any]] = {
        "predict": {"items": bags, "run": (run,), "out": out, "overwrite": options.overwrite},
        "heatmap": {"run": run, "bags": bags, "stores": stores, "out": out, "overwrite": options.overwrite},
        "page": {"items": (run, *stores, *bags), "out": out, "overwrite": options.overwrite},
        "report": {
            "run": run,
            "pages": pages if (pages := output_of(file, "page", experiment.name)).exists() else None,
        },
    }
    return VERBS[verb](**places[verb], **file.after[verb])


def _do(verb: str, options: Any, progress: Progress) -> Summary:
    if verb == "predict":
        from mil.inference.predict import predict

        return predict(options, progress)
    if verb == "heatmap":
        from mil.heatmaps.heatmap import heatmap

        return heatmap(options, progress)
    if verb == "page":
        from mil.viewing.page import page

        return page(options, progress)
    from mil.report.report import report

    return report(options, progress)
