"""`gigamil predict`: a run and new slides or bags in, one row of probabilities per patient out.

The table has ``patient_id``, then the classes. It is always complete: every patient of the manifest has a row, rows sum
to 1, and who could not be judged stands at equal probabilities and is named. Of a run whose slides are judged by
themselves (``--unit slide``) it has ``image_id``, and a row for each slide. Runs with another target give a column for
each label (probabilities, each on its own), the value, or the log risk; who could not be judged stands at what is best
said of anybody.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from features.bags.bag import find_bags
from mil.data.cohort import BagSet, Making, cohort_digest, scan_bags
from mil.data.duplicates import notes_of_training, pictures
from mil.data.several_encoders import open_cohorts, scan
from mil.inference.combine import Combiner, combiner, runs_of
from mil.inference.inputs import bags_of, check_used, sort_items
from mil.inference.judge import Judged, judge
from mil.inference.options import PredictOptions
from mil.inference.slides import Budget, make_bags
from mil.models.ensemble import check_bags_fit, load_ensemble
from mil.run.folder import RunFolder
from mil.run.outputs import Tables
from wsi.cohort.manifest import ManifestRow, load_manifest
from wsi.cohort.slides import find_jobs
from wsi.errors import RequestError
from wsi.files.atomic import make_folder, write_text
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.files.replace import remove
from wsi.options import stage
from wsi.outcome import Outcome, Progress, Silent, Status, Summary, failed
from wsi.recipe import Recipe, canonical, refuse_other_recipe

MARK = "gigamil-predict-1"
_WORK = ".gigamil-work"
"""Marks a folder of stores and bags that is deleted when the table is written."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one run is asked about."""

    run: RunFolder
    rows: tuple[ManifestRow, ...]
    sets: tuple[BagSet, ...]
    """The bags of each encoder."""

    def recipe(self) -> Recipe:
        """Return what shapes the run's answers."""
        first, *others = [cohort_digest(self.rows, bags.headers) for bags in self.sets]
        fused = {"other_encoders": others} if others else {}
        return {"run": self.run.config["recipe_hash"], "slides": len(self.rows), "cohort": first, **fused}


@stage
def predict(options: PredictOptions, progress: Progress | None = None) -> Summary:
    """Predict every patient of the manifest: mean logits over all models and the patient's slides, calibrated.

    A patient without any usable bag gets equal probabilities. Failed slides are named in the summary and in the JSON
    file beside the table.

    Raises
    ------
    RequestError
        The run is not finished, the bags were not made as the run's bags were, its models give no numbers, or the table
        is there and was written by something else.
    RecipeMismatchError
        The table, or in ``work`` a store or bag, exists and was made from something else, and ``overwrite`` is not
        given.
    """
    start, progress = time.monotonic(), progress or Silent()
    named, bags, slides = sort_items(options)
    runs = runs_of(named)
    for run in runs:
        run.read_json("calibration.json" if run.classes else "metrics.json")  # an unfinished run: before the work
    combine = combiner(runs, options.combine)
    with claim(options.out), ExitStack() as held:
        if bags:
            asked = _given(runs, options, bags)
        else:
            _check_not_of_another_run(runs, options)
            asked = _made(runs, options, slides, start, held, progress)
        outcomes = _write(options, asked, combine, progress)
    return Summary("predict", outcomes, time.monotonic() - start)


def _given(runs: Sequence[RunFolder], options: PredictOptions, bags: Sequence[Path]) -> list[_Asked]:
    """Return the slides to predict, and for each run the bags of each encoder."""
    own = [tuple(bags) if len(runs) == 1 else bags_of(run, bags) for run in runs]
    unused = [str(path) for path in bags if not any(path in paths for paths in own)]
    if unused:
        raise RequestError(f"{unused[0]}: its bags are of an encoder that no run was trained on: leave it out")
    if options.manifest is not None:
        rows = _unlabelled(options.manifest)
        check_used(bags, [row.image_id for row in rows])
    else:
        first = own[0] if runs[0].fusion == "none" else own[0][:1]
        rows = tuple(_row(path.stem) for path in find_bags(first))
    return [_scanned(run, rows, paths) for run, paths in zip(runs, own, strict=True)]


def _scanned(run: RunFolder, rows: tuple[ManifestRow, ...], paths: Sequence[Path]) -> _Asked:
    sets = scan(paths, [row.image_id for row in rows], run.fusion)
    check_bags_fit(run, *(own.headers for own in sets))
    return _Asked(run, rows, sets)


def _made(
    runs: Sequence[RunFolder],
    options: PredictOptions,
    slides: tuple[Path, ...],
    start: float,
    held: ExitStack,
    progress: Progress,
) -> list[_Asked]:
    """Return the slides to predict, and their bags, made here: once for all runs whose bags were made alike."""
    jobs = find_jobs(slides, options.manifest)
    rows = _unlabelled(options.manifest) if options.manifest else tuple(_row(job.image_id) for job in jobs)
    kinds = [run.config["about"]["bag_recipe"] for run in runs]
    firsts = dict(zip(reversed(kinds), reversed(runs), strict=True))
    work = options.work or held.enter_context(_work_beside(options.out))
    budget = None if options.time_budget_min is None else Budget(options.time_budget_min / len(firsts), start)
    made: dict[str, BagSet] = {}
    for number, kind in enumerate(dict.fromkeys(kinds)):
        folder = work if len(firsts) == 1 else work / f"encoder{number}"
        found = make_bags(firsts[kind], options, jobs, folder, budget, progress, overwrite=options.overwrite)
        bags = scan_bags(found.bags, [row.image_id for row in rows]) if found.bags else BagSet({}, {}, Making())
        check_bags_fit(firsts[kind], bags.headers)
        making = replace(bags.making, dim=int(firsts[kind].recipe["bags"]["dim"]))
        made[kind] = BagSet(bags.headers, bags.failures | found.failures, making)
        budget = None if budget is None else replace(budget, started=time.monotonic())
    return [_Asked(run, rows, (made[kind],)) for run, kind in zip(runs, kinds, strict=True)]


@contextmanager
def _work_beside(out: Path) -> Iterator[Path]:
    """Give a hidden folder beside the table, deleted at the end; one that a killed run left is gone on with.

    The caller holds the claim on ``out``.
    """
    folder = out.with_name(f".{out.name}.work")
    make_folder(out.parent)
    if folder.exists() and not (folder / _WORK).is_file():
        raise RequestError(f"{folder} is there and was not made by this command: move it away, or give --work")
    write_text(folder / _WORK, "")
    try:
        yield folder
    finally:
        with suppress(OSError):
            remove(folder)


def _check_not_of_another_run(runs: Sequence[RunFolder], options: PredictOptions) -> None:
    """Refuse before the work, not after it, where the table is there and must not be replaced."""
    if not options.out.exists() or options.overwrite:
        return
    found = (_tables(options).told() or {"recipe": {}})["recipe"]
    hashes = [run.config["recipe_hash"] for run in runs]
    wanted = {"run": hashes[0]} if len(runs) == 1 else {"runs": hashes}
    refuse_other_recipe(options.out, {key: found.get(key) for key in wanted}, wanted)


def _recipe(options: PredictOptions, asked: Sequence[_Asked]) -> Recipe:
    """Return what shapes the table."""
    own = [one.recipe() for one in asked]
    if len(own) == 1:
        return own[0]
    parts = [{key: value for key, value in one.items() if key not in ("run", "slides")} for one in own]
    return {
        "runs": [one["run"] for one in own],
        "slides": own[0]["slides"],
        "combine": options.combine,
        "cohorts": [canonical(part) for part in parts],
    }


def _write(options: PredictOptions, asked: Sequence[_Asked], combine: Combiner, progress: Progress) -> list[Outcome]:
    """Predict and write the table and its sidecar, unless they are there."""
    recipe, run = _recipe(options, asked), asked[0].run
    earlier = _tables(options).earlier(recipe, overwrite=options.overwrite)
    if earlier is not None:
        return [_tables(options).skipped, *_failed(earlier["failures"], run)]
    answers = [_told(one, options, progress) for one in asked]
    told = [one for one, _ in answers]
    failures = {image_id: why for one in told for image_id, why in one.slides.failures.items()}
    patients, known_RP = told[0].patients, np.stack([one.known_P for one in told])
    values_PC = combine([one.values_PC for one in told], known_RP)
    notes = list(dict.fromkeys(note for _, own in answers for note in own))
    uniform = [patient for patient, known in zip(patients, known_RP.T, strict=True) if not known.any()]
    if uniform:
        nobody = run.predicts.words.nobody
        notes.append(f"{len(uniform)} patients at {nobody}, without a usable slide: {', '.join(uniform)}")
    score = combine.score()
    if score is not None and combine.shared is not None:
        notes += combine.shared.notes
        notes.append(_score_note(options.combine, len(told), len(combine.shared.ids), score))
    for note in notes:
        progress.note(note)
    rows = ([name, *row] for name, row in zip(patients, values_PC.tolist(), strict=True))
    text = csv_text([[run.unit_column, *run.classes], *rows])
    about = {"failures": failures, "notes": notes, **({"score": score} if score is not None else {})}
    _tables(options).write(recipe, {options.out: text}, about)
    done = Outcome(str(options.out), Status.DONE, facts={"patients": len(patients), "notes": notes})
    return [done, *_failed(failures, run)]


def _score_note(how: str, runs: int, patients: int, score: Any) -> str:
    auc, loss = score["auc"], score["weighted_log_loss"]
    return (
        f"{how} of {runs} runs: AUC {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f}), weighted log loss "
        f"{loss['value']:.3f}, on {patients} patients whom no model that scored them had seen"
    )


def _unlabelled(manifest: Path) -> tuple[ManifestRow, ...]:
    """Return the slides of the manifest; labels play no part and are dropped."""
    return tuple(replace(row, label=None) for row in load_manifest(manifest))


def _row(image_id: str) -> ManifestRow:
    return ManifestRow(image_id, re.sub(r"_\d+$", "", image_id))


def _told(asked: _Asked, options: PredictOptions, progress: Progress) -> tuple[Judged, list[str]]:
    """Ask one run; return what it says, and notes on what was odd."""
    run = asked.run
    unknown = run.predicts.of_cells([{}] * len(asked.rows), run.classes)
    slides = open_cohorts(asked.rows, asked.sets, run.fusion, unknown)
    judged = judge(load_ensemble(run, options.device), slides, progress)
    empty = judged.slides.empty
    notes = [f"{len(empty)} slides without tiles: {', '.join(empty)}"] if empty else []
    return judged, notes + notes_of_training(run.path, asked.rows, pictures(asked.sets[0].headers))


def _failed(failures: Mapping[str, str], run: RunFolder) -> list[Outcome]:
    nobody = run.predicts.words.nobody
    return failed({image_id: f"{reason} ({nobody})" for image_id, reason in failures.items()})


def _tables(options: PredictOptions) -> Tables:
    """Return the files to write."""
    return Tables(options.out.with_suffix(".json"), (options.out,), MARK)
