"""What verbs end with: the score and the next command, as JSON values, and under ``lines`` for a person."""

from typing import Any

from features.extraction.options import ExtractOptions
from features.finetune.options import FinetuneOptions
from features.pretrain.options import PretrainOptions
from mil.embedding.options import EmbedOptions
from mil.external.options import EvaluateOptions
from mil.rehearsal.options import RehearseOptions
from mil.report.options import CompareOptions
from mil.tiles.options import ClassifyTilesOptions
from mil.training.options import TrainOptions
from mil.training.tune_options import TuneOptions
from mil.viewing.options import PageOptions
from wsi.progress.outcome import Summary

Ending = dict[str, Any]


def extract(options: ExtractOptions, summary: Summary) -> Ending:
    """Return the bags and the command that trains on them."""
    return _next(options, summary, f"gigamil train {options.out} -m MANIFEST -o RUN")


def finetune(options: FinetuneOptions, summary: Summary) -> Ending:
    """Return the weights and the command that uses them."""
    command = f"gigamil extract STORES --encoder {options.encoder} --weights {options.out} -o BAGS"
    return _next(options, summary, command)


def pretrain(options: PretrainOptions, summary: Summary) -> Ending:
    """Return the weights and the command that uses them."""
    command = f"gigamil extract STORES --encoder {options.encoder} --weights {options.out} -o BAGS"
    return _next(options, summary, command)


def embed(options: EmbedOptions, summary: Summary) -> Ending:
    """Return the bags and the command that trains on them."""
    return _next(options, summary, f"gigamil train {options.out} -m MANIFEST --head linear,mean_pool -o RUN")


def page(options: PageOptions, summary: Summary) -> Ending:
    """Return the page to open."""
    from mil.viewing.page import out_of

    index = out_of(options) / "index.html"
    return {} if options.dry_run else {"index": str(index), "lines": [f"open (a double click does it): {index}"]}


def rehearse(options: RehearseOptions, summary: Summary) -> Ending:
    """Return how fast each stage was, and what comes next."""
    from mil.rehearsal.rehearse import ending_of_rehearsal

    return ending_of_rehearsal(options.cohort, summary)


def train(options: TrainOptions, summary: Summary) -> Ending:
    """Return what the run, or its repeats, tell."""
    from mil.report.spread.told_apart import verdict_of_folder
    from mil.run.ending import ending_of_repeats, ending_of_run

    if (options.out / "repeats.json").exists():  # --auto may have chosen to
        return _with_lines({**ending_of_repeats(options.out), "verdict": verdict_of_folder(options.out)})
    return _with_lines(ending_of_run(options.out))


def compare(options: CompareOptions, summary: Summary) -> Ending:
    """Return what the comparison says."""
    import json

    told = json.loads((options.out / "compare.json").read_text("utf-8"))
    verdict = told.get("verdict", "")  # an earlier version's: none
    page = str(options.out / "compare.html")
    return {"verdict": verdict, "page": page, "lines": [*filter(None, [verdict]), f"page: {page}"]}


def evaluate(options: EvaluateOptions, summary: Summary) -> Ending:
    """Return what the evaluation tells."""
    from mil.run.ending import ending_of_evaluation

    return _with_lines(ending_of_evaluation(options.out))


def tune(options: TuneOptions, summary: Summary) -> Ending:
    """Return what the search tells."""
    from mil.run.ending import ending_of_search

    return _with_lines(ending_of_search(options.out))


def classify_tiles(options: ClassifyTilesOptions, summary: Summary) -> Ending:
    """Return how well the tiles of patients that a model had not seen were told apart."""
    import json

    path = options.out / "metrics.json"
    classes = json.loads(path.read_text()).get("classes", {}) if path.is_file() else {}
    return {"classes": classes, "lines": [_class_line(name, own) for name, own in classes.items()]} if classes else {}


def _class_line(name: str, own: dict[str, Any]) -> str:
    of = f"{own['tiles']} tiles of {own['patients']} patients"
    if own["auc"] is None:
        return f"{name}: {of}; no fold holds it and another class"
    return f"{name}: AUC {own['auc']:.3f} on unseen patients ({own['lowest']:.3f} to {own['highest']:.3f}); {of}"


def _next(
    options: ExtractOptions | FinetuneOptions | PretrainOptions | EmbedOptions, summary: Summary, command: str
) -> Ending:
    told = {"out": str(options.out), "next": command, "lines": [f"next: {command}"]}
    return told if summary.exit_code == 0 else {}


def _with_lines(ending: Ending) -> Ending:
    from mil.run.ending import lines_of

    return {**ending, "lines": lines_of(ending)}
