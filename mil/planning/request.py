"""What is to be planned: of a cohort's file, or of slides and a few options; and what of it is done already."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from features.extraction.options import ExtractOptions
from mil.planning.options import PlanOptions
from mil.training.options import TrainOptions
from wsi.cohort.manifest import load_manifest
from wsi.cohort.slides import Job, find_jobs
from wsi.options import shared
from wsi.tiling.options import TileOptions
from wsi.tiling.plan import store_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """One encoder over the cohort."""

    options: ExtractOptions
    waiting: frozenset[str] | None
    """Image ids; None: all."""
    done: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One experiment."""

    name: str
    encoder: str
    options: TrainOptions
    models_count: bool
    """Whether its models are its items, as of `gigamil train`, or it is one item of several, as of `gigamil run`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked."""

    folder: Path | None
    """Where the estimate is kept."""
    tile: TileOptions
    jobs: tuple[Job, ...]
    """The slides that have no store."""
    stores: Mapping[str, Path]
    """Those that are there, by image id."""
    extractions: tuple[Extraction, ...] = ()
    trainings: tuple[Training, ...] = ()
    trainings_done: int = 0
    labelled: frozenset[str] | None = None
    """Image ids that are trained on; None: all."""

    @property
    def place(self) -> Path:
        """Where things are, or will be, written."""
        return self.folder or self.tile.out


def request_of(options: PlanOptions) -> Request:
    """Return what is to be planned.

    Raises
    ------
    RequestError
        The cohort's file is wrong, or there are no slides.
    """
    return _of_cohort(options) if options.cohort is not None else _of_slides(options)


def _of_cohort(options: PlanOptions) -> Request:
    from mil.pipeline.cohort.cohort_file import read_cohort_file
    from mil.pipeline.cohort.slides import cohort_slides
    from mil.pipeline.stages import states

    assert options.cohort is not None
    file = read_cohort_file(options.cohort)
    state = {own.stage: own for own in states(file)}
    jobs = cohort_slides(file)
    waiting = {name: job for name, job in jobs.items() if name in state["tile"].waiting}
    tile = file.tile if options.workers is None else replace(file.tile, workers=options.workers)
    several = len(file.extract) > 1
    extractions = []
    for own in file.extract:
        found = state[f"extract {own.joined}" if several else "extract"]
        extractions.append(Extraction(options=own, waiting=frozenset(found.waiting), done=len(found.done)))
    left = [own for own in file.experiments if own.name in state["train"].waiting]
    return Request(
        folder=file.folder,
        tile=tile,
        jobs=tuple(waiting.values()),
        stores={name: store_path(file.stores, name) for name in state["tile"].done},
        extractions=tuple(extractions),
        trainings=tuple(
            Training(name=own.name, encoder=own.encoder, options=own.options, models_count=False) for own in left
        ),
        trainings_done=len(file.experiments) - len(left),
        labelled=_labelled(file.manifest),
    )


def _labelled(manifest: Path) -> frozenset[str]:
    rows = load_manifest(manifest)
    known = [row.image_id for row in rows if (row.label, row.value, row.time) != (None, None, None)]
    return frozenset(known or (row.image_id for row in rows))


def _of_slides(options: PlanOptions) -> Request:
    folder = options.folder
    tile = TileOptions(slides=options.what, out=(folder or Path()) / "stores", **shared(TileOptions, options))
    jobs = find_jobs(tile.slides, tile.manifest)
    there = {job.image_id: store_path(tile.out, job.image_id) for job in jobs} if folder else {}
    there = {name: path for name, path in there.items() if path.exists()}
    extractions: tuple[Extraction, ...] = ()
    if options.encoder:
        extract = ExtractOptions(stores=(tile.out,), out=(folder or Path()) / "bags", **shared(ExtractOptions, options))
        ids = {job.image_id for job in jobs}
        left = frozenset(name for name in ids if not (folder and (extract.out / f"{name}.h5").exists()))
        extractions = (Extraction(options=extract, waiting=left, done=len(ids) - len(left)),)
    return Request(
        folder=folder,
        tile=tile,
        jobs=tuple(job for job in jobs if job.image_id not in there),
        stores=there,
        extractions=extractions,
        trainings=_trainings(options),
        labelled=_labelled(options.manifest) if options.manifest else None,
    )


_OF_TRAINING = ("folds", "seeds", "epochs", "patience", "device", "precision", "auto", "fixed")


def _trainings(options: PlanOptions) -> tuple[Training, ...]:
    if not options.heads:
        return ()
    out = options.folder or Path()
    train = TrainOptions(
        bags=(out / "bags",),
        manifest=options.manifest or Path("MANIFEST"),
        out=out / "run",
        head=options.heads[0],
        baselines=options.heads[1:],
        **{name: getattr(options, name) for name in _OF_TRAINING},
    )
    return (Training(name=train.head, encoder=options.encoder or "texture", options=train, models_count=True),)
