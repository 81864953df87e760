"""`gigamil compare`: several runs on the patients that they share, with intervals and paired tests.

What is compared is what each run said of patients that its models had not seen. Beside the runs stand two ensembles of
them: the mean of their calibrated log probabilities, and a stack, a logistic regression on those, fitted on the other
patients only (five parts of the patients, by the patient).
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mil.evaluation.bootstrap import draw_patients, estimate_all, percentile_interval
from mil.evaluation.delong import DeLong, delong
from mil.report.figures import compare_figure
from mil.report.options import CompareOptions
from mil.report.page import fill
from mil.report.report_html import METRIC_NAMES, image, interval, number, table
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.run.outputs import Tables
from mil.targets.metrics import CLIP, METRICS, Floats, Ints, finite, ones, softmax
from wsi.errors import RequestError
from wsi.files.atomic import check_folder, make_folder
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.options import stage
from wsi.outcome import Outcome, Progress, Silent, Status, Summary

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = "gigamil-compare-1"
POOLED = (
    "Patients of all folds together (pooled), for runs need not share their folds; a run's own report compares within "
    "folds, so its AUC differs."
)
MEAN, STACK = "mean of the runs", "stack of the runs"
PARTS = 5
NOT_ALIKE = (
    '<p class="note">An interval of a difference that holds 0, or a p that is not small, does not show that the '
    "runs are alike: it shows that these patients cannot tell them apart. With several runs some p is small by "
    "chance alone.</p>"
)
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shared:
    """The patients that all runs have scored."""

    ids: tuple[str, ...]
    labels_P: Ints
    classes: tuple[str, ...]
    probs: dict[str, Floats]
    """Run -> calibrated out-of-fold probabilities (P, C)."""
    notes: tuple[str, ...]


@stage
def compare(options: CompareOptions, progress: Progress | None = None) -> Summary:
    """Compare runs; write a table, its JSON and a page.

    Raises
    ------
    RequestError
        A run is not finished, classes or labels differ, or no patient is in all of them.
    """
    start, progress = time.monotonic(), progress or Silent()
    if (options.out / "config.toml").exists():
        raise RequestError(f"--out {options.out}: expected a folder for the comparison, found a run: choose another")
    shared = read_shared(options.runs)
    tables = Tables(options.out / "compare.json", (options.out / "compare.csv", options.out / "compare.html"), MARK)
    recipe = {"runs": folders_told(options.runs, options.out), "seed": options.seed}
    check_folder(options.out)
    with claim(options.out):
        if tables.earlier(recipe, overwrite=options.overwrite) is not None:
            return Summary("compare", [Outcome(str(options.out), Status.SKIPPED)], time.monotonic() - start)
        return _compared(options, shared, tables, recipe, start, progress)


def _compared(
    options: CompareOptions, shared: Shared, tables: Tables, recipe: Json, start: float, progress: Progress
) -> Summary:
    """Compare, and write the table, its JSON and the page."""
    for note in shared.notes:
        progress.note(note)
    progress.begin("compare", len(shared.probs), "runs")
    rows = compared(shared, options.seed, lambda: progress.advance(1))
    progress.end()
    make_folder(options.out)
    about = {"patients": len(shared.ids), "classes": list(shared.classes), "notes": list(shared.notes)}
    about |= {"patients_compared": "across folds (pooled)", "runs": rows}
    texts = {tables.files[0]: _csv(rows), tables.files[1]: _page(shared, rows)}
    tables.write(recipe, texts, {"folders": recipe["runs"], **about})
    facts = {"patients": len(shared.ids), "auc": {name: row["metrics"]["auc"]["value"] for name, row in rows.items()}}
    return Summary("compare", [Outcome(str(options.out), Status.DONE, facts=facts)], time.monotonic() - start)


def read_shared(runs: Sequence[Path]) -> Shared:
    """Return what the runs say of the patients that they share, named as shortly as tells them apart."""
    found = [read_evidence(RunFolder(run)) for run in runs]
    for run in runs:
        if RunFolder(run).recipe.get("unit") == "slide":
            raise RequestError(f"{run}: its slides are judged by themselves (--unit slide): expected a run by patient")
    classes = tuple(found[0].classes)
    for run, evidence in zip(runs, found, strict=True):
        if tuple(evidence.classes) != classes:
            raise RequestError(f"{run}: expected the classes {', '.join(classes)}, found {', '.join(evidence.classes)}")
    tables = [{row["patient_id"]: row for row in evidence.patients} for evidence in found]
    ids = tuple(sorted(set.intersection(*(set(own) for own in tables))))
    if not ids:
        raise RequestError("expected runs on the same patients: no patient is in all of them")
    notes = []
    most = max(len(own) for own in tables)
    if len(ids) < most:
        notes.append(f"compared on the {len(ids)} patients that all runs have, of up to {most}")
    for patient in ids:
        labels = {own[patient]["label"] for own in tables}
        if len(labels) > 1:
            raise RequestError(f"patient {patient}: the runs have different labels of it: {', '.join(sorted(labels))}")
    number_of = {name: position for position, name in enumerate(classes)}
    probs = {
        name: np.array([[float(own[patient][f"p_{c}"]) for c in classes] for patient in ids])
        for name, own in zip(_names(runs), tables, strict=True)
    }
    labels_P = np.array([number_of[tables[0][patient]["label"]] for patient in ids], np.int64)
    if len(np.unique(labels_P)) < len(classes):
        raise RequestError("the patients that the runs share lack a class: expected patients of every class")
    return Shared(ids, labels_P, classes, probs, tuple(notes))


def folders_told(runs: Sequence[Path], out: Path) -> list[Json]:
    """Return what compare.json says of where its runs lie, seen from its own folder."""
    return [
        {"folder": os.path.relpath(run.resolve(), out.resolve()), "recipe_hash": RunFolder(run).config["recipe_hash"]}
        for run in runs
    ]


def _names(runs: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parents as make them different."""
    depth = 1
    while len({tuple(run.resolve().parts[-depth:]) for run in runs}) < len(runs):
        depth += 1
    return ["/".join(run.resolve().parts[-depth:]) for run in runs]


def mean_of(shared: Shared) -> Floats:
    """Return the probabilities of the mean of the runs' log probabilities (P, C)."""
    return mean_probs(list(shared.probs.values()))


def mean_probs(tables: Sequence[Floats]) -> Floats:
    """Return the probabilities (P, C) of the mean of several tables' log probabilities."""
    return softmax(np.mean([np.log(np.clip(probs, CLIP, 1)) for probs in tables], axis=0))


def stack_of(shared: Shared, seed: int) -> Floats:
    """Return the probabilities (P, C) of a logistic regression on the runs' logits, fitted on the other patients."""
    from sklearn.model_selection import StratifiedKFold

    logits_PK = stack_inputs(list(shared.probs.values()))
    parts = int(min(PARTS, np.bincount(shared.labels_P).min()))
    if parts < 2:
        return mean_of(shared)
    result = np.zeros((len(shared.ids), len(shared.classes)))
    for train, test in StratifiedKFold(parts, shuffle=True, random_state=seed).split(logits_PK, shared.labels_P):
        result[test] = fit_stack(logits_PK[train], shared.labels_P[train]).predict_proba(logits_PK[test])
    return result


def stack_inputs(tables: Sequence[Floats]) -> Floats:
    """Return what the stack takes: the logits (P, K) of every run, each class against the first."""
    logs = [np.log(np.clip(probs, 1e-6, 1)) for probs in tables]
    return np.concatenate([log[:, 1:] - log[:, :1] for log in logs], axis=1)


def fit_stack(logits_PK: Floats, labels_P: Ints) -> Any:
    """Return the logistic regression of the stack, fitted on these patients."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight="balanced", C=1.0, max_iter=1000).fit(logits_PK, labels_P)


def compared(shared: Shared, seed: int, tell: "Callable[[], None]" = lambda: None) -> dict[str, Json]:
    """Return for each run and ensemble its metrics with intervals, and what sets it apart from the first run."""
    draws_BP = draw_patients(len(shared.ids), seed)
    tables = {**shared.probs, MEAN: mean_of(shared), STACK: stack_of(shared, seed)}
    first = next(iter(tables.values()))
    base = {name: metric(shared.labels_P, first, draws_BP) for name, metric in METRICS.items()}
    rows: dict[str, Json] = {}
    for position, (name, probs) in enumerate(tables.items()):
        metrics = {key: finite(asdict(found)) for key, found in estimate_all(shared.labels_P, probs, draws_BP).items()}
        rows[name] = {"metrics": metrics}
        if position:
            rows[name]["difference"] = {
                key: finite(_difference(key, shared.labels_P, first, probs, draws_BP, base[key])) for key in METRICS
            }
            rows[name]["delong"] = finite(asdict(_tested(shared.labels_P, first, probs)))
        tell()
    return rows


def _difference(key: str, labels_P: Ints, first: Floats, second: Floats, draws_BP: Floats, base_B: Floats) -> Json:
    """Return the metric's difference with the paired bootstrap's interval: the same draws for both."""
    weights = ones(len(labels_P))
    value = float(METRICS[key](labels_P, second, weights)[0] - METRICS[key](labels_P, first, weights)[0])
    low, high = percentile_interval(METRICS[key](labels_P, second, draws_BP) - base_B)
    return {"value": value, "low": low, "high": high}


def _tested(labels_P: Ints, first: Floats, second: Floats) -> DeLong:
    """Return DeLong's test; with more than two classes of the class with the smallest p, times the classes."""
    n_classes = first.shape[1]
    if n_classes == 2:
        return delong(labels_P == 1, first[:, 1], second[:, 1])
    tests = [delong(labels_P == c, first[:, c], second[:, c]) for c in range(n_classes)]
    least = min(tests, key=lambda test: test.p if test.p == test.p else -1.0)  # one that cannot be told comes first
    return DeLong(least.difference, least.deviation, min(1.0, least.p * n_classes))


def _csv(rows: Mapping[str, Json]) -> str:
    columns = [
        f"{key}{part}"
        for key in METRICS
        for part in ("", "_low", "_high", "_difference", "_difference_low", "_difference_high")
    ]
    lines: list[list[Any]] = [["run", *columns, "delong_p"]]
    for name, row in rows.items():
        cells: list[Any] = []
        for key in METRICS:
            gap = row.get("difference", {}).get(key, {})
            cells += [row["metrics"][key][part] for part in ("value", "low", "high")]
            cells += [gap.get(part) for part in ("value", "low", "high")]
        lines.append([name, *cells, _p(row)])
    return csv_text(lines)


def _p(row: Json) -> str:
    p = row.get("delong", {}).get("p")
    return "" if p is None else f"{p:.3g}"


def _shown_p(row: Json) -> str:
    p = row["delong"]["p"]
    return "\N{EN DASH}" if p is None else "&lt; 0.001" if p < 0.001 else f"{p:.3f}"


def _page(shared: Shared, rows: Mapping[str, Json]) -> str:
    keys = ("auc", "weighted_log_loss", "balanced_accuracy", "brier")
    body, gaps = [], []
    for name, row in rows.items():
        cells = [_cell(row["metrics"][key]) for key in keys]
        body.append([escape(name), *cells])
        if "difference" in row:
            gaps.append([escape(name), *(_cell(row["difference"][key], signed=True) for key in keys), _shown_p(row)])
    names = [METRIC_NAMES[key][0] for key in keys]
    first = escape(next(iter(rows)))
    figure = compare_figure({name: row["metrics"]["auc"] for name, row in rows.items()})
    return fill(
        "page_template.html",
        title=f"Comparison of {len(shared.probs)} runs",
        headline=f"{len(shared.probs)} runs on the same <b>{len(shared.ids)} patients</b>, none seen by the models "
        "that score them",
        notes="".join(f"<p>{escape(note)}</p>" for note in shared.notes),
        body="<h2>Metrics</h2>"
        + table(f"{POOLED} 95 % intervals: patients drawn with replacement, 2,000 times.", ["run", *names], body)
        + "<h2>Differences</h2>"
        + table(
            f"Differences to {first}; the same draws of patients for both. p: DeLong's paired test of the AUC.",
            ["run", *names, "p"],
            gaps,
        )
        + NOT_ALIKE,
        figure=image(
            figure, "AUC of each run with its interval", "AUC, folds pooled, with its 95 % interval; 0.5 is chance."
        ),
    )


def _cell(estimate: Json, signed: bool = False) -> str:
    value = estimate["value"]
    sign = "+" if signed and value is not None and value > 0 else ""
    return f'{sign}{number(value)}<br><span class="ci">{interval(estimate)}</span>'
