"""New slides to bags, as the bags of a run were made: tiled and encoded by the recipe that the run has kept."""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from features.encoders.device import resolve_device
from features.encoders.registry import build_encoder
from features.encoders.spec import WeightsChoice
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions, options_of
from mil.inference.deadline import Channel, work_here, work_until
from mil.inference.options import SlideOptions
from mil.run.folder import RunFolder
from wsi.cohort.fingerprint import slide_bytes
from wsi.cohort.slides import Job
from wsi.errors import RecipeMismatchError, RequestError
from wsi.files.atomic import make_folder, write_text
from wsi.files.replace import remove
from wsi.machine.cpu import usable_cpus
from wsi.progress.outcome import Outcome, Progress, Status, Summary
from wsi.recipe import Recipe, differences
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

_LEFT_FOR_MODELS = 0.1
"""Share of a time budget that is kept for the models."""
_MOST_FOR_MODELS = 60.0
"""Seconds that are kept for them, at most."""


@dataclass(frozen=True, slots=True)
class SlideBags:
    """What became of the slides."""

    bags: tuple[Path, ...]
    """The bags that were made, or found to be what would be made."""
    failures: dict[str, str]
    """Image id -> why there is no bag."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The time that a prediction may take."""

    minutes: float
    started: float
    """By `time.monotonic`."""

    @property
    def deadline_of_bags(self) -> float:
        """Return when the bags must be done, by `time.monotonic`: the models need some of the time."""
        seconds = self.minutes * 60
        return self.started + seconds - min(_MOST_FOR_MODELS, seconds * _LEFT_FOR_MODELS)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to do, for whichever process does it."""

    options: SlideOptions
    tiling: dict[str, Any]
    extraction: dict[str, Any]
    """Options of `ExtractOptions`, as the run's bags were made."""
    work: Path
    overwrite: bool
    chunks: tuple[tuple[Job, ...], ...]


def make_bags(
    run: RunFolder,
    options: SlideOptions,
    jobs: Sequence[Job],
    work: Path,
    budget: Budget | None,
    progress: Progress,
    *,
    overwrite: bool = False,
) -> SlideBags:
    """Tile and encode the slides into the work folder; with a budget, those that are done in time.

    What lies in the folder already, made by the same recipe from the same slide, is used. Small slides come first under
    a budget.

    Raises
    ------
    RequestError
        The run does not know how its bags were made, or the encoder's weights are not those of the run.
    RecipeMismatchError
        A store or bag in the folder was made otherwise, or from another slide, and ``overwrite`` is not given.
    """
    recipe = _recipe(run)
    ended = {job.image_id: job.problem for job in jobs if job.problem}
    sound = [job for job in jobs if not job.problem]
    chunks = ((tuple(sound),) if sound else ()) if budget is None else _chunks(sound, options)
    plan = _Plan(options, _tiling(recipe), options_of(recipe), work, overwrite, chunks)
    _check_encoder(run, plan, recipe)
    make_folder(work, "--work")
    do = partial(_make, plan)
    found = work_here(do, progress) if budget is None else work_until(do, budget.deadline_of_bags, progress)[0]
    for part in found:
        ended |= part
    late = f"not done within the time budget of {budget.minutes:g} min" if budget else "not done"
    failures = {job.image_id: why for job in jobs if (why := ended.get(job.image_id, late))}
    return SlideBags(tuple(_bag(work, job) for job in sound if job.image_id not in failures), failures)


def _recipe(run: RunFolder) -> Recipe:
    """Return the recipe of the run's bags."""
    recipe: Recipe = json.loads(run.config["about"]["bag_recipe"])
    if "fusion" in recipe:
        raise RequestError(f"{run.path} fuses bags of several encoders: make those, and give them in place of slides")
    if run.slide_encoder:
        raise RequestError(
            f"{run.path} was trained on one vector a slide ({run.slide_encoder}): extract the new slides, embed "
            "them as those were (gigamil embed), and give the bags in place of slides"
        )
    if not {"tiling", "encoder", "precision"} <= set(recipe):
        raise RequestError(
            f"{run.path}: its bags were made by another program, whose recipe is not known: make the bags of the new "
            "slides as those were, and give them in place of slides"
        )
    if recipe["tiling"].get("roi") is not None:
        raise RequestError(
            f"{run.path}: its slides were tiled within regions drawn by hand: tile the new slides with theirs "
            "(gigamil tile --roi), extract, and give the bags in place of slides"
        )
    return recipe


def _tiling(recipe: Recipe) -> dict[str, Any]:
    """Return the tiling options that the recipe tells."""
    known = {field.name for field in fields(TileOptions)} - {"roi", "reader"}
    options = {name: value for name, value in recipe["tiling"].items() if name in known}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _check_encoder(run: RunFolder, plan: _Plan, recipe: Recipe) -> None:
    """Raise `RequestError` unless the encoder can be had and its weights are those of the run."""
    name = plan.extraction["encoder"]
    weights = WeightsChoice(plan.options.weights, plan.options.random_weights)
    told = json.loads(run.config["about"]["encoder"])
    if weights == WeightsChoice() and "lineage" in told:  # before published ones are fetched in vain
        raise RequestError(
            f"{run.path}: its bags were made by {name} with weights that were trained by gigamil (sha256 "
            f"{told['weights_sha256'][:12]}...): give their file by --weights"
        )
    encoder = build_encoder(name, weights, crop=plan.extraction["crop"])
    lines = differences(encoder.spec.recipe(), recipe["encoder"])
    if lines:
        raise RequestError(
            f"{run.path}: its bags were made by another {name} ({'; '.join(lines)}): give the same weights, by "
            "--weights or --random-weights as `gigamil extract` had them"
        )


def _chunks(jobs: Sequence[Job], options: SlideOptions) -> tuple[tuple[Job, ...], ...]:
    """Return the slides a few at a time, small ones first, so that finished bags come steadily."""
    size = max(1, usable_cpus() if options.workers is None else options.workers)
    order = sorted(jobs, key=lambda job: (slide_bytes(job.path) if job.path.exists() else 0, job.image_id))
    return tuple(tuple(order[first : first + size]) for first in range(0, len(order), size))


def _make(plan: _Plan, sink: Channel) -> None:
    for number, chunk in enumerate(plan.chunks):
        failures = _make_chunk(plan, number, chunk, sink)
        sink.found({job.image_id: failures.get(job.image_id, "") for job in chunk})


def _make_chunk(plan: _Plan, number: int, jobs: Sequence[Job], progress: Progress) -> dict[str, str]:
    """Tile and encode some slides; what is there and was made alike is kept, by the rules of tiling and extraction."""
    stores, options = plan.work / "stores", plan.options
    failures = _tiled(plan, number, jobs, progress)
    made = tuple(stores / f"{job.image_id}.zarr" for job in jobs if job.image_id not in failures)
    if not made:
        return failures
    extracted = extract(
        ExtractOptions(
            stores=made,
            out=plan.work / "bags",
            off_recipe=True,  # the run was trained on tiles of this um/px
            weights=options.weights,
            random_weights=options.random_weights,
            device=str(resolve_device(options.device)),
            overwrite=plan.overwrite,
            **plan.extraction,
        ),
        progress,
    )
    return failures | _failures(extracted)


def _tiled(plan: _Plan, number: int, jobs: Sequence[Job], progress: Progress) -> dict[str, str]:
    """Tile some slides; return what failed. A store of other settings is made anew only on request."""
    manifest, options = plan.work / f"chunk{number}.csv", plan.options
    try:
        request = TileOptions(
            slides=(),
            out=plan.work / "stores",
            manifest=manifest,
            workers=options.workers,
            **plan.tiling | {"assume_mpp": options.assume_mpp, "on_damage": options.on_damage},
        )
    except TypeError as error:
        raise RequestError(f"the recipe of the run's bags holds a value of another kind ({error})") from None
    write_text(manifest, _manifest(jobs))
    try:
        outcomes = list(tile(request, progress).outcomes)
        other = [outcome for outcome in outcomes if outcome.facts.get("mismatch")]
        if other and not plan.overwrite:
            raise RecipeMismatchError(other[0].reason)
    except RecipeMismatchError as error:
        if not plan.overwrite:
            raise
        other, outcomes = [Outcome(job.image_id, Status.FAILED, str(error)) for job in jobs], []
    if other:
        again = {outcome.item_id for outcome in other}
        write_text(manifest, _manifest([job for job in jobs if job.image_id in again]))
        anew = tile(replace(request, overwrite=True), progress).outcomes
        outcomes = [outcome for outcome in outcomes if outcome.item_id not in again] + list(anew)
    remove(manifest)
    return _failures(Summary("tile", outcomes, 0.0))


def _failures(summary: Summary) -> dict[str, str]:
    return {outcome.item_id: f"{summary.stage}: {outcome.reason}" for outcome in summary.ended(Status.FAILED)}


def _bag(work: Path, job: Job) -> Path:
    return work / "bags" / f"{job.image_id}.h5"


def _manifest(jobs: Sequence[Job]) -> str:
    rows = [[job.image_id, os.fspath(job.path), "" if job.mpp is None else repr(job.mpp)] for job in jobs]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([["image_id", "path", "mpp"], *rows])
    return text.getvalue()
