"""`gigamil demo`: the whole pipeline on the sample cohort, to a report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wsi.outcome import Progress, Summary

    Stage = Callable[[Progress], Summary]


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to work in; made when missing.")] = Path("demo"),
    patients: Annotated[int, typer.Option("--patients", help="Patients of the sample cohort.")] = 60,
    size: Annotated[int, typer.Option("--size", help="Longest side of a sample slide, in pixels.")] = 8000,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="Processes; default: one per usable CPU.")
    ] = None,
) -> None:
    """Run everything on a sample cohort: slides, tiles, features, training, predictions, heat maps, report.

    A second run skips what is finished.
    """
    from cli.console import run_stage, stderr
    from wsi.cpu import usable_cpus

    jobs = workers or usable_cpus()
    steps = (_sample, _tile, _extract, _train, _predict, _heatmap)
    stderr.print("The encoder of this demo, `texture`, is handcrafted: it needs no download and learned nothing.")
    for number, step in enumerate(steps, start=1):
        stderr.print(f"[{number}/{len(steps)}] ", end="")
        run_stage(step(_Demo(out, patients, size, jobs)), json_output=False)
    first = min((out / "heatmaps").glob("*.png"))
    typer.echo(f"report:      {out / 'run' / 'report.html'}")
    typer.echo(f"predictions: {out / 'submission.csv'}")
    typer.echo(f"heat map:    {first}")


@dataclass(frozen=True, slots=True)
class _Demo:
    """Where the demo works and how large it is."""

    out: Path
    patients: int
    size: int
    workers: int


def _sample(demo: _Demo) -> "Stage":
    from sample_data.make import make_cohort
    from sample_data.plan import SampleOptions

    options = SampleOptions(
        out=demo.out / "cohort",
        patients=demo.patients,
        min_px=demo.size * 3 // 8,
        max_px=demo.size,
        workers=demo.workers,
    )
    return lambda progress: make_cohort(options, progress)


def _tile(demo: _Demo) -> "Stage":
    from wsi.tiling.tiler import TileOptions, tile

    options = TileOptions(
        slides=(demo.out / "cohort" / "slides",), out=demo.out / "stores", assume_mpp=0.5, workers=demo.workers
    )
    return lambda progress: tile(options, progress)


def _extract(demo: _Demo) -> "Stage":
    from features.extraction.extract import extract
    from features.extraction.options import ExtractOptions

    options = ExtractOptions(
        stores=(demo.out / "stores",), out=demo.out / "bags", encoder="texture", nproc=demo.workers
    )
    return lambda progress: extract(options, progress)


def _train(demo: _Demo) -> "Stage":
    from mil.train import TrainOptions, train

    options = TrainOptions(
        bags=(demo.out / "bags",),
        stores=(demo.out / "stores",),
        manifest=demo.out / "cohort" / "train.csv",
        out=demo.out / "run",
        jobs=demo.workers,
    )
    return lambda progress: train(options, progress)


def _predict(demo: _Demo) -> "Stage":
    from mil.inference.predict import PredictOptions, predict

    options = PredictOptions(
        run=demo.out / "run",
        bags=(demo.out / "bags",),
        manifest=demo.out / "cohort" / "test.csv",
        out=demo.out / "submission.csv",
    )
    return lambda progress: predict(options, progress)


def _heatmap(demo: _Demo) -> "Stage":
    from mil.inference.heatmap import HeatmapOptions, heatmap
    from wsi.cohort.manifest import load_manifest

    options = HeatmapOptions(
        run=demo.out / "run",
        bags=(demo.out / "bags",),
        stores=(demo.out / "stores",),
        out=demo.out / "heatmaps",
        image_ids=tuple(row.image_id for row in load_manifest(demo.out / "cohort" / "test.csv")),
    )
    return lambda progress: heatmap(options, progress)
