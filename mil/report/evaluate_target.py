"""Out-of-fold evidence of runs that predict labels, values or survival: tables, metrics with intervals, a page.

Patient level: the mean of a patient's slides and of a fold's models, none of which saw the patient.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mil.data.cohort import Cohort
from mil.evaluation.bootstrap import REPLICATES, draw_groups, percentile_interval
from mil.evaluation.oof import Patients
from mil.evaluation.probe import center_probe
from mil.report.card import plain
from mil.report.figures import survival_figure, value_figure
from mil.report.page import fill
from mil.report.report_html import image, number, table
from mil.run.folder import RunFolder
from mil.run.protocol import about_encoder, about_few, about_probe, divided, put_together, split_by
from mil.run.scores import patient_logits, read_scores
from mil.targets.metrics import Floats, Ints, finite, ones
from mil.targets.survival_metrics import Followed, harrell_c, integrated_brier, time_auc, uno_c
from mil.targets.target_metrics import macro_auc, r2, r2_over, spearman
from mil.targets.targets import LabelsTarget, SurvivalTarget, Target, ValueTarget
from mil.training.options import TrainOptions
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text

Json = dict[str, Any]
Rows = NDArray[np.int64]
Measure = Callable[[Floats], Floats]
NAMES = {
    "r2": "R\N{SUPERSCRIPT TWO} over the constant",
    "r2_pooled": "R\N{SUPERSCRIPT TWO}, folds pooled",
    "spearman": "Rank correlation",
    "spearman_pooled": "Rank correlation, folds pooled",
    "mean_absolute_error": "Mean absolute error",
    "concordance": "Concordance (C)",
    "concordance_uno": "Concordance (Uno)",
    "time_auc": "AUC over time",
    "integrated_brier": "Integrated Brier score (lower is better)",
    "concordance_pooled": "Concordance, folds pooled",
    "macro_auc": "AUC, mean over labels",
    "macro_auc_pooled": "AUC, mean over labels, folds pooled",
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
    blind = tables["constant"] = _constant(target, first, folds)
    usable = patient_logits(np.ones((len(cohort), 1)), cohort.patient_ids, cohort.usable_N)[1][:, 0] > 0
    draws = draw_groups([cohort.groups[i] for i in first[usable]], options.seed)
    models = {
        name: _estimates(_measures(target, first[usable], probs[usable], blind[usable], folds[first][usable]), draws)
        for name, probs in tables.items()
    }
    probe = _probe(cohort, names, first, folds, options)
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
        "center_probe": probe,
        "warnings": [*notes, *_warnings(run, options, target, first[usable], probe)],
        "failures": dict(cohort.failures),
    }
    write_text(
        run.path / "oof.csv", _table(cohort, folds, target, scores[options.head][0], names, first, tables[options.head])
    )
    run.write_json("calibration.json", {"method": "none", "temperature": 1.0, "shift": [], "floor": 0.0})
    run.write_json("metrics.json", found)
    write_text(run.path / "model_card.md", _card(run, found))
    write_text(run.path / "report.html", _page(run, found, target, first[usable], tables[options.head][usable]))


def _probe(cohort: Cohort, names: Sequence[str], first: Rows, folds: Ints, options: TrainOptions) -> Json | None:
    centers = tuple(cohort.center_ids[slide] for slide in first.tolist())
    unlabelled = np.zeros(len(names), np.int64)  # the probe asks for centers only
    groups = tuple(cohort.patient_ids[slide] for slide in first.tolist())
    return center_probe(cohort, Patients(tuple(names), unlabelled, centers, folds[first], groups), options.seed)


def _warnings(run: RunFolder, options: TrainOptions, target: Target, first: Rows, probe: Json | None) -> list[str]:
    """Return what a reader must know before believing the numbers of a run without classes."""
    encoder = json.loads(run.config["about"]["encoder"])
    lines = [line for one in (encoder if isinstance(encoder, list) else [encoder]) for line in about_encoder(one)]
    lines += about_few(*_carriers(target, first, run.classes)) + about_probe(probe, run.recipe)
    if options.stores:
        lines.append(
            f"the mean-colour baseline and the heat maps of the report are for classes, not for --target "
            f"{target.kind}: gigamil heatmap draws this run's"
        )
    return lines


def _carriers(target: Target, first: Rows, names: Sequence[str]) -> tuple[dict[str, int], str]:
    """Return who carries the result, counted, and what there should be more of."""
    if isinstance(target, SurvivalTarget):
        return {"with the event": int(target.events_N[first].sum())}, "events"
    if isinstance(target, LabelsTarget):
        present_PC = target.present_NC[first]
        sides = {"with": (present_PC == 1).sum(0), "without": (present_PC == 0).sum(0)}
        return {
            f"{side} {name}": int(count)
            for side, counts in sides.items()
            for name, count in zip(names, counts, strict=True)
        }, "with and without each label"
    return {"in all": len(first)}, "in all"


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
            told = read_scores(run.model(head, fold, seed) / "scores.csv", number_of, len(cohort.classes))
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


def _measures(target: Target, first: Rows, scores_PC: Floats, blind_PC: Floats, folds_P: Rows) -> dict[str, Measure]:
    """Return the metrics as functions of how often each patient counts in each draw, (B, P) to (B,).

    Within folds, for those of other folds have another model; ``blind_PC``: what is said without looking.
    """
    if isinstance(target, ValueTarget):
        true, told, blind = target.values_N[first], scores_PC[:, 0], blind_PC[:, 0]
        return {
            "r2": lambda weights: r2_over(true, told, blind, weights),
            "r2_pooled": lambda weights: r2(true, told, weights),
            "spearman": lambda weights: spearman(true, told, weights, folds_P),
            "spearman_pooled": lambda weights: spearman(true, told, weights),
            "mean_absolute_error": lambda weights: weights @ np.abs(true - told) / weights.sum(axis=1),
        }
    if isinstance(target, SurvivalTarget):
        known = Followed(target.times_N[first], target.events_N[first], folds_P)
        pooled, risks = replace(known, folds_N=np.zeros_like(folds_P)), scores_PC[:, 0]
        return {
            "concordance": lambda weights: harrell_c(known, risks, weights),
            "concordance_uno": lambda weights: uno_c(known, risks, weights),
            "time_auc": lambda weights: time_auc(known, risks, weights),
            "integrated_brier": lambda weights: integrated_brier(known, risks, weights),
            "concordance_pooled": lambda weights: harrell_c(pooled, risks, weights),
        }
    assert isinstance(target, LabelsTarget)
    present = target.present_NC[first]
    return {
        "macro_auc": lambda weights: macro_auc(present, scores_PC, weights, folds_P),
        "macro_auc_pooled": lambda weights: macro_auc(present, scores_PC, weights),
    }


def _estimates(measures: Mapping[str, Measure], draws_BP: Floats) -> Json:
    found = {}
    for name, measure in measures.items():
        value = float(measure(ones(draws_BP.shape[1]))[0])
        low, high = percentile_interval(measure(draws_BP))
        found[name] = finite({"value": value, "low": low, "high": high})
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
    rows = [["level", "patient_id", "image_id", "fold", "n_tiles", *truth, *(f"p_{c}" for c in cohort.classes)]]
    told_SC = target.scores(_centred_on(target, slides_SC))
    for i, image_id in enumerate(cohort.image_ids):
        cells = ["slide", cohort.groups[i], image_id, str(int(folds[i])), str(len(cohort.bags[i]))]
        rows.append(cells + _truth_cells(target, i) + [repr(value) for value in told_SC[i].tolist()])
    for name, slide, row in zip(names, first.tolist(), scores_PC.tolist(), strict=True):
        cells = ["patient", name, "", str(int(folds[slide])), ""]
        rows.append(cells + _truth_cells(target, slide) + [repr(value) for value in row])
    return csv_text(rows)


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
        notes=f"<p>{escape(divided(run.recipe))} {escape(put_together(run.recipe))}</p>" + warned,
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
    lines = [f"# {found['head']}: {plain(', '.join(found['classes']))}", ""]
    lines += [f"- Target: {found['target']}; {found['patients']} patients, {found['slides']} slides"]
    lines += [f"- {split_by(run.recipe)} {put_together(run.recipe)}"]
    lines += [f"- To know: {plain(line)}" for line in found["warnings"]]
    for name, values in found["models"].items():
        told = ", ".join(
            f"{key} {number(v['value'])} ({number(v['low'])} to {number(v['high'])})" for key, v in values.items()
        )
        lines.append(f"- {name}: {told}")
    return "\n".join(
        [*lines, f"- Recipe: {run.config['recipe_hash']}", "- For research use. Not a medical device.", ""]
    )
