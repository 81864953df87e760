"""model_card.md: what the model is, what it was made from, how good it is, and what it must not be used for.

Form: Mitchell et al., Model Cards for Model Reporting, FAT* 2019, arXiv 1810.03993.
"""

from mil.report.report_html import METRIC_NAMES, interval, number
from mil.run.evidence import TITLES, Evidence
from mil.run.protocol import put_together, split_by


def model_card(evidence: Evidence) -> str:
    """Return the card as Markdown."""
    return "\n".join([*_what(evidence), *_data(evidence), *_results(evidence), *_limits(evidence)]) + "\n"


def plain(text: str) -> str:
    """Return text from outside so that Markdown shows it as it is, on one line."""
    marked = "".join(f"\\{char}" if char in "\\`*_{}[]()#+!|<>~" else char for char in text)
    return " ".join(marked.split())


def _what(evidence: Evidence) -> list[str]:
    recipe = evidence.config["recipe"]
    models = recipe["folds"] * evidence.run.models_per_fold
    return [
        f"# Model card: {plain(' vs '.join(evidence.classes))}",
        "",
        (
            f"{TITLES.get(evidence.head, plain(evidence.head))} on tile features of whole-slide images; "
            f"{models} models ({recipe['folds']} folds x {evidence.run.models_per_fold} a fold), logits averaged. "
            "One row of class probabilities per patient, for equal class priors."
        ),
        "",
        f"- Recipe: `{evidence.config['recipe_hash']}`",
        f"- Encoder: {plain(recipe['bags']['encoder'] or 'not told by the bags')} ({recipe['bags']['dim']} features)",
        f"- Encoder trained: {plain(str(evidence.encoder.get('trained', 'not told by the bags')))}",
        f"- Temperature: {number(evidence.calibration['temperature'])} ({plain(evidence.calibration['method'])})",
        "",
    ]


def _data(evidence: Evidence) -> list[str]:
    metrics = evidence.metrics
    counts = zip(evidence.classes, metrics["patients_per_class"], strict=True)
    return [
        "## Data",
        "",
        f"{metrics['patients']} patients, {metrics['slides']} slides, {len(metrics['centers'])} centers. "
        "Patients per class: "
        + ", ".join(f"{plain(name)} {count}" for name, count in counts)
        + f". {split_by(evidence.config['recipe'])} {put_together(evidence.config['recipe'])}",
        "",
    ]


def _results(evidence: Evidence) -> list[str]:
    lines = ["## Out-of-fold results, patient level", "", "| metric | value | 95 % interval |", "|---|---|---|"]
    for key, (name, _) in METRIC_NAMES.items():
        if key not in evidence.own:
            continue
        found = evidence.own[key]
        lines.append(f"| {name} | {number(found['value'])} | {interval(found)} |")
    lines += ["", "| model | AUC | weighted log loss |", "|---|---|---|"]
    for model, found in evidence.metrics["models"].items():
        auc, loss = found["auc"], found["weighted_log_loss"]
        lines.append(
            f"| {TITLES.get(model, plain(model))} | {number(auc['value'])} ({interval(auc)}) "
            f"| {number(loss['value'])} ({interval(loss)}) |"
        )
    return [*lines, ""]


def _limits(evidence: Evidence) -> list[str]:
    warnings = [f"- {plain(line)}" for line in evidence.warnings()]
    return [
        "## Limits",
        "",
        "- For research. Not a medical device; not for diagnosis.",
        "- Measured on patients of the centers above. Other scanners, stains and centers can lower the result.",
        "- Probabilities stand for equal class priors; correct them for the prior where it is known.",
        "- Attention shows where the model looked, not what is abnormal.",
        *warnings,
    ]
