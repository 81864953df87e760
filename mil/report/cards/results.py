"""The results on a model card: the run's own metrics, and those of simpler models."""

from mil.report.cards.texts import plain
from mil.run.evidence import Evidence
from wsi.pages import number
from wsi.recipe import Json


def results(evidence: Evidence) -> list[str]:
    """Return the metrics of the run's own head as a table."""
    lines = ["| metric | value | 95 % interval |", "|---|---|---|"]
    return lines + [
        f"| {name} | {number(evidence.own[key]['value'])} | {_interval(evidence.own[key])} |"
        for key, (name, _) in evidence.truth.metrics.items()
        if key in evidence.own
    ]


def figures(evidence: Evidence) -> list[str]:
    """Return the first two metrics of every model and baseline as a table."""
    words = evidence.truth.words
    lines = [f"| model | {words.achieved.partition(' ')[2]} | {words.second} |", "|---|---|---|"]
    for model, found in evidence.metrics["models"].items():
        cells = (f"{number(found[key]['value'])} ({_interval(found[key])})" for key in evidence.truth.shown)
        title = evidence.title(model)
        lines.append(f"| {plain(title) if title == model else title} | {' | '.join(cells)} |")
    return lines


def sentence(evidence: Evidence, spread: Json) -> str:
    """Return whether the model is better than chance, and whether by more than the center, in a sentence."""
    value = evidence.first(evidence.head)
    article, _, what = evidence.truth.words.achieved.partition(" ")
    told = f"with {article} {what} of {number(value, '.2f')} on patients that it had not seen"
    doubt = "**It is not shown to be better than chance**"
    better = "It is better than chance" if evidence.above_chance(spread) else doubt
    center = f" **Mind the center:** {plain(evidence.about_center())}." if evidence.told_by_center(spread) else ""
    return f"{better}, {told}.{center}"


def _interval(found: Json) -> str:
    return f"{number(found['low'])} to {number(found['high'])}"
