"""The weights that a training leaves: written with recipe and lineage, known again, never those of other settings.

<stem>.safetensors         the backbone as `gigamil extract --weights` and timm load it; recipe and lineage as metadata
<stem>.json                recipe, its hash, lineage, and how it went
<stem>.history.csv, <stem>.steps.csv
"""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from features.encoders.lineage import KEY, Lineage
from features.learning.checkpoint import Standing
from features.tensors import packed, read_texts
from wsi.errors import RequestError
from wsi.files.atomic import write_bytes, write_text
from wsi.files.csv_table import csv_text
from wsi.files.documents import parse_json, read_document
from wsi.files.replace import refuse_foreign, remove
from wsi.recipe import Recipe, canonical, recipe_hash, refuse_other_recipe


class Outputs(Protocol):
    """Options that tell where weights are written."""

    @property
    def out(self) -> Path: ...
    @property
    def overwrite(self) -> bool: ...
    def beside(self, ending: str) -> Path: ...


class Told(Protocol):
    """What stands in the weights' metadata."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def lineage(self) -> Lineage: ...


def metadata_of(cohort: Told) -> dict[str, str]:
    """Return the texts of a file of weights."""
    return {KEY: canonical({"recipe": cohort.recipe, "lineage": cohort.lineage.as_dict()})}


def write_weights(
    options: Outputs, cohort: Told, backbone: nn.Module, standing: Standing, facts: Mapping[str, Any]
) -> None:
    """Write curves, summary, and last the weights; then remove the checkpoint."""
    weights = packed(backbone.state_dict(), metadata_of(cohort))
    write_curves(options, standing)
    told = {
        "recipe": cohort.recipe,
        "recipe_hash": recipe_hash(cohort.recipe),
        "lineage": cohort.lineage.as_dict(),
        "patient_ids_are": "sha256 of the id, without salt",
        **facts,
        "last_epoch": {name: _number(value) for name, value in standing.history[-1].items()},
        "weights_file_sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_text(options.beside(".json"), json.dumps(told, indent=1) + "\n")
    write_bytes(options.out, weights, _is_ours)
    remove(options.beside(".checkpoint"))


def write_curves(options: Outputs, standing: Standing) -> None:
    """Write the loss of every step, and what every epoch came to."""
    write_text(options.beside(".history.csv"), _table(standing.history))
    write_text(options.beside(".steps.csv"), _table(standing.steps))


def is_made(options: Outputs, cohort: Told) -> bool:
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
