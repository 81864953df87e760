"""What is made of trained runs: predictions, heat maps, pages, the report."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from mil.pipeline.cohort.cohort_file import CohortFile, Experiment
from mil.pipeline.cohort.tables import VERBS
from mil.pipeline.options import RunOptions
from mil.pipeline.outputs import chosen_experiments, output_of
from wsi.cohort.slides import find_jobs
from wsi.errors import ClaimedError, GigamilError
from wsi.progress.outcome import CLAIMED, Outcome, Progress, Status, Summary

_FUNCTIONS = {
    "predict": "mil.inference.predict",
    "heatmap": "mil.heatmaps.heatmap",
    "page": "mil.viewing.page",
    "report": "mil.report.report",
}


def make_after(file: CohortFile, options: RunOptions, progress: Progress) -> Iterator[Outcome]:
    """Make what the file asks for of the chosen experiments; give what became of each, those that fail named."""
    known = {own.name: own for own in file.experiments}
    for verb in file.after:
        for name in chosen_experiments(file, verb):
            if verb == "report" and not why_not_made(file, verb, name):
                yield Outcome(_item(verb, name), Status.SKIPPED)
                continue
            try:
                summary = _function(verb)(made_options(file, verb, known[name], options), progress)
            except (GigamilError, OSError) as error:
                facts = {CLAIMED: True} if isinstance(error, ClaimedError) else {}
                yield Outcome(_item(verb, name), Status.FAILED, str(error), facts)
                continue
            yield from _told(verb, name, summary)


def claims_of(file: CohortFile) -> dict[str, Path]:
    """Return for each item of `make_after` what its verb claims."""
    return {
        _item(verb, name): file.run_folder(name) if verb == "report" else output_of(file, verb, name)
        for verb in file.after
        for name in chosen_experiments(file, verb)
    }


def _item(verb: str, experiment: str) -> str:
    return f"{verb} of {experiment}"


def _told(verb: str, name: str, summary: Summary) -> Iterator[Outcome]:
    """Give what became of an experiment's output as a whole, and each part of it that failed."""
    bad = summary.ended(Status.FAILED)
    yield from (replace(own, item_id=f"{_item(verb, name)}: {own.item_id}") for own in bad)
    if len(bad) < len(summary.outcomes):
        done = Status.DONE if summary.ended(Status.DONE) else Status.SKIPPED
        yield Outcome(_item(verb, name), done)


def made_options(file: CohortFile, verb: str, experiment: Experiment, options: RunOptions) -> Any:
    """Return the options of a verb for an experiment's run."""
    run, bags, stores = file.run_folder(experiment.name), experiment.options.bags, (file.stores,)
    own = {"out": output_of(file, verb, experiment.name), "overwrite": options.overwrite}
    pages = output_of(file, "page", experiment.name)
    drawn = {"bags": bags, "stores": stores} if "annotations" in file.after[verb] else {}
    places: dict[str, dict[str, Any]] = {
        "predict": {"items": _to_predict(file, bags) if verb == "predict" else (), "run": (run,), **own},
        "heatmap": {"run": run, "bags": bags, "stores": stores, **own},
        "page": {"items": (run, *stores, *bags), **own},
        "report": {"run": run, "pages": pages if (pages / "index.html").exists() else None, **drawn},
    }
    return VERBS[verb](**{**file.after[verb], **places[verb]})


def _to_predict(file: CohortFile, bags: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the folders of bags, of which a manifest tells the new slides; without one, the new slides' own bags."""
    if file.new is None or file.new.manifest is not None:
        return bags
    jobs = find_jobs(file.new.slides, None)
    found = [folder / f"{job.image_id}.h5" for folder in bags for job in jobs]
    return tuple(path for path in found if path.exists())


def why_not_made(file: CohortFile, verb: str, experiment: str) -> str:
    """Return why an output of an experiment is to be made; "" where it is there.

    The verbs themselves look closer: what is there of another recipe they refuse, or make anew.
    """
    out = output_of(file, verb, experiment)
    if not (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        return "missing"
    if verb != "report":
        return ""
    pdf = [out.with_suffix(".pdf")] * bool(file.after[verb].get("pdf"))
    if any(not path.exists() for path in pdf):
        return f"{pdf[0].name} is missing"
    pages = output_of(file, "page", experiment) / "index.html"
    return "older than the pages that it links" if _is_older(out, pages) else ""


def _is_older(path: Path, other: Path) -> bool:
    return other.exists() and path.stat().st_mtime < other.stat().st_mtime


def _function(verb: str) -> Callable[[Any, Progress], Summary]:
    function: Callable[[Any, Progress], Summary] = getattr(import_module(_FUNCTIONS[verb]), verb)
    return function
