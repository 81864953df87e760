"""`gigamil predict`: a run and new slides or bags in, one row of probabilities per patient out.

The table has ``patient_id``, then the classes. It is always complete: every patient of the manifest has a row, rows sum
to 1, and who could not be judged stands at equal probabilities and is named. Runs with another target give a column for
each label (probabilities, each on its own), the value, or the log risk; who could not be judged stands at what is best
said of anybody.
"""

import csv
import hashlib
import io
import json
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.bag import find_bags
from mil.cohort import BagSet, Cohort, cohort_digest, scan_bags
from mil.ensemble import check_bags_fit, load_ensemble, scales_of
from mil.fusion import check_made_alike, open_fused, scan
from mil.leaks import notes_of_training, pictures
from mil.metrics import Floats
from mil.options import TrainOptions, resolve
from mil.run import RunFolder
from mil.scores import patient_logits
from mil.slides import Budget, SlideOptions, make_bags
from mil.targets import told_by
from wsi.atomic import make_folder, write_text
from wsi.claim import claim
from wsi.cohort import find_jobs
from wsi.errors import RequestError
from wsi.manifest import ManifestRow, load_manifest
from wsi.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import Recipe, refuse_other_recipe

_CHUNK = 64
"""Bags scored between two steps of the progress bar."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of `predict`."""

    run: Path
    bags: tuple[Path, ...] = ()
    slides: SlideOptions | None = None
    """In place of bags: slide files, tiled and encoded as the run's were."""
    work: Path | None = None
    """Folder in which stores and bags of slides are kept; None: a temporary one beside ``out``."""
    time_budget_min: float | None = None
    """Minutes within which slides are to be done; those that are not stand at equal probabilities."""
    out: Path
    """The table to write; ``<name>.json`` beside it says how it was made and what was missing."""
    manifest: Path | None = None
    """The slides and patients; without it, the slides given, a patient being the id without its ``_<n>``."""
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if bool(self.bags) == (self.slides is not None):
            raise RequestError("expected either bags or slides: one or more files or folders of one kind")
        if self.slides is None and (self.work is not None or self.time_budget_min is not None):
            raise RequestError("--work and --time-budget are for slides: bags need neither")
        if self.time_budget_min is not None and not self.time_budget_min > 0:
            raise RequestError(f"--time-budget {self.time_budget_min}: expected minutes above 0")
        if self.out.suffix != ".csv":
            raise RequestError(f"--out {self.out}: expected a name that ends in .csv")

    def recipe(self, run: RunFolder, rows: Sequence[ManifestRow], sets: Sequence[BagSet]) -> Recipe:
        """Return what shapes the table."""
        first, *others = [cohort_digest(rows, bags.headers) for bags in sets]
        fused = {"other_encoders": others} if others else {}
        return {"run": run.config["recipe_hash"], "slides": len(rows), "cohort": first, **fused}


def predict(options: PredictOptions, progress: Progress | None = None) -> Summary:
    """Predict every patient of the manifest: mean logits over all models and the patient's slides, calibrated.

    A patient without any usable bag gets equal probabilities. Failed slides are named in the summary and in the JSON
    file beside the table.

    Raises
    ------
    RequestError
        The run is not finished, or the bags were not made as the run's bags were.
    RecipeMismatchError
        The table exists and was made from something else, and ``overwrite`` is not given.
    """
    start, progress = time.monotonic(), progress or Silent()
    run = RunFolder(options.run)
    if run.classes:
        run.read_json("calibration.json")  # an unfinished run is refused before the work
    with claim(options.out), ExitStack() as held:
        if options.slides is None:
            rows, sets = _given(run, options)
        else:
            _check_not_of_another_run(run, options)
            rows, bags = _made(run, options, options.slides, start, held, progress)
            sets = (bags,)
        outcomes = _write(run, options, rows, sets, progress)
    return Summary("predict", outcomes, time.monotonic() - start)


def _given(run: RunFolder, options: PredictOptions) -> tuple[list[ManifestRow], tuple[BagSet, ...]]:
    """Return the slides to predict, and the bags of each encoder."""
    if options.manifest is not None:
        rows = _unlabelled(options.manifest)
    else:
        bags = options.bags if run.fusion == "none" else options.bags[:1]
        rows = [_row(path.stem) for path in find_bags(bags)]
    sets = scan(options.bags, [row.image_id for row in rows], run.fusion)
    if run.fusion == "none":
        check_bags_fit(run, list(sets[0].headers.values()))
    else:
        recipe = json.loads(run.config["about"]["bag_recipe"])
        check_made_alike(sets, run.fusion, recipe, f"the run {run.path}", scales_of(run))
    return rows, sets


def _made(
    run: RunFolder,
    options: PredictOptions,
    slides: SlideOptions,
    start: float,
    held: ExitStack,
    progress: Progress,
) -> tuple[list[ManifestRow], BagSet]:
    """Return the slides to predict, and their bags, made here."""
    jobs = find_jobs(slides.slides, options.manifest)
    rows = _unlabelled(options.manifest) if options.manifest else [_row(job.image_id) for job in jobs]
    work = options.work
    if work is None:
        make_folder(options.out.parent)
        work = Path(held.enter_context(TemporaryDirectory(prefix=".gigamil-", dir=options.out.parent)))
    budget = None if options.time_budget_min is None else Budget(options.time_budget_min, start)
    made = make_bags(run, slides, jobs, work, budget, progress)
    wanted = [row.image_id for row in rows]
    dim = int(run.recipe["bags"]["dim"])
    bags = BagSet({}, {}, "", {}, dim)
    if any((made.bags / f"{image_id}.h5").exists() for image_id in wanted):
        bags = scan_bags([made.bags], wanted)
        check_bags_fit(run, list(bags.headers.values()))
    return rows, replace(bags, failures=bags.failures | made.failures, dim=dim)


def _check_not_of_another_run(run: RunFolder, options: PredictOptions) -> None:
    """Refuse before the work, not after it, where the table is there and must not be replaced."""
    if options.out.exists() and not options.overwrite:
        found = _sidecar(options)["recipe"].get("run")
        refuse_other_recipe(options.out, {"run": found}, {"run": run.config["recipe_hash"]})


def _write(
    run: RunFolder, options: PredictOptions, rows: Sequence[ManifestRow], sets: Sequence[BagSet], progress: Progress
) -> list[Outcome]:
    """Predict and write the table and its sidecar, unless they are there."""
    recipe = options.recipe(run, rows, sets)
    earlier = _earlier(options, recipe)
    if earlier is not None:
        outcome = Outcome(str(options.out), Status.SKIPPED, "the table is there, made from the same run and bags")
        return [outcome, *_failed(earlier["failures"])]
    cohorts = open_fused(rows, sets, run.fusion, run.classes)
    cohort = cohorts[0]
    if run.recipe.get("aggregate") == "bag":
        cohorts = tuple(own.by_patient() for own in cohorts)
    patients, probs, unanswered = _probabilities(run, options, cohorts, progress)
    cohort = _without(cohort, unanswered)
    notes = _notes(run, cohort, patients, pictures(sets[0].headers))
    for note in notes:
        progress.note(note)
    table = _table(patients, run.classes, probs)
    about = {"recipe": recipe, "table_sha256": _sha256(table.encode()), "failures": cohort.failures, "notes": notes}
    # the sidecar first: without its table it counts for nothing, a table without it could not be taken up
    write_text(options.out.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    write_text(options.out, table)
    done = Outcome(str(options.out), Status.DONE, facts={"patients": len(patients), "notes": notes})
    return [done, *_failed(cohort.failures)]


def _unlabelled(manifest: Path) -> list[ManifestRow]:
    """Return the slides of the manifest; labels play no part and are dropped."""
    return [replace(row, label=None) for row in load_manifest(manifest)]


def _row(image_id: str) -> ManifestRow:
    return ManifestRow(image_id, re.sub(r"_\d+$", "", image_id))


def _earlier(options: PredictOptions, recipe: Recipe) -> dict[str, Any] | None:
    """Return the sidecar of an earlier table of the same recipe; None where the table is to be written."""
    if not options.out.exists():
        return None
    found = _sidecar(options)
    if found["recipe"] == recipe and found.get("table_sha256") in (None, _sha256(options.out.read_bytes())):
        return found
    if not options.overwrite:
        refuse_other_recipe(options.out, found["recipe"], recipe)
        raise RequestError(f"{options.out} is not the table that was written: choose another --out, or --overwrite")
    return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sidecar(options: PredictOptions) -> dict[str, Any]:
    found: dict[str, Any] = {"recipe": {}}
    with suppress(OSError, ValueError):
        found = json.loads(options.out.with_suffix(".json").read_text())
    return found


def _probabilities(
    run: RunFolder, options: PredictOptions, cohorts: Sequence[Cohort], progress: Progress
) -> tuple[list[str], Floats, set[str]]:
    """Return the patients, what is told of each, and the slides (or patients, as one bag) that got no finite answer."""
    cohort = cohorts[0]
    ensemble = load_ensemble(run, _device(options.device))
    logits = np.zeros((len(cohort), len(cohort.classes)))
    progress.begin("predict", len(cohort), "slides")
    for first in range(0, len(cohort), _CHUNK):
        chunk, *others = [own.bags[first : first + _CHUNK] for own in cohorts]
        logits[first : first + len(chunk)] = ensemble.logits(chunk, *others)
        progress.advance(len(chunk))
    progress.end()
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(logits).all(axis=1))
    if cohort.usable_N.any() and not finite[cohort.usable_N].any():
        raise RequestError(f"{run.path}: its models answer no slide with finite numbers: train the run again")
    unanswered = {own for own, fine in zip(cohort.image_ids, finite, strict=True) if not fine}
    cohort = _without(cohort, unanswered)
    how = str(run.recipe.get("aggregate", "mean"))
    patients, logits_PC = patient_logits(logits, cohort.patient_ids, cohort.usable_N, how)
    usable = {patient for patient, fine in zip(cohort.patient_ids, cohort.usable_N, strict=True) if fine}
    known_P = np.array([[patient in usable] for patient in patients], bool).reshape(-1, 1)
    if run.target == "classes":
        equal = np.full(logits_PC.shape, 1 / logits_PC.shape[1])
        return patients, np.where(known_P, ensemble.calibration.probabilities(logits_PC), equal), unanswered
    default = np.array(run.read_json("metrics.json")["default"])
    return patients, np.where(known_P, told_by(run.target, logits_PC), default), unanswered


def _without(cohort: Cohort, unanswered: set[str]) -> Cohort:
    """Return the cohort with these slides, or these patients' slides, failed and without tiles."""
    ids = zip(cohort.image_ids, cohort.patient_ids, strict=True)
    lost = [image_id if {image_id, patient_id} & unanswered else "" for image_id, patient_id in ids]
    why = "the models' answer is not finite: expected features of the size that was trained on; extract it again"
    return replace(
        cohort,
        bags=tuple(bag[:0] if own else bag for bag, own in zip(cohort.bags, lost, strict=True)),
        failures=cohort.failures | {image_id: why for image_id in lost if image_id},
    )


def _device(device: str) -> TrainOptions:
    """Return options that carry the device; their places are not used."""
    return resolve(TrainOptions(bags=(Path(),), manifest=Path(), out=Path(), device=device))


def _notes(run: RunFolder, cohort: Cohort, patients: Sequence[str], picture_of: dict[str, str]) -> list[str]:
    notes = []
    if cohort.empty:
        notes.append(f"{len(cohort.empty)} slides without tiles: {', '.join(cohort.empty)}")
    usable = {patient for patient, fine in zip(cohort.patient_ids, cohort.usable_N, strict=True) if fine}
    uniform = [patient for patient in patients if patient not in usable]
    if uniform:
        told = "equal probabilities" if run.target == "classes" else "what is best said of anybody"
        notes.append(f"{len(uniform)} patients at {told}, without a usable slide: {', '.join(uniform)}")
    rows = [ManifestRow(*ids) for ids in zip(cohort.image_ids, cohort.patient_ids, strict=True)]
    notes += notes_of_training(run.path, rows, picture_of)
    return notes


def _table(patients: Sequence[str], classes: Sequence[str], probs_PC: Floats) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["patient_id", *classes])
    writer.writerows([patient, *map(repr, row)] for patient, row in zip(patients, probs_PC.tolist(), strict=True))
    return text.getvalue()


def _failed(failures: dict[str, str]) -> list[Outcome]:
    return [
        Outcome(image_id, Status.FAILED, f"{reason} (equal probabilities)") for image_id, reason in failures.items()
    ]
