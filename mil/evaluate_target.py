"""Out-of-fold evidence of runs that predict labels, values or survival: tables, metrics with intervals, a page.

Patient level: the mean of a patient's slides and of a fold's models, none of which saw the patient.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mil.bootstrap import REPLICATES, draw_groups, percentile_interval
from mil.cohort import Cohort
from mil.figures import survival_figure, value_figure
from mil.metrics import Floats, Ints, finite
from mil.options import TrainOptions
from mil.page import fill
from mil.report_html import image, number, table
from mil.run import RunFolder
from mil.scores import patient_logits, read_scores
from mil.target_metrics import concordance, macro_auc, r2, spearman
from mil.targets import LabelsTarget, SurvivalTarget, Target, ValueTarget
from wsi.atomic import write_text

Json = dict[str, Any]
Rows = NDArray[np.int64]
Measure = Callable[[Rows], float]
NAMES = {
    "r2": "R\N{SUPERSCRIPT TWO}",
    "spearman": "Rank correlation",
    "mean_absolute_error": "Mean absolute error",
    "concordance": "Concordance (C)",
    "concordance_pooled": "Concordance, folds pooled",
    "macro_auc": "AUC, mean over labels",
    "constant": "Constant: nothing known of the patient",
}


def evaluate_target(
    run: RunFolder, options: TrainOptions, cohort: Cohort, folds: Ints, notes: Sequence[str], seen_stores: Sequence[str]
) -> None:
    """Write oof.csv, metrics.json, calibration.json, report.html and model_card.md of a run without classes."""
    target = cohort.target
    assert target is not None
    names, first = _patients(cohort)
    scores = {head: _out_of_fold(run, head, cohort, options) for head in options.heads}
    tables = {head: target.scores(_centred_on(target, patients)) for head, (_, patients) in scores.items()}
    tables["constant"] = _constant(target, first, folds)
    usable = patient_logits(np.ones((len(cohort), 1)), cohort.patient_ids, cohort.usable_N)[1][:, 0] > 0
    draws = draw_groups([cohort.groups[i] for i in first[usable]], options.seed).astype(np.int64)
    models = {
        name: _estimates(target, first[usable], probs[usable], folds[first][usable], draws)
        for name, probs in tables.items()
    }
    found = {
        "target": options.target,
        "head": options.head,
        "classes": list(cohort.classes),
        "slides": len(cohort),
        "patients": len(names),
        "patients_scored": int(usable.sum()),
        "default": np.asarray(tables["constant"]).mean(axis=0).tolist(),
        "unit": options.unit,
        "bootstrap": {"unit": "patient", "replicates": REPLICATES, "interval": "95 % percentile"},
        "models": models,
        "seen_stores": list(seen_stores),
        "warnings": list(notes),
        "failures": dict(cohort.failures),
    }
    write_text(
        run.path / "oof.csv", _table(cohort, folds, target, scores[options.head][0], names, first, tables[options.head])
    )
    run.write_json("calibration.json", {"method": "none", "temperature": 1.0, "shift": [], "floor": 0.0})
    run.write_json("metrics.json", found)
    write_text(run.path / "model_card.md", _card(run, found))
    write_text(run.path / "report.html", _page(run, found, target, first[usable], tables[options.head][usable]))


def _patients(cohort: Cohort) -> tuple[list[str], Rows]:
    """Return the patients, sorted, and a slide of each: its truth is the patient's."""
    first = dict(zip(reversed(cohort.patient_ids), reversed(range(len(cohort))), strict=True))
    names = sorted(first)
    return names, np.array([first[name] for name in names], np.int64)


def _out_of_fold(run: RunFolder, head: str, cohort: Cohort, options: TrainOptions) -> tuple[Floats, Floats]:
    """Return the outputs of slides and of patients, in the target's units."""
    number_of = {image_id: i for i, image_id in enumerate(cohort.image_ids)}
    outputs_SC = np.zeros((len(cohort), len(cohort.classes)))
    for fold in range(options.folds):
        for seed in range(options.models_per_fold):
            told = read_scores(run.model(head, fold, seed) / "scores.csv")
            rows = [number_of[i] for i, test in zip(told.image_ids, told.test_S, strict=True) if test]
            outputs_SC[rows] += told.logits_SC[told.test_S] / options.models_per_fold
    return outputs_SC, patient_logits(outputs_SC, cohort.patient_ids, cohort.usable_N)[1]


def _centred_on(target: Target, outputs_PC: Floats) -> Floats:
    """Return outputs as `Target.scores` wants them: of values standardised, all else as they are."""
    return (outputs_PC - target.center) / target.spread if isinstance(target, ValueTarget) else outputs_PC


def _constant(target: Target, first: Rows, folds: Ints) -> Floats:
    """Return what is best said of a patient without looking: from the patients of the other folds."""
    told = []
    for slide in first.tolist():
        others = first[folds[first] != folds[slide]]
        if isinstance(target, ValueTarget):
            told.append([target.values_N[others].mean()])
        elif isinstance(target, LabelsTarget):
            told.append(np.nanmean(target.present_NC[others], axis=0).tolist())
        else:
            told.append([0.0])
    return np.array(told)


def _measures(target: Target, first: Rows, scores_PC: Floats, folds_P: Rows) -> dict[str, Measure]:
    """Return the metrics as functions of which patients count, one drawn twice standing there twice."""
    if isinstance(target, ValueTarget):
        true, told = target.values_N[first], scores_PC[:, 0]
        return {
            "r2": lambda rows: r2(true[rows], told[rows]),
            "spearman": lambda rows: spearman(true[rows], told[rows]),
            "mean_absolute_error": lambda rows: float(np.abs(true[rows] - told[rows]).mean()),
        }
    if isinstance(target, SurvivalTarget):
        times, events, risks = target.times_N[first], target.events_N[first], scores_PC[:, 0]
        return {
            "concordance": lambda rows: concordance(times[rows], events[rows], risks[rows], folds_P[rows]),
            "concordance_pooled": lambda rows: concordance(times[rows], events[rows], risks[rows]),
        }
    assert isinstance(target, LabelsTarget)
    present = target.present_NC[first]
    return {"macro_auc": lambda rows: macro_auc(present[rows], scores_PC[rows])}


def _estimates(target: Target, first: Rows, scores_PC: Floats, folds_P: Rows, draws: Rows) -> Json:
    everyone = np.arange(len(first))
    found = {}
    for name, measure in _measures(target, first, scores_PC, folds_P).items():
        values = np.array([measure(np.repeat(everyone, counts)) for counts in draws])
        low, high = percentile_interval(values)
        own = {"value": measure(everyone), "low": low, "high": high}
        found[name] = finite(own)
    return found


def _truth_cells(target: Target, slide: int) -> list[str]:
    if isinstance(target, ValueTarget):
        return [repr(float(target.values_N[slide]))]
    if isinstance(target, SurvivalTarget):
        return [repr(float(target.times_N[slide])), str(int(target.events_N[slide]))]
    assert isinstance(target, LabelsTarget)
    return ["" if np.isnan(own) else str(int(own)) for own in target.present_NC[slide]]


def _table(
    cohort: Cohort, folds: Ints, target: Target, slides_SC: Floats, names: Sequence[str], first: Rows, scores_PC: Floats
) -> str:
    truth = {"value": ["true_value"], "survival": ["time", "event"]}.get(
        target.kind, [f"true_{name}" for name in cohort.classes]
    )
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["level", "patient_id", "image_id", "fold", "n_tiles", *truth, *(f"p_{c}" for c in cohort.classes)])
    told_SC = target.scores(_centred_on(target, slides_SC))
    for i, image_id in enumerate(cohort.image_ids):
        cells = ["slide", cohort.groups[i], image_id, str(int(folds[i])), str(len(cohort.bags[i]))]
        writer.writerow(cells + _truth_cells(target, i) + [repr(value) for value in told_SC[i].tolist()])
    for name, slide, row in zip(names, first.tolist(), scores_PC.tolist(), strict=True):
        cells = ["patient", name, "", str(int(folds[slide])), ""]
        writer.writerow(cells + _truth_cells(target, slide) + [repr(value) for value in row])
    return text.getvalue()


def _cells(found: Mapping[str, Any]) -> list[str]:
    return [
        f'{number(own["value"])}<br><span class="ci">{number(own["low"])} to {number(own["high"])}</span>'
        for own in found.values()
    ]


def _page(run: RunFolder, found: Json, target: Target, first: Rows, scores_PC: Floats) -> str:
    own = found["models"][found["head"]]
    best = next(iter(own))
    rows = [[escape(NAMES.get(name, name)), *_cells(values)] for name, values in found["models"].items()]
    marks = ["own" if name == found["head"] else "" for name in found["models"]]
    figure = ""
    if isinstance(target, ValueTarget):
        figure = image(
            value_figure(target.values_N[first], scores_PC[:, 0]),
            "Predicted against true value of each patient",
            "Each dot is a patient, by models that never saw them. On the dashed line the prediction is right.",
        )
    elif isinstance(target, SurvivalTarget):
        figure = image(
            survival_figure(target.times_N[first], target.events_N[first], scores_PC[:, 0]),
            "Share of patients without the event over time, in the halves of higher and of lower predicted risk",
            "Kaplan-Meier curves of the halves of higher and of lower risk, by models that never saw the patients.",
        )
    lines = [f"slide {i} could not be used: {why}" for i, why in found["failures"].items()] + found["warnings"]
    warned = (
        f'<div class="warn"><ul>{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul></div>' if lines else ""
    )
    value = f"{number(own[best]['value'], 2)}</b> (95&nbsp;% interval {number(own[best]['low'], 2)} to "
    return fill(
        "page_template.html",
        title=escape(f"{', '.join(found['classes'])} \N{MIDDLE DOT} {run.path.resolve().name}"),
        headline=f"On {found['patients_scored']} patients that the models had not seen: {NAMES[best]} <b>{value}"
        f"{number(own[best]['high'], 2)}).",
        notes=warned,
        figure=figure,
        body="<h2>Metrics</h2>"
        + table(
            "Out-of-fold, patient level; in bold the model of this run.",
            ["model", *(NAMES[key] for key in own)],
            rows,
            marks,
        )
        + f"<h2>How it was made</h2><pre>{escape((run.path / 'config.toml').read_text('utf-8'))}</pre>",
    )


def _card(run: RunFolder, found: Json) -> str:
    lines = [f"# {found['head']}: {', '.join(found['classes'])}", ""]
    lines += [f"- Target: {found['target']}; {found['patients']} patients, {found['slides']} slides, folds by patient"]
    for name, values in found["models"].items():
        told = ", ".join(
            f"{key} {number(v['value'])} ({number(v['low'])} to {number(v['high'])})" for key, v in values.items()
        )
        lines.append(f"- {name}: {told}")
    return "\n".join(
        [*lines, f"- Recipe: {run.config['recipe_hash']}", "- For research use. Not a medical device.", ""]
    )
