"""The parts of report.html as HTML. Every id and name from outside is escaped here."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import tomli_w

from mil.run.evidence import EXPLAINED, TITLES, Evidence
from mil.run.protocol import divided, put_together

METRIC_NAMES = {
    "auc": ("AUC", "Chance that a patient of one class is ranked above one of the other. 0.5 is chance, 1 is perfect."),
    "auc_pooled": (
        "AUC, folds pooled",
        "As the AUC, but patients of different folds are compared, too, though different models scored them.",
    ),
    "weighted_log_loss": ("Weighted log loss", "The competition's score, classes count equally. Lower is better."),
    "balanced_accuracy": ("Balanced accuracy", "Mean share of patients found in each class."),
    "average_precision": ("Average precision", "Area under precision and recall of the rarer class."),
    "brier": ("Brier score", "Squared error of the probabilities, classes count equally. Lower is better."),
    "ece": ("Calibration error", "How far stated confidence is from the truth, on average. Lower is better."),
}


def number(value: float | None, digits: int = 3) -> str:
    """Return the number with fixed digits, or a dash where it is not defined."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}"


def interval(estimate: dict[str, Any], digits: int = 3) -> str:
    """Return ``low to high``."""
    return f"{number(estimate['low'], digits)} to {number(estimate['high'], digits)}"


def title_of(model: str) -> str:
    """Return the model's name for a reader, escaped."""
    return escape(TITLES.get(model, model))


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """Return a table of ready HTML cells; columns after the first are numbers; ``classes`` are CSS classes of rows."""
    names = "".join(f'<th scope="col"{"" if i == 0 else _NUMERIC}>{name}</th>' for i, name in enumerate(head))
    marks = list(classes) or [""] * len(rows)
    body = "".join(
        f'<tr class="{mark}">'
        + "".join(f"<td{'' if i == 0 else _NUMERIC}>{cell}</td>" for i, cell in enumerate(row))
        + "</tr>\n"
        for row, mark in zip(rows, marks, strict=True)
    )
    return (
        f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{names}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )


_NUMERIC = ' class="n"'


def headline(evidence: Evidence) -> str:
    """Return the result in one sentence."""
    auc, classes = evidence.own["auc"], [escape(name) for name in evidence.classes]
    what = (
        f"{classes[0]} from {classes[1]}" if len(classes) == 2 else f"{', '.join(classes[:-1])} and {classes[-1]} apart"
    )
    return (
        f"On {evidence.metrics['patients']} patients that it had not seen, the model told {what} with an "
        f"<b>AUC of {number(auc['value'], 2)}</b> (95&nbsp;% interval {interval(auc, 2)})."
    )


def lead(evidence: Evidence) -> str:
    """Return what the headline means: against chance, and against the best simpler model."""
    own, simpler = evidence.own, evidence.best_simpler()
    low = own["auc"]["low"]
    chance = "better than chance" if low is not None and low > 0.5 else "not shown to be better than chance"
    text = (
        f"That is {chance}. Its weighted log loss is {number(own['weighted_log_loss']['value'])} "
        f"({interval(own['weighted_log_loss'])}); equal probabilities for everybody score "
        f"{number(evidence.metrics['models']['constant']['weighted_log_loss']['value'])}."
    )
    if simpler is not None:
        name, value = simpler
        verb = "reaches" if value < (own["auc"]["value"] or 0) else "does as well or better:"
        text += f" The best simpler model, {title_of(name).lower()}, {verb} an AUC of {number(value, 2)}."
    return text


def warnings(evidence: Evidence) -> str:
    """Return the warnings as a box, or nothing."""
    lines = evidence.warnings()
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="warn"><b>To know before reading on</b><ul>{items}</ul></div>'


def protocol(evidence: Evidence) -> str:
    """Return how the numbers came about, in plain words."""
    metrics, recipe = evidence.metrics, evidence.config["recipe"]
    counts = ", ".join(
        f"{count} {escape(name)}" for name, count in zip(evidence.classes, metrics["patients_per_class"], strict=True)
    )
    return (
        f"{metrics['patients']} patients ({counts}), {metrics['slides']} slides. {divided(recipe)} "
        f"{put_together(recipe)} The intervals say how much the number would move with other patients scored by the "
        "same models "
        f"({metrics['bootstrap']['replicates']:,} draws of patients); what other models, trained anew, would add is "
        "told by --repeats. The AUC compares patients within a fold; "
        "pooled, it also compares patients of different folds, whose models need not have one scale."
    )


def cards(evidence: Evidence) -> str:
    """Return one card per metric."""
    parts = [
        f'<div class="card"><div class="k">{name}</div><div class="v">{number(evidence.own[key]["value"])}</div>'
        f'<div class="ci">{interval(evidence.own[key])}</div><p>{text}</p></div>'
        for key, (name, text) in METRIC_NAMES.items()
        if key in evidence.own  # a run made before there was one
    ]
    return f'<div class="cards">{"".join(parts)}</div>'


def models(evidence: Evidence) -> str:
    """Return the table of the model and everything it is compared with."""
    keys: tuple[str, ...] = ("auc", "auc_pooled", "weighted_log_loss", "balanced_accuracy", "brier", "ece")
    keys = tuple(key for key in keys if key in evidence.own)
    rows = []
    for name, found in evidence.metrics["models"].items():
        note = f'<br><span class="ci">{escape(EXPLAINED[name])}</span>' if name in EXPLAINED else ""
        cells = [f'{number(found[k]["value"])}<br><span class="ci">{interval(found[k])}</span>' for k in keys]
        rows.append([title_of(name) + note, *cells])
    marks = ["own" if name == evidence.head else "" for name in evidence.metrics["models"]]
    head = ["model", *(METRIC_NAMES[key][0] for key in keys)]
    return table("Out-of-fold, patient level; in bold the model of this run.", head, rows, marks)


def confusion(evidence: Evidence) -> str:
    """Return the confusion matrix."""
    names = [escape(name) for name in evidence.classes]
    head = "".join(f'<th scope="col" class="n">predicted {name}</th>' for name in names)
    body = ""
    for i, (name, row) in enumerate(zip(names, evidence.metrics["confusion"], strict=True)):
        cells = "".join(
            f'<td class="n {"hit" if i == j else "miss"}">{count} '
            f'<span class="ci">({count / max(sum(row), 1):.0%})</span></td>'
            for j, count in enumerate(row)
        )
        body += f'<tr><th scope="row">is {name}</th>{cells}</tr>'
    caption = "Patients by true class (rows) and most probable class (columns); per cent of the row."
    return f"<table><caption>{caption}</caption><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def groups(evidence: Evidence, key: str, name: str, caption: str) -> str:
    """Return the table of folds or centers."""
    rows = [
        [
            escape(str(group[name])),
            " / ".join(map(str, group["patients_per_class"])),
            number(group["auc"], 2),
            number(group["weighted_log_loss"]),
        ]
        for group in evidence.metrics[key]
    ]
    counts = " / ".join(escape(label) for label in evidence.classes)
    return table(caption, [name, f"patients {counts}", "AUC", "log loss"], rows)


def making(evidence: Evidence) -> str:
    """Return recipe, encoder, calibration and versions."""
    config, encoder = evidence.config, evidence.encoder
    made = config["recipe"]["bags"]
    trained = ("yes" if encoder["trained"] else "no") if "trained" in encoder else "not told by the bags"
    facts = {
        "Encoder": made["encoder"] or "not told by the bags",
        "Encoder trained": trained,
        "What it is": encoder.get("description", ""),
        "Licence of its weights": encoder.get("licence", ""),
        "Width of the features": made["dim"],
        "Calibration": _calibration(evidence.calibration),
        "Calibration of the folds": "; ".join(map(_calibration, evidence.calibration["folds"])),
        "Recipe": config["recipe_hash"],
        "Versions": ", ".join(f"{name} {found}" for name, found in config["about"]["versions"].items()),
    }
    items = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items() if value != "")
    bag_recipe = json.dumps(json.loads(config["about"]["bag_recipe"]), indent=1)
    return (
        f"<dl>{items}</dl><h3>Settings of the training</h3><pre>{escape(tomli_w.dumps(config['recipe']))}</pre>"
        f"<h3>Settings of the features</h3><pre>{escape(bag_recipe)}</pre>"
    )


def _calibration(values: dict[str, Any]) -> str:
    parts = [values["method"]]
    if values["method"] not in ("none", "prior"):
        parts.append(f"T {number(values['temperature'], 2)}")
    if values["shift"]:
        parts.append("shift " + ", ".join(number(value, 2) for value in values["shift"]))
    if values["floor"]:
        parts.append(f"floor {values['floor']:g}")
    return " ".join(parts)


def probe(evidence: Evidence) -> str:
    """Return how well the features tell the center, in a sentence; nothing where there is one center only."""
    found = evidence.metrics["center_probe"]
    if found is None:
        return ""
    estimate = found["balanced_accuracy"]
    return (
        f"<p>From the mean features alone a logistic regression tells the center of a patient with a balanced accuracy "
        f"of {number(estimate['value'], 2)} ({interval(estimate, 2)}; chance {number(found['chance'], 2)}, "
        f"{found['centers']} centers, {found['patients']} patients). The further above chance, the more a model can "
        f"lean on where a slide was made.</p>"
    )


def image(uri: str, alt: str, caption: str, css: str = "") -> str:
    """Return a figure with its description; ``uri`` is a data URI, ``caption`` ready HTML."""
    return f'<figure class="{css}"><img src="{uri}" alt="{escape(alt)}"><figcaption>{caption}</figcaption></figure>'
