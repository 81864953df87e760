"""The one door to a run folder's files: whether every value in them is of the kind that the rest relies on."""

import tomllib
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

from mil.targets import TARGETS, Target, target_of
from wsi.errors import RequestError, one_line
from wsi.files.csv_table import read_records
from wsi.files.documents import parse_json, read_document
from wsi.recipe import Recipe, recipe_hash

FORMAT = "gigamil-run-1"


def damaged(path: Path, why: str) -> RequestError:
    """Return the one error for a file of a run that is not as it was written."""
    return RequestError(f"{path} is damaged ({one_line(why, 200)}): copy it again, or train the run again")


def run_json(path: Path, *, finite: bool = False) -> dict[str, Any]:
    """Return a JSON object of a run's; `RequestError` where the file holds none, `OSError` where the storage fails."""
    try:
        content = parse_json(read_document(path, RequestError), finite=finite)
    except RequestError:
        raise
    except ValueError as error:
        raise damaged(path, str(error)) from None
    if not isinstance(content, dict):
        raise damaged(path, "it is no JSON object")
    return content


def checked_table(path: Path, texts: Sequence[str], numbers: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return the rows of a table of the run, in which these columns stand, ``numbers`` finite in every row.

    Raises
    ------
    RequestError
        The run is not finished, or the table is not as it was written.
    """
    try:
        records = read_records(path)
        for row, record in enumerate(records, start=2):
            absent = [name for name in (*texts, *numbers) if name not in record]
            if absent:
                raise ValueError(f"column {absent[0]} is missing")
            strange = [name for name in numbers if not isfinite(float(record[name]))]
            if strange:
                raise ValueError(f"row {row}: {strange[0]} is {record[strange[0]]}: expected a number")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RequestError(f"{path}: the run is not finished ({error}); train it to its end") from None
    except ValueError as error:
        raise damaged(path, str(error)) from None
    if not records:
        raise damaged(path, "it has no rows")
    return records


def checked_config(path: Path, text: str) -> dict[str, Any]:
    """Return config.toml when every field that is used has the kind of value that it must have."""
    try:
        return deepcopy(_checked_config(path, text))
    except RecursionError as error:
        raise damaged(path, str(error)) from None


@lru_cache(maxsize=8)
def _checked_config(path: Path, text: str) -> dict[str, Any]:
    """Read and check a text once: a training asks for its own some 80 times."""
    try:
        config = tomllib.loads(text)
    except ValueError as error:
        raise damaged(path, str(error)) from None
    if config.get("format") != FORMAT:
        found = one_line(repr(config.get("format")), 60)
        raise RequestError(f"{path.parent}: expected format {FORMAT} in config.toml, found {found}")
    problem = _problem_of_config(config)
    if problem:
        raise damaged(path, problem)
    return config


def _is_scale(told: Any) -> bool:
    wanted = [told.get(name) for name in ("mpp", "tile_px")] if isinstance(told, dict) else [None]
    return all(isinstance(own, int | float) and not isinstance(own, bool) and 0 <= own < float("inf") for own in wanted)


def _problem_of_config(config: dict[str, Any]) -> str:
    recipe, about = config.get("recipe"), config.get("about")
    if not isinstance(recipe, dict) or not isinstance(about, dict):
        return "expected the tables recipe and about"
    for name, fits, wanted in _FIELDS:
        if name in recipe and not fits(recipe[name]):
            return f"{name}: expected {wanted}, found {recipe[name]!r}"
    absent = [name for name in ("head", "folds", "seeds", "classes", "precision", "bags") if name not in recipe]
    if absent:
        return f"{absent[0]} is missing"
    try:
        bag_recipe, encoder = (parse_json(about[name], finite=True) for name in ("bag_recipe", "encoder"))
    except (KeyError, ValueError, TypeError, AttributeError):
        return "about.bag_recipe and about.encoder: expected JSON"
    if not isinstance(bag_recipe, dict) or not isinstance(encoder, dict | list):
        return "about.bag_recipe and about.encoder: expected JSON objects"
    if not isinstance(about.get("versions", {}), dict):
        return "about.versions: expected a table"
    scales = about.get("bag_scales", [])
    if not isinstance(scales, list) or not all(map(_is_scale, scales)):
        return "about.bag_scales: expected tables of mpp and tile_px, each a number"
    if recipe_hash(bag_recipe) != recipe["bags"].get("recipe_hash"):
        return "about.bag_recipe is not the one that the run was trained with"
    if recipe_hash(recipe) != config.get("recipe_hash"):
        return "its recipe is not the one that the run was trained with: recipe_hash differs"
    return ""


def _is_count(value: Any, least: int = 1, most: int = 1 << 20) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_bags(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("encoder"), str) and _is_count(value.get("dim"))


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(own, str) and own for own in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_FIELDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("head", _is_text, "the name of a head"),
    ("folds", lambda value: _is_count(value, 2), "a number of 2 or more"),
    ("seeds", _is_count, "a number of 1 or more"),
    ("models_per_fold", _is_count, "a number of 1 or more"),
    ("classes", _is_names, "a list of names"),
    ("precision", lambda value: value in ("fp32", "bf16", "fp16"), "fp32, bf16 or fp16"),
    ("bags", _is_bags, "encoder and dim"),
    ("target", lambda value: value in TARGETS, "a target"),
    ("fusion", lambda value: value in ("none", "concat", "late", "folds"), "a fusion"),
    ("aggregate", _is_text, "a word"),
    ("split", _is_text, "a word"),
)
"""Fields of the recipe: whether a value fits, and what is expected."""


def _problem_of_metrics(content: dict[str, Any], recipe: Recipe) -> str:
    models, head = content.get("models"), content.get("head")
    if content.get("classes") != recipe["classes"] or head != recipe["head"]:
        return "head and classes: expected those of config.toml"
    if not isinstance(models, dict) or not isinstance(models.get(head), dict):
        return "models: expected the metrics of the run's head"
    for model, found in models.items():
        if not isinstance(found, dict) or not all(_is_estimate(own) for own in found.values()):
            return f"models.{model}: expected value, low and high of each metric"
        absent = [name for name in target_of(recipe).shown if name not in found]
        if absent:
            return f"models.{model}: {absent[0]} is missing"
    kinds = {"failures": dict, "warnings": list, "seen_stores": list, "patients": int, "slides": int}
    wrong = next((name for name, kind in kinds.items() if not isinstance(content.get(name), kind)), None)
    if wrong is not None:
        return f"{wrong}: expected a {kinds[wrong].__name__}"
    target, size = target_of(recipe), len(recipe["classes"])
    wanted = [name for name in _METRICS if name in content or name in target.needed]
    wrong = next((name for name in wanted if not _METRICS[name](content.get(name), size, target)), None)
    return "" if wrong is None else f"{wrong}: expected what the evaluation writes, found {content.get(wrong)!r:.80}"


def _is_estimate(value: Any) -> bool:
    parts = [value.get(part, "") for part in ("value", "low", "high")] if isinstance(value, dict) else [""]
    return all(part is None or _is_number(part) for part in parts)


def _is_row(value: Any, size: int, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == size and all(map(fits, value))


def _is_tally(value: Any) -> bool:
    return _is_count(value, 0, 1 << 40)


def _are_groups(value: Any, size: int, target: type[Target]) -> bool:
    def fits(own: Any) -> bool:
        scores = [own.get(name, "") for name in target.shown] if isinstance(own, dict) else [""]
        known = all(score is None or _is_number(score) for score in scores)
        counts = [name for name in ("patients_per_class", "carried_by") if name in own]
        named = isinstance(own.get("center"), str) or _is_tally(own.get("fold"))
        return known and named and bool(counts) and all(_METRICS[name](own[name], size, target) for name in counts)

    return isinstance(value, list) and all(map(fits, value))


def _is_probe(value: Any) -> bool:
    if value is None:
        return True
    numbers = [value.get(name) for name in ("chance", "centers", "patients")] if isinstance(value, dict) else [None]
    return all(map(_is_number, numbers)) and _is_estimate(value.get("balanced_accuracy"))


def _is_robustness(value: Any) -> bool:
    if value is None:
        return True
    numbers = [value.get(name) for name in ("chance", "neighbours", "patients")] if isinstance(value, dict) else [None]
    return all(map(_is_number, numbers)) and _is_estimate(value.get("index"))


_METRICS: dict[str, Callable[[Any, int, type[Target]], bool]] = {
    "patients_per_class": lambda value, n, _: _is_row(value, n, _is_tally),
    "carried_by": lambda value, *_: isinstance(value, dict) and all(map(_is_tally, value.values())),
    "patients_scored": lambda value, *_: _is_tally(value),
    "default": lambda value, n, _: _is_row(value, n, _is_number),
    "confusion": lambda value, n, _: _is_row(value, n, lambda row: _is_row(row, n, _is_tally)),
    "folds": _are_groups,
    "centers": _are_groups,
    "center_probe": lambda value, *_: _is_probe(value),
    "robustness_index": lambda value, *_: _is_robustness(value),
    "bootstrap": lambda value, *_: isinstance(value, dict) and _is_count(value.get("replicates"), 1, 1 << 40),
}
"""Fields of metrics.json: whether a value fits so many outputs of a target."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _problem_of_calibration(content: dict[str, Any], recipe: Recipe) -> str:
    folds = content.get("folds", [])
    target, given = target_of(recipe), len(folds) if isinstance(folds, list) else -1
    if given != (recipe["folds"] if target.calibrated else 0) and not (target.located and given == recipe["folds"]):
        return f"folds: expected {recipe['folds']}"
    return next((problem for own in (content, *folds) if (problem := _problem_of_one(own, len(recipe["classes"])))), "")


def _problem_of_one(values: Any, n_classes: int) -> str:
    if not isinstance(values, dict) or not isinstance(values.get("method"), str):
        return "expected a method"
    shift, floor = values.get("shift", []), values.get("floor", 0)
    if not (_is_number(values.get("temperature")) and values["temperature"] > 0):
        return f"temperature: expected a number above 0, found {values.get('temperature')!r}"
    if not isinstance(shift, list) or len(shift) not in (0, n_classes) or not all(map(_is_number, shift)):
        return f"shift: expected no number or {n_classes}, found {shift!r}"
    if not _is_number(floor) or not 0 <= floor * n_classes < 1:
        return f"floor: expected a probability, found {floor!r}"
    return ""


CONTENTS: dict[str, Callable[[dict[str, Any], Recipe], str]] = {
    "metrics.json": _problem_of_metrics,
    "calibration.json": _problem_of_calibration,
}
"""What is wrong with the content of a file; nothing where it is as it must be."""
