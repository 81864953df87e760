"""model_card.md: what the model is, what it was made from, how good it is, and what it must not be used for.

Form: Mitchell et al., Model Cards for Model Reporting, FAT* 2019, arXiv 1810.03993.
"""

from mil.run.evidence import Evidence
from mil.run.protocol import put_together, split_by
from wsi.pages import number
from wsi.recipe import Json


def model_card(evidence: Evidence) -> str:
    """Return the card as Markdown."""
    return "\n".join([*_what(evidence), *_data(evidence), *_results(evidence), *_limits(evidence)]) + "\n"


def plain(text: str) -> str:
    """Return text from outside so that Markdown shows it as it is, on one line."""
    marked = "".join(f"\\{char}" if char in "\\`*_{}[]()#+!|<>~" else char for char in text)
    return " ".join(marked.split())


def _what(evidence: Evidence) -> list[str]:
    recipe, words = evidence.config["recipe"], evidence.truth.words
    models = recipe["folds"] * evidence.run.models_per_fold
    trained = ", ".join(str(own.get("trained", "not told by the bags")) for own in evidence.encoders)
    return [
        f"# Model card: {plain(words.joint.join(evidence.classes))}",
        "",
        (
            f"{_title(evidence, evidence.head)} on tile features of whole-slide images; "
            f"{models} models ({recipe['folds']} folds x {evidence.run.models_per_fold} a fold), logits averaged. "
            f"{words.row}"
        ),
        "",
        f"- Recipe: `{evidence.config['recipe_hash']}`",
        f"- Encoder: {plain(recipe['bags']['encoder'] or 'not told by the bags')} ({recipe['bags']['dim']} features)",
        f"- Encoder trained: {plain(trained)}",
        f"- Temperature: {number(evidence.calibration['temperature'])} ({plain(evidence.calibration['method'])})",
        "",
    ]


def _title(evidence: Evidence, model: str) -> str:
    title = evidence.title(model)
    return plain(title) if title == model else title


def _data(evidence: Evidence) -> list[str]:
    metrics = evidence.metrics
    return [
        "## Data",
        "",
        f"{metrics['patients']} patients, {metrics['slides']} slides, {len(metrics['centers'])} centers. "
        f"{evidence.truth.words.counted}: "
        + ", ".join(f"{plain(name)} {count}" for name, count in evidence.carried().items())
        + f". {split_by(evidence.config['recipe'])} {put_together(evidence.config['recipe'])}",
        "",
    ]


def _results(evidence: Evidence) -> list[str]:
    metrics, shown = evidence.truth.metrics, evidence.truth.shown
    lines = ["## Out-of-fold results, patient level", "", "| metric | value | 95 % interval |", "|---|---|---|"]
    lines += [
        f"| {name} | {number(evidence.own[key]['value'])} | {_interval(evidence.own[key])} |"
        for key, (name, _) in metrics.items()
        if key in evidence.own
    ]
    words = evidence.truth.words
    lines += ["", f"| model | {words.achieved.partition(' ')[2]} | {words.second} |", "|---|---|---|"]
    for model, found in evidence.metrics["models"].items():
        cells = (f"{number(found[key]['value'])} ({_interval(found[key])})" for key in shown)
        lines.append(f"| {_title(evidence, model)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _interval(found: Json) -> str:
    return f"{number(found['low'])} to {number(found['high'])}"


def _limits(evidence: Evidence) -> list[str]:
    warnings = [f"- {plain(line)}" for line in evidence.warnings()]
    return [
        "## Limits",
        "",
        "- For research. Not a medical device; not for diagnosis.",
        "- Measured on patients of the centers above. Other scanners, stains and centers can lower the result.",
        f"- {evidence.truth.words.caveat}",
        "- Attention shows where the model looked, not what is abnormal.",
        *warnings,
    ]
