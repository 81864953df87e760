"""`gigamil predict`: a run and new slides or bags in, one row of probabilities per patient out.

The table has ``patient_id``, then the classes. It is always complete: every patient of the manifest has a row, rows
sum to 1, and who could not be judged stands at equal probabilities and is named. Of a run whose slides are judged by
themselves (``--unit slide``) it has ``image_id``, and a row for each slide. With ``--prevalence`` probabilities stand
for these shares of the classes in place of equal ones, and who could not be judged stands at them; with
``--prevalence by-center`` for those of the run's own patients of the same center. Runs with another
target give a column for each label (probabilities, each on its own), the value, or the log risk; who could not be
judged stands at what is best said of anybody.

The JSON file beside it tells which slides are unlike all that the run was trained on. By the run's own patients, out of
fold, it tells from which probability (for equal priors) on a patient counts as positive, and which classes cannot be
ruled out of each patient.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from mil.data.duplicates import notes_of_training, pictures
from mil.data.several_encoders import open_cohorts
from mil.evaluation.new_patients import ByTheRun, answered_by
from mil.evaluation.refusal.familiar import Alarm, against_known
from mil.inference.by_center import shares_by_center
from mil.inference.combine import Combiner, combiner, runs_of
from mil.inference.inputs import Asked, given_bags, made_bags, sort_items
from mil.inference.judge import Judged, judge
from mil.inference.options import BY_CENTER, PredictOptions
from mil.models.ensemble import load_ensemble
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.run.outputs import Tables
from mil.targets.questions import at_prevalence, parse_prevalence
from wsi.arrays import Bools, Floats
from wsi.errors import RequestError
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.options import stage
from wsi.pages import plural
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary, failed
from wsi.recipe import Json, Recipe, canonical, refuse_other_recipe

MARK = "gigamil-predict-1"


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
    combine, prevalence_C = combiner(runs, options.combine), _prevalence(options, runs)
    with claim(options.out), ExitStack() as held:
        if bags:
            asked = given_bags(runs, options, bags)
        else:
            _check_not_of_another_run(runs, options)
            asked = made_bags(runs, options, slides, start, held, progress)
        outcomes = _write(options, asked, combine, prevalence_C, progress)
    return Summary("predict", outcomes, time.monotonic() - start)


def _check_not_of_another_run(runs: Sequence[RunFolder], options: PredictOptions) -> None:
    """Refuse before the work, not after it, where the table is there and must not be replaced."""
    if not options.out.exists() or options.overwrite:
        return
    found = (_tables(options).told() or {"recipe": {}})["recipe"]
    hashes = [run.config["recipe_hash"] for run in runs]
    wanted = {"run": hashes[0]} if len(runs) == 1 else {"runs": hashes}
    refuse_other_recipe(options.out, {key: found.get(key) for key in wanted}, wanted)


def _prevalence(options: PredictOptions, runs: Sequence[RunFolder]) -> Floats | None:
    """Return the shares of the classes (C,) for which probabilities are to be told; None: equal ones, or by center."""
    if not options.prevalence:
        return None
    runs[0].check_classes("--prevalence")
    if options.by_center:
        if len(runs) > 1:
            raise RequestError(f"--prevalence {BY_CENTER}: expected one run, whose centers count, found {len(runs)}")
        return None
    return parse_prevalence(options.shares, runs[0].classes)


def _recipe(options: PredictOptions, asked: Sequence[Asked], prevalence_C: Floats | None) -> Recipe:
    """Return what shapes the table."""
    own = [one.recipe() for one in asked]
    told: Recipe = {} if prevalence_C is None else {"prevalence": prevalence_C.tolist()}
    told |= {"prevalence": BY_CENTER} if options.by_center else {}
    if len(own) == 1:
        return own[0] | told
    parts = [{key: value for key, value in one.items() if key not in ("run", "slides")} for one in own]
    return {
        "runs": [one["run"] for one in own],
        "slides": own[0]["slides"],
        "combine": options.combine,
        "cohorts": [canonical(part) for part in parts],
        **told,
    }


def _write(
    options: PredictOptions,
    asked: Sequence[Asked],
    combine: Combiner,
    prevalence_C: Floats | None,
    progress: Progress,
) -> list[Outcome]:
    """Predict and write the table and its sidecar, unless they are there."""
    recipe, run = _recipe(options, asked, prevalence_C), asked[0].run
    by_center = read_evidence(run) if options.by_center else None
    earlier = _tables(options).earlier(recipe, overwrite=options.overwrite)
    nobody = run.predicts.words.nobody if prevalence_C is None else "the prevalence given"
    nobody = nobody if by_center is None else "the shares of their center"
    if earlier is not None:
        return [_tables(options).skipped, *_failed(earlier["failures"], nobody)]
    answers = [_told(one, options, progress) for one in asked]
    told = [judged for judged, *_ in answers]
    failures = {image_id: why for one in told for image_id, why in one.slides.failures.items()}
    patients, known_RP = told[0].patients, np.stack([one.known_P for one in told])
    values_PC = combine([one.values_PC for one in told], known_RP)
    decided, lost = _decided(asked, patients, values_PC, np.any(known_RP, axis=0))
    notes = list(dict.fromkeys(note for _, own, alarm in answers for note in (*own, *alarm.notes)))
    if by_center is not None:
        prevalence_C, whose = shares_by_center(by_center, asked[0].rows, patients)
        notes += whose
    if prevalence_C is not None:
        values_PC = at_prevalence(values_PC, prevalence_C)
    uniform = [patient for patient, known in zip(patients, known_RP.T, strict=True) if not known.any()]
    if uniform:
        notes.append(f"{plural(len(uniform), run.unit)} at {nobody}, without a usable slide: {', '.join(uniform)}")
    score = combine.score()
    if score is not None and combine.shared is not None:
        notes += combine.shared.notes
        notes.append(_score_note(options.combine, len(told), len(combine.shared.ids), score))
    notes += lost
    for note in notes:
        progress.note(note)
    rows = ([name, *row] for name, row in zip(patients, values_PC.tolist(), strict=True))
    text = csv_text([[run.unit_column, *run.classes], *rows])
    alarms = [alarm.told for *_, alarm in answers if alarm.told]
    about = {"failures": failures, "notes": notes, **({"score": score} if score is not None else {})}
    _tables(options).write(recipe, {options.out: text}, {**about, "unlike_known": alarms, "decisions": decided})
    done = Outcome(str(options.out), Status.DONE, facts={"patients": len(patients), "notes": notes})
    return [done, *_failed(failures, nobody)]


def _decided(
    asked: Sequence[Asked], patients: Sequence[str], values_PC: Floats, known_P: Bools
) -> tuple[Json, list[str]]:
    """Return cuts and sets by the run's own patients, of one run; and why there are none."""
    if len(asked) > 1:
        return {}, []
    try:
        evidence = read_evidence(asked[0].run)
    except RequestError as error:
        return {}, [f"cuts and sets of classes cannot be told: {error}"]
    return ByTheRun(answered_by(evidence)).told(patients, values_PC, known_P, asked[0].run.classes), []


def _score_note(how: str, runs: int, patients: int, score: Any) -> str:
    auc, loss = score["auc"], score["weighted_log_loss"]
    return (
        f"{how} of {runs} runs: AUC {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f}), weighted log loss "
        f"{loss['value']:.3f}, on {patients} patients whom no model that scored them had seen"
    )


def _told(asked: Asked, options: PredictOptions, progress: Progress) -> tuple[Judged, list[str], Alarm]:
    """Ask one run; return what it says, notes on what was odd, and which slides are unlike all that it knows."""
    run = asked.run
    unknown = run.predicts.of_cells([{}] * len(asked.rows), run.classes)
    joined = run.recipe.get("aggregate") == "bag"  # what is wrong with one of a patient's slides is found beforehand
    slides = open_cohorts(asked.rows, asked.sets, run.fusion, unknown, trusting=not joined)
    judged = judge(load_ensemble(run, options.device), slides, progress)
    empty = judged.slides.empty
    notes = [f"{plural(len(empty), 'slide')} without tiles: {', '.join(empty)}"] if empty else []
    scored = [row for row in asked.rows if row.image_id not in {*judged.slides.failures, *empty}]
    same, alarm = against_known(run, judged.slides, judged.means)
    notes += notes_of_training(run.path, scored, pictures(asked.sets[0].headers), same)
    return judged, notes, alarm


def _failed(failures: Mapping[str, str], nobody: str) -> list[Outcome]:
    return failed({image_id: f"{reason} ({nobody})" for image_id, reason in failures.items()})


def _tables(options: PredictOptions) -> Tables:
    """Return the files to write."""
    return Tables(options.out.with_suffix(".json"), (options.out,), MARK)
