"""`gigamil demo`: the whole pipeline on the sample cohort, to a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from sample_data.options import SampleOptions, Size
from wsi.option_groups import Claims
from wsi.options import Option, check, shared, stage


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Size, Claims):
    """Where the demo works and how large it is."""

    out: Annotated[Path, Option(short="-o", remote="local")] = Path("demo")
    """Folder to work in; made when missing."""

    def __post_init__(self) -> None:
        check(self)


@stage
def demo(options: DemoOptions, json: bool) -> int:
    """Run verb after verb; return the exit code of the first that fails, or 0."""
    import click

    from cli.commands import VERBS
    from cli.console import run_stage, stderr

    steps = _steps(options)
    if missing := _missing_front_end():
        stderr.print(f"No slides to zoom into: {missing}", markup=False)
        del steps["page"], steps["report"]
    stderr.print("The encoder of this demo, `texture`, is handcrafted: it needs no download and learned nothing.")
    for number, verb in enumerate(steps, start=1):
        stderr.print(f"[{number}/{len(steps)}] ", end="")
        code = run_stage(VERBS[verb], steps[verb](), json_output=json, ends=False)
        if code:
            return code
    first = min((options.out / "heatmaps").glob("*.png"))
    click.echo(f"predictions: {options.out / 'submission.csv'}")
    click.echo(f"heat map:    {first}")
    click.echo(f"report:      {options.out / 'run' / 'report.html'}")
    if "page" in steps:
        click.echo(f"slides:      {options.out / 'run' / 'pages' / 'index.html'}")
        click.echo(f"Double-click that page. To draw and judge, and to see every slide: gigamil view {options.out}")
    return 0


def _missing_front_end() -> str:
    """Return why slides cannot be shown in a browser, or nothing."""
    from wsi.errors import RequestError
    from wsi.viewing.frontend import openseadragon

    try:
        openseadragon()
    except RequestError as error:
        return str(error)
    return ""


def _steps(options: DemoOptions) -> dict[str, Any]:
    """Return the options of each verb, to be made when those before it are done."""
    from features.extraction.options import ExtractOptions
    from mil.heatmaps.options import HeatmapOptions
    from mil.inference.options import PredictOptions
    from mil.report.options import ReportOptions
    from mil.training.options import TrainOptions
    from mil.viewing.options import PageOptions
    from wsi.cohort.manifest import load_manifest
    from wsi.machine.cpu import usable_cpus
    from wsi.tiling.options import TileOptions

    at, workers = options.out, options.workers or usable_cpus()
    cohort, stores, bags, run = at / "cohort", (at / "stores",), (at / "bags",), at / "run"
    return {
        "sample": lambda: SampleOptions(**shared(SampleOptions, options) | {"out": cohort}),
        "tile": lambda: TileOptions(
            slides=(cohort / "slides",), out=stores[0], assume_mpp=0.5, workers=options.workers
        ),
        "extract": lambda: ExtractOptions(stores=stores, out=bags[0], encoder="texture", nproc=workers),
        "train": lambda: TrainOptions(
            bags=bags,
            stores=stores,
            manifest=cohort / "train.csv",
            out=run,
            workers=workers,
            folds=folds_for(cohort / "train.csv"),
        ),
        "predict": lambda: PredictOptions(
            run=(run,), items=bags, manifest=cohort / "test.csv", out=at / "submission.csv"
        ),
        "heatmap": lambda: HeatmapOptions(
            run=run,
            bags=bags,
            stores=stores,
            out=at / "heatmaps",
            image_ids=tuple(row.image_id for row in load_manifest(cohort / "test.csv")),
        ),
        "page": lambda: PageOptions(
            items=(run, *stores, *bags), image_ids=_worth_a_look(run, cohort / "test.csv"), workers=0
        ),
        "report": lambda: ReportOptions(run=run),  # once more: it links the pages
    }


def _worth_a_look(run: Path, test: Path) -> tuple[str, ...]:
    """Return the slides of most interest, and those that were predicted: pages of all would take a while."""
    from mil.evaluation.examples import of_interest
    from mil.run.checks import checked_table
    from mil.run.folder import RunFolder
    from wsi.cohort.manifest import load_manifest

    rows = [row for row in checked_table(run / "oof.csv", ("level",)) if row["level"] == "slide"]
    folder, known = RunFolder(run), {row["image_id"] for row in rows}
    tested = [row.image_id for row in load_manifest(test)]
    return tuple(dict.fromkeys([*of_interest(folder.predicts, rows, folder.classes, known), *tested]))


def folds_for(manifest: Path) -> int:
    """Return the usual number of folds, or as many as a small cohort has patients of each class."""
    from collections import Counter

    from mil.training.options import TrainOptions
    from wsi.cohort.manifest import load_manifest

    labels = {row.patient_id: row.label for row in load_manifest(manifest)}
    return min(TrainOptions.folds, *Counter(labels.values()).values())
