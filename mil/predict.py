"""`gigamil predict`: a run and new bags in, one row of probabilities per patient out (patient_id, then the classes)."""

import csv
import io
import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.bag import find_bags
from mil.cohort import BagSet, Cohort, cohort_digest, open_cohort, scan_bags
from mil.ensemble import check_bags_fit, load_ensemble
from mil.metrics import Floats, softmax
from mil.options import TrainOptions, resolve
from mil.run import RunFolder
from mil.scores import patient_logits
from mil.splits import read_splits
from wsi.atomic import write_text
from wsi.claim import claim
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
    bags: tuple[Path, ...]
    out: Path
    """The table to write; ``<name>.json`` beside it says how it was made and what was missing."""
    manifest: Path | None = None
    """The slides and patients; without it, the slides of the bags, a patient being the id without its ``_<n>``."""
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.bags:
            raise RequestError("expected one or more bag files or folders, found none")
        if self.out.suffix != ".csv":
            raise RequestError(f"--out {self.out}: expected a name that ends in .csv")

    def recipe(self, run: RunFolder, rows: Sequence[ManifestRow], bags: BagSet) -> Recipe:
        """Return what shapes the table."""
        return {"run": run.config["recipe_hash"], "slides": len(rows), "cohort": cohort_digest(rows, bags.headers)}


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
    rows = _rows(options)
    bags = scan_bags(options.bags, [row.image_id for row in rows])
    check_bags_fit(run, list(bags.headers.values()))
    recipe = options.recipe(run, rows, bags)
    with claim(options.out):
        sidecar = options.out.with_suffix(".json")
        earlier = _earlier(options, sidecar, recipe)
        if earlier is not None:
            outcomes = [
                Outcome(str(options.out), Status.SKIPPED, "the table is there, made from the same run and bags")
            ]
            return Summary("predict", outcomes + _failed(earlier["failures"]), time.monotonic() - start)
        cohort = open_cohort(rows, bags, run.classes)
        patients, probs = _probabilities(run, options, cohort, progress)
        notes = _notes(run, cohort, patients)
        for note in notes:
            progress.note(note)
        write_text(options.out, _table(patients, run.classes, probs))
        about = {"recipe": recipe, "failures": cohort.failures, "notes": notes}
        write_text(sidecar, json.dumps(about, indent=1) + "\n")
    done = Outcome(str(options.out), Status.DONE, facts={"patients": len(patients), "notes": notes})
    return Summary("predict", [done, *_failed(cohort.failures)], time.monotonic() - start)


def _rows(options: PredictOptions) -> list[ManifestRow]:
    """Return the slides to predict; labels play no part and are dropped."""
    if options.manifest is not None:
        return [replace(row, label=None) for row in load_manifest(options.manifest)]
    return [ManifestRow(path.stem, re.sub(r"_\d+$", "", path.stem)) for path in find_bags(options.bags)]


def _earlier(options: PredictOptions, sidecar: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Return the sidecar of an earlier table of the same recipe; None where the table is to be written."""
    if not options.out.exists():
        return None
    found: dict[str, Any] = {"recipe": {}}
    with suppress(OSError, ValueError):
        found = json.loads(sidecar.read_text())
    if found["recipe"] == recipe:
        return found
    if not options.overwrite:
        refuse_other_recipe(options.out, found["recipe"], recipe)
    return None


def _probabilities(
    run: RunFolder, options: PredictOptions, cohort: Cohort, progress: Progress
) -> tuple[list[str], Floats]:
    ensemble = load_ensemble(run, _device(options.device))
    logits = np.zeros((len(cohort), len(cohort.classes)))
    progress.begin("predict", len(cohort), "slides")
    for first in range(0, len(cohort), _CHUNK):
        chunk = cohort.bags[first : first + _CHUNK]
        logits[first : first + len(chunk)] = ensemble.logits(chunk)
        progress.advance(len(chunk))
    progress.end()
    patients, logits_PC = patient_logits(logits, cohort.patient_ids, cohort.usable_N)
    return patients, softmax(logits_PC / ensemble.temperature)


def _device(device: str) -> TrainOptions:
    """Return options that carry the device; their places are not used."""
    return resolve(TrainOptions(bags=(Path(),), manifest=Path(), out=Path(), device=device))


def _notes(run: RunFolder, cohort: Cohort, patients: Sequence[str]) -> list[str]:
    notes = []
    if cohort.empty:
        notes.append(f"{len(cohort.empty)} slides without tiles: {', '.join(cohort.empty)}")
    usable = {patient for patient, fine in zip(cohort.patient_ids, cohort.usable_N, strict=True) if fine}
    uniform = [patient for patient in patients if patient not in usable]
    if uniform:
        notes.append(f"{len(uniform)} patients at equal probabilities, without a usable slide: {', '.join(uniform)}")
    seen = sorted(set(read_splits(run.path / "splits.csv")) & set(cohort.image_ids))
    if seen:
        listed = f"{', '.join(seen[:5])}{' ...' if len(seen) > 5 else ''}"
        notes.append(
            f"{len(seen)} slides were in the run's training, their scores flatter: {listed}; see oof.csv instead"
        )
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
