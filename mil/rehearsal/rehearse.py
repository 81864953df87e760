"""`gigamil rehearse`: a small share of a cohort, plainly (one process, fp32) and with the production settings.

Each stage under the production settings starts from what the plain one made before it: a difference belongs to the
stage that made it. What was found is written to ``rehearsal.json`` in the cohort's folder, which `gigamil run` and
`gigamil submit` read.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from features.extraction.options import ExtractOptions, folder_name
from mil.pipeline.cohort.cohort_file import CohortFile, Experiment, read_cohort_file
from mil.pipeline.rehearsed import REHEARSAL
from mil.rehearsal import compare
from mil.rehearsal.cluster import carry_out, compared, write_cohort
from mil.rehearsal.compare import Difference
from mil.rehearsal.options import Rehearsed, RehearseOptions, rehearsed_of
from mil.rehearsal.share import COLUMNS_AS_OURS, FOLDS, chosen_rows, write_share
from mil.run.folder import versions
from wsi.cohort.manifest import load_manifest, parse_columns
from wsi.errors import RequestError
from wsi.files.atomic import make_folder, write_text
from wsi.files.claim import claim
from wsi.files.documents import parse_json, read_document
from wsi.files.replace import remove
from wsi.options import stage
from wsi.pages import plural
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary

VERSION = 1
_MARK = ".gigamil-rehearsal"
PLAIN, PRODUCTION = "plain", "production"


@dataclass
class _Course:
    """A rehearsal on its way."""

    file: CohortFile
    asked: Rehearsed
    work: Path
    progress: Progress
    speed: dict[str, dict[str, float]] = field(default_factory=dict)
    """By stage: items, seconds, items per second, under the production settings."""
    outcomes: list[Outcome] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    def end(self, name: str, found: Sequence[Difference], fine: str) -> None:
        """Note how a stage compares."""
        self.differences += found
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            self.outcomes.append(Outcome(name, Status.FAILED, f"{found[0].item}: {found[0].what}{more}"))
        else:
            self.outcomes.append(Outcome(name, Status.DONE, fine))

    def time(self, name: str, items: float, unit: str, seconds: float) -> None:
        """Note the speed of the production settings."""
        each = items / seconds if seconds else 0.0
        self.speed[name] = {"items": items, "seconds": round(seconds, 3), f"{unit}_per_second": round(each, 4)}


@stage
def rehearse(options: RehearseOptions, progress: Progress | None = None) -> Summary:
    """Rehearse a cohort file; the summary has an item for each stage, which failed where the settings disagree.

    Raises
    ------
    RequestError
        The file or its [rehearse] is wrong, or the rehearsal cannot be carried out.
    """
    start, file = time.monotonic(), read_cohort_file(options.cohort)
    if options.cluster and not file.slurm:
        raise RequestError(f"{file.path}: --cluster: expected a table [slurm], found none")
    asked, work = rehearsed_of(file), file.folder / "rehearsal"
    make_folder(file.folder, "folder")
    with claim(work):
        _empty(work)
        write_text(file.folder / REHEARSAL, json.dumps(_head(file, passed=False, why="it was not finished")) + "\n")
        course = _Course(file, asked, work, progress or Silent())
        rows = chosen_rows(load_manifest(file.manifest, _columns(file)), asked)
        write_share(work / "share.csv", rows)
        _tile(course)
        for extraction in file.extract:
            _extract(course, extraction)
        experiments = rehearsed_experiments(file, asked)
        for experiment in experiments:
            _train(course, experiment)
        if options.cluster:
            _on_cluster(course, experiments)
        seconds = time.monotonic() - start
        _write(course, len({row.patient_id for row in rows}), len(rows), seconds)
        if not course.differences and not options.keep:
            remove(work, _is_ours)
    return Summary("rehearse", course.outcomes, seconds)


def rehearsed_experiments(file: CohortFile, asked: Rehearsed) -> list[Experiment]:
    """Return the first experiment of each encoder and head, by priority, as many as are rehearsed."""
    first: dict[tuple[str, str], Experiment] = {}
    for own in sorted(file.experiments, key=lambda own: -own.priority):
        first.setdefault((own.encoder, own.options.head), own)
    return list(first.values())[: asked.experiments]


def _columns(file: CohortFile) -> dict[str, str] | None:
    return None if file.tile.columns is None else parse_columns(file.tile.columns)


def _is_ours(path: Path) -> bool:
    return (path / _MARK).is_file()


def _empty(work: Path) -> None:
    """Make the folder anew: a rehearsal times the stages, and takes nothing up."""
    remove(work, _is_ours)
    make_folder(work)
    write_text(work / _MARK, "")


def _tile(course: _Course) -> None:
    from wsi.tiling.tiler import tile

    asked = replace(course.file.tile, manifest=course.work / "share.csv", columns=COLUMNS_AS_OURS, summary=None)
    plain = tile(replace(asked, out=course.work / PLAIN / "stores", workers=0, scheduler=None), course.progress)
    production = tile(replace(asked, out=course.work / PRODUCTION / "stores"), course.progress)
    done = [own for own in production.outcomes if own.status is not Status.FAILED]
    course.time("tile", len(done), "slides", production.seconds)
    found = compare.endings("tile", plain.outcomes, production.outcomes)
    found += compare.stores("tile", course.work / PLAIN / "stores", course.work / PRODUCTION / "stores")
    failed = len(plain.outcomes) - len(plain.ended(Status.DONE))
    if len(plain.outcomes) == failed:
        raise RequestError(f"no slide of the rehearsal could be tiled: {plain.outcomes[0].reason}")
    note = f"; {failed} fail under either" if failed and not found else ""
    course.end("tile", found, f"{plural(len(done), 'slide', verb='are')} equal to every pixel of their tiles{note}")


def _extract(course: _Course, extraction: ExtractOptions) -> None:
    from features.extraction.extract import extract

    name, folder = f"extract {extraction.joined}", folder_name(extraction.joined)
    asked = replace(extraction, stores=(course.work / PLAIN / "stores",))
    out, other = (course.work / way / "bags" / folder for way in (PLAIN, PRODUCTION))
    plain = extract(
        replace(asked, out=out, precision="fp32", nproc=1, compiled=False, bag_dtype="float32"), course.progress
    )
    production = extract(replace(asked, out=other), course.progress)
    if not plain.ended(Status.DONE):
        raise RequestError(f"{name}: no slide of the rehearsal got features in fp32: {plain.outcomes[0].reason}")
    tiles = sum(float(own.facts.get("tiles", 0)) for own in production.outcomes if own.status is Status.DONE)
    course.time(name, tiles, "tiles", production.seconds)
    found, seen = compare.bags(name, out, other, course.asked)
    found = [*compare.endings(name, plain.outcomes, production.outcomes), *found]
    fine = f"features differ by {seen['features']:.2%} at most, the least cosine is {seen['cosine']:.5f}"
    course.end(name, found, fine)


def _train(course: _Course, experiment: Experiment) -> None:
    """Train on the plain bags under both settings; ask the plain models about both kinds of bags."""
    from mil.train import train

    name, bags = f"train {experiment.name}", _bags(course, experiment, PLAIN)
    asked = replace(
        experiment.options,
        bags=bags,
        stores=(course.work / PLAIN / "stores",),
        manifest=course.work / "share.csv",
        columns=COLUMNS_AS_OURS,
        repeats=1,
        other_label="",
        track=(),
        **_small(course, experiment),
    )
    runs = {way: course.work / way / "runs" / experiment.name for way in (PLAIN, PRODUCTION)}
    train(replace(asked, out=runs[PLAIN], precision="fp32", workers=1, nproc=1), course.progress)
    began = time.monotonic()
    train(replace(asked, out=runs[PRODUCTION]), course.progress)
    course.time(name, 1, "runs", time.monotonic() - began)
    plain, production = (compare.told_of(run / "oof.csv") for run in runs.values())
    found, largest = compare.scores(name, plain, production, course.asked.scores)
    course.end(name, found, f"what is told of slides differs by {largest:.4f} at most")
    _predict(course, experiment, runs[PLAIN])


def _small(course: _Course, experiment: Experiment) -> dict[str, Any]:
    """Return what a training of the share has in place of the experiment's options, by field."""
    return {
        "folds": FOLDS,
        "seeds": 1,
        "epochs": min(experiment.options.epochs, course.asked.epochs),
        "warmup_epochs": min(experiment.options.warmup_epochs, 1),
        "split": "patients",
        "splits": None,
        "teacher": None,
        "other": None,
    }


def _on_cluster(course: _Course, experiments: Sequence[Experiment]) -> None:
    folder, train = course.work / "cluster", _small(course, experiments[0]) | {"other_label": None, "track": None}
    path = write_cohort(course.file, course.work / "share.csv", folder, experiments, train)
    made = carry_out(path, course.progress)
    for found in compared(made, course.work / PLAIN, folder / "here", course.asked, course.progress):
        course.end(*found)


def _bags(course: _Course, experiment: Experiment, way: str) -> tuple[Path, ...]:
    return tuple(course.work / way / "bags" / folder_name(encoder) for encoder in experiment.encoders)


def _predict(course: _Course, experiment: Experiment, run: Path) -> None:
    from mil.rehearsal.answers import answers

    name = f"predict {experiment.name}"
    plain, production = (answers(run, _bags(course, experiment, way)) for way in (PLAIN, PRODUCTION))
    found, largest = compare.scores(name, plain, production, course.asked.scores)
    course.end(name, found, f"the same models tell the same of both kinds of bags, within {largest:.4f}, in one order")


def _head(file: CohortFile, *, passed: bool, why: str) -> dict[str, Any]:
    """Return what `mil.pipeline.rehearsed` reads."""
    own = file.content_hash
    told = {"version": VERSION, "of": own, "content_hash": own, "passed": passed}
    return told if passed else {**told, "why": why}


def _write(course: _Course, patients: int, slides: int, seconds: float) -> None:
    """Write what was found."""
    file, why = course.file, str(course.differences[0]) if course.differences else ""
    content: dict[str, Any] = {
        **_head(file, passed=not why, why=why),
        "differences": [own.as_dict() for own in course.differences],
        "agreed": {own.item_id: own.reason for own in course.outcomes if own.status is not Status.FAILED},
        "tolerances": course.asked.as_dict(),
        "patients": patients,
        "slides": slides,
        "speed": course.speed,
        "seconds": round(seconds, 1),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    write_text(file.folder / REHEARSAL, json.dumps(content, indent=1, allow_nan=False) + "\n")


def ending_of_rehearsal(cohort: Path, summary: Summary) -> dict[str, Any]:
    """Return what is told at the end: the speed of the production settings, and the next command."""
    file = read_cohort_file(cohort)
    found = parse_json(read_document(file.folder / REHEARSAL, RequestError))
    lines = [f"{name}: {_speed(own)} under the production settings" for name, own in found["speed"].items()]
    if file.slurm and not any(own.item_id.startswith("cluster ") for own in summary.outcomes):
        lines.append("the cluster of [slurm] was not asked: --cluster submits the share, too")
    if summary.exit_code:
        lines.append(f"what was made lies in {file.folder / 'rehearsal'}")
    lines.append(f"next: gigamil run {cohort}" if not summary.exit_code else f"all of it: {file.folder / REHEARSAL}")
    return {"rehearsal": found, "lines": lines}


def _speed(own: Mapping[str, float]) -> str:
    rate = next(key for key in own if key.endswith("_per_second"))
    return f"{own[rate]:.3g} {rate.removesuffix('_per_second')}/s ({own['items']:g} in {own['seconds']:.1f} s)"
