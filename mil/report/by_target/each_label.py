"""The section on labels: each by itself, and their mean."""

from mil.report.by_target.shown import Cell, Shown, Table, estimated, said
from wsi.recipe import Json

METRICS = {"auc": ".2f", "average_precision": ".2f", "brier": ".3f", "brier_gain": ".2f"}


def shown_labels(found: Json, unit: str) -> Shown:
    """Return the table of what `mil.evaluation.by_target.each_label` found."""
    rows = [
        (
            Cell(own["label"]),
            *(Cell(str(own[name])) for name in ("with", "without", "unknown")),
            said(own["share"], ".2f"),
            *(estimated(own.get(name), form) for name, form in METRICS.items()),
        )
        for own in found["labels"]
    ]
    mean = (
        Cell("mean over labels"),
        *[Cell("")] * 4,
        *(estimated(found["macro"][name], form) for name, form in METRICS.items()),
    )
    partly = found["partly_known"] + found["not_known"]
    told = (
        f"Of {partly} {unit}s not every label is known. They count for those that are; whoever's labels are not known "
        "may differ from the others, and nothing here says by how much."
        if partly
        else f"Every label is known of all {unit}s."
    )
    return Shown(title="Each label", lead=told, tables=[_table([*rows, mean], unit)], plots=[], told=found)


def _table(rows: list[tuple[Cell, ...]], unit: str) -> Table:
    return Table(
        name="Each label",
        caption=f"AUC compares {unit}s of one fold (0.5 is chance). Average precision is to be held against the share "
        "who have the label. Brier score: squared error of the probability; beside it how much of the error of telling "
        "everybody the label's share it takes away (0: nothing; below: worse). Of many labels one in twenty intervals "
        "misses the truth.",
        head=(
            *("label", "have it", "have it not", "not known", "share"),
            *("AUC", "average precision", "Brier score", "less than the share's"),
        ),
        rows=rows,
    )
