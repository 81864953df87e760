"""What a fine-tuning leaves: the backbone's weights, the classifier, the curves, the splits, and a summary beside.

<stem>.safetensors         the backbone as `gigamil extract --weights` and timm load it; recipe and lineage as metadata
<stem>.head.safetensors    the classifier on its features: weight (C, D), bias (C)
<stem>.json                recipe, its hash, lineage, classes, and how it went
<stem>.history.csv, <stem>.steps.csv, <stem>.splits.csv
"""

import hashlib
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from features.encoders.lineage import KEY
from features.finetune.checkpoint import Standing
from features.finetune.cohort import Cohort
from features.finetune.model import TileClassifier
from features.finetune.options import FinetuneOptions
from features.tensors import packed, read_texts
from wsi.errors import RequestError
from wsi.files.atomic import write_bytes, write_text
from wsi.files.csv_table import csv_text
from wsi.files.documents import parse_json, read_document
from wsi.files.replace import refuse_foreign, remove
from wsi.recipe import canonical, recipe_hash, refuse_other_recipe


def write_results(options: FinetuneOptions, cohort: Cohort, model: TileClassifier, standing: Standing) -> None:
    """Write everything, the weights last; then remove the checkpoint."""
    metadata = {KEY: canonical({"recipe": cohort.recipe, "lineage": cohort.lineage.as_dict()})}
    weights = packed(model.backbone.state_dict(), metadata)
    write_bytes(options.beside(".head.safetensors"), packed(model.head.state_dict(), metadata))
    write_text(options.beside(".history.csv"), _table(standing.history))
    write_text(options.beside(".steps.csv"), _table(standing.steps))
    write_text(options.beside(".splits.csv"), cohort.splits_table)
    facts = {
        "recipe": cohort.recipe,
        "recipe_hash": recipe_hash(cohort.recipe),
        "lineage": cohort.lineage.as_dict(),
        "patient_ids_are": "sha256 of the id, without salt",
        "classes": list(cohort.classes),
        "kept_epoch": standing.best_epoch if options.keep == "best" else options.epochs,
        "last_epoch": {name: _number(value) for name, value in standing.history[-1].items()},
        "weights_file_sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_text(options.beside(".json"), json.dumps(facts, indent=1) + "\n")
    write_bytes(options.out, weights, _is_ours)
    remove(options.beside(".checkpoint"))


def is_made(options: FinetuneOptions, cohort: Cohort) -> bool:
    """Tell whether the weights are there, whole and of this recipe; refuse those of another.

    Raises
    ------
    RecipeMismatchError
        They were made with other settings.
    RequestError
        The file there was not made by this program.
    """
    refuse_foreign(options.out, _is_ours)
    if options.overwrite and not _has_recipe(options.out, recipe_hash(cohort.recipe)):
        return False
    if not options.out.exists():
        return False
    refuse_other_recipe(options.out, _recipe(options.out) or {}, cohort.recipe)
    with suppress(ValueError, KeyError, TypeError):
        known = parse_json(read_document(options.beside(".json"), RequestError))["weights_file_sha256"]
        return bool(known == hashlib.sha256(options.out.read_bytes()).hexdigest())
    return False


def last_facts(options: FinetuneOptions) -> dict[str, Any]:
    """Return what the summary tells of finished weights."""
    facts = json.loads(options.beside(".json").read_text())
    return {"kept_epoch": facts["kept_epoch"], "fold": facts["lineage"]["fold"], **facts["last_epoch"]}


def _has_recipe(path: Path, wanted: str) -> bool:
    found = _recipe(path)
    return found is not None and recipe_hash(found) == wanted


def _is_ours(path: Path) -> bool:
    return _recipe(path) is not None


def _recipe(path: Path) -> dict[str, Any] | None:
    with suppress(ValueError, KeyError, TypeError):  # a RequestError of the name is a ValueError, too
        return dict(parse_json(read_texts(path, RequestError)[KEY])["recipe"])
    return None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN and no infinity


def _table(rows: list[dict[str, float]]) -> str:
    return csv_text([list(rows[0]), *(list(row.values()) for row in rows)])
