"""A recipe: the settings that shape an output, as canonical JSON and its sha256.

Worker counts, batch sizes and devices are not part of it. Two outputs with one recipe hash hold the same content.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi.errors import RecipeMismatchError

Recipe = dict[str, Any]
"""JSON values only: str, int, float, bool, None, and lists and dicts of them."""
Json = dict[str, Any]
"""A JSON object that is no recipe."""


def canonical(recipe: Mapping[str, Any]) -> str:
    """Return the recipe as JSON with sorted keys and no spaces: one text per meaning."""
    return json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of the canonical JSON."""
    return hashlib.sha256(canonical(recipe).encode()).hexdigest()


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name each field that differs, as ``field: found 256, wanted 224``; nested fields are dotted."""
    lines: list[str] = []
    for key in sorted({*found, *wanted}):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += [f"{key}.{line}" for line in differences(old, new)]
        elif canonical({"v": old}) != canonical({"v": new}):
            lines.append(f"{key}: found {json.dumps(old)}, wanted {json.dumps(new)}")
    return lines


def refuse_other_recipe(output: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `RecipeMismatchError` naming the differing fields, unless the two recipes are the same."""
    lines = differences(found, wanted)
    if lines:
        raise RecipeMismatchError(
            f"{output} was made with other settings ({'; '.join(lines)}): "
            "choose another --out, or give --overwrite to replace it"
        )
