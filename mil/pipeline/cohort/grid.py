"""The experiments of a cohort file: its [[experiments]], and the product of its [grid]; [train] is under both."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from features.extraction.options import ExtractOptions, folder_name
from mil.auto.rules import VERSION
from mil.pipeline.cohort.tables import EXPERIMENTS, GRID, CohortTables, Values
from mil.training.options import TrainOptions
from wsi.errors import RequestError
from wsi.files.regular import file_sha256
from wsi.option_files import nearest
from wsi.options import specs, with_given
from wsi.recipe import Recipe, recipe_hash

_MOST = 10_000
"""Experiments of a file."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}")
_OWN = ("name", "encoder", "priority")
"""Keys of an experiment that are no options of train."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run to train: an encoder's bags, and settings."""

    name: str
    """Of its row, and of its folder in runs/."""
    encoder: str
    """As `gigamil extract` names it; several, whose bags are fused, with commas between them."""
    priority: float
    """Larger comes first. Once its row is in the table of experiments, what stands there counts."""
    options: TrainOptions
    settings: Mapping[str, Any]
    """What was asked of training and is not the default, but for the head: JSON values by field."""
    recipe: Recipe
    """What was asked that shapes the result: of training, extraction and tiling, and the tables' content."""

    @cached_property
    def recipe_hash(self) -> str:
        """Hash of the recipe."""
        return recipe_hash(self.recipe)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders, one by one."""
        return tuple(self.encoder.split(","))


@dataclass(frozen=True, kw_only=True)
class Beneath:
    """What all experiments of a file stand on."""

    folder: Path
    """The cohort's."""
    manifest: Path
    columns: str | None
    train: Values
    """[train], by field."""
    extract: Mapping[str, ExtractOptions]
    """By encoder."""
    below: Recipe
    """What shapes the stores, and the manifest."""


def encoders_of(tables: CohortTables) -> tuple[str, ...]:
    """Return the encoders that a file names: in [extract], else in its experiments and grid; ``texture`` otherwise."""
    own = tables.found.get("extract", {}).get("encoder")
    if own is not None:
        named = _several(own, f"{tables.path}, [extract]: encoder")
    else:
        where = f"{tables.path}, [{GRID}]: encoder"
        named = [e for value in tables.found.get(GRID, {}).get("encoder", []) for e in _several(value, where)]
        for number, table in enumerate(tables.found.get(EXPERIMENTS, []), start=1):
            if "encoder" in table:
                named += _several(table["encoder"], f"{tables.path}, [[{EXPERIMENTS}]] {number}: encoder")
    named = list(dict.fromkeys(named)) or ["texture"]
    folders = [folder_name(encoder) for encoder in named]
    if len(set(folders)) < len(folders):
        raise RequestError(f"{tables.path}: encoders {', '.join(named)}: two of them would have one folder of bags")
    return tuple(named)


def _several(value: Any, where: str) -> list[str]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(own, str) and own.strip() and "," not in own for own in names):
        raise RequestError(f"{where}: expected the name of an encoder, or a list of them, found {value!r}")
    return names


def experiments_of(tables: CohortTables, beneath: Beneath) -> tuple[Experiment, ...]:
    """Return a file's experiments: its [[experiments]], then the product of its [grid], else one for each encoder."""
    asked = [*_rows(tables, beneath), *_grid(tables, beneath)]
    if not asked:
        asked = [("[train]", {"encoder": encoder}) for encoder in beneath.extract]
    made = [_made(tables, beneath, title, own) for title, own in asked]
    seen: dict[str, str] = {}
    for (title, _), one in zip(asked, made, strict=True):
        if other := seen.get(one.name.casefold()):
            raise RequestError(f"{tables.path}, {title}: {one.name} is {other}'s name, too: give each its own name")
        seen[one.name.casefold()] = title
    return tuple(made)


def _rows(tables: CohortTables, beneath: Beneath) -> Iterator[tuple[str, Values]]:
    """Give each of [[experiments]]: its title for messages, its keys and options of train by field."""
    for number, table in enumerate(tables.found.get(EXPERIMENTS, []), start=1):
        title = f"[[{EXPERIMENTS}]] {table.get('name', number)}"
        own = {key: table[key] for key in _OWN if key in table}
        if "encoder" not in own and len(beneath.extract) > 1:
            raise RequestError(
                f"{tables.path}, {title}: expected encoder, one of {', '.join(beneath.extract)}, found none"
            )
        rest = {key: value for key, value in table.items() if key not in _OWN}
        _check_keys(tables, title, rest)
        yield title, {"encoder": next(iter(beneath.extract)), **own, **tables.values("train", rest, title)}


def _grid(tables: CohortTables, beneath: Beneath) -> Iterator[tuple[str, Values]]:
    """Give each of the grid's product, in the order of its keys and values."""
    table, title = dict(tables.found.get(GRID, {})), f"[{GRID}]"
    if not table:
        return
    for key, values in table.items():
        if not isinstance(values, list) or not values:
            raise RequestError(f"{tables.path}, {title}: {key}: expected a list of values, found {values!r}")
    if prod(map(len, table.values())) > _MOST:
        raise RequestError(
            f"{tables.path}, {title}: {prod(map(len, table.values())):,} experiments: expected {_MOST:,} at most"
        )
    encoders = table.pop("encoder", [*beneath.extract])
    _check_keys(tables, title, table)
    axes = [[tables.values("train", {key: value}, title) for value in values] for key, values in table.items()]
    for encoder, *parts in product(encoders, *axes):
        yield title, {"encoder": encoder} | {field: value for part in parts for field, value in part.items()}


def _check_keys(tables: CohortTables, title: str, table: Mapping[str, Any]) -> None:
    known = [spec.key for spec in specs(TrainOptions)] + [spec.field for spec in specs(TrainOptions)]
    for key in table:
        if key.replace("-", "_") not in known:
            told = nearest(key, [*known, *_OWN])
            raise RequestError(f"{tables.path}, {title}: {key} is no key of an experiment nor option of train{told}")


def _made(tables: CohortTables, beneath: Beneath, title: str, asked: Values) -> Experiment:
    where = f"{tables.path}, {title}"
    encoders = _several(asked["encoder"], f"{where}: encoder")
    for encoder in encoders:
        if encoder not in beneath.extract:
            told = nearest(encoder, [*beneath.extract]) or f": expected one of {', '.join(beneath.extract)}"
            raise RequestError(f"{where}: encoder {encoder} is none of [extract]{told}")
    priority, own = asked.get("priority", 0), {key: asked[key] for key in asked if key not in _OWN}
    if isinstance(priority, bool) or not isinstance(priority, int | float) or priority != priority:
        raise RequestError(f"{where}: priority: expected a number, larger first, found {priority!r}")
    values = beneath.train | own
    name = asked.get("name", _automatic(encoders, values, {key: own[key] for key in own if key != "head"}))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(
            f"{where}: name {name!r}: expected letters, digits and . _ + = - up to 100, a letter or digit first"
        )
    options = tables.make(
        title,
        TrainOptions,
        bags=tuple(beneath.extract[encoder].out for encoder in encoders),
        stores=(beneath.folder / "stores",),
        manifest=beneath.manifest,
        columns=beneath.columns,
        out=beneath.folder / "runs" / name,
        **_with_fixed(values),
    )
    if len(encoders) > 1 and options.fusion == "none":
        raise RequestError(f'{where}: encoder {", ".join(encoders)}: expected fusion = "concat" or "late" with several')
    return Experiment(
        name=name,
        encoder=",".join(encoders),
        priority=float(priority),
        options=options,
        settings=_settings(options),
        recipe=_recipe(options, encoders, beneath),
    )


def _with_fixed(values: Values) -> Values:
    """Return options of a training, with those that --auto must leave alone: one experiment is one run."""
    found = with_given(TrainOptions, values)
    return found | {"fixed": (*found["fixed"], "repeats")} if found.get("auto") else found


def _automatic(encoders: Sequence[str], values: Values, varied: Values) -> str:
    """Return a name of what tells an experiment from others, which stays when others are added."""
    keys = {spec.field: spec.key for spec in specs(TrainOptions)}
    head = str(values.get("head", TrainOptions.head))
    told = [f"{keys[field]}={_word(value)}" for field, value in varied.items()]
    name = "-".join(["+".join(map(folder_name, encoders)), head, *told])
    return name if len(name) <= 100 else f"{name[:87]}-{sha256(name.encode()).hexdigest()[:12]}"


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(_word, value)) or "none"
    text = Path(value).stem if isinstance(value, Path) else f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", text)


def _settings(options: TrainOptions) -> dict[str, Any]:
    default = TrainOptions(bags=options.bags, manifest=options.manifest, out=options.out)
    usual, own = default.recipe(), options.recipe()
    changed = {key: value for key, value in own.items() if key != "head" and value != usual.get(key)}
    changed |= {key: str(getattr(options, key)) for key in ("splits", "teacher", "other") if getattr(options, key)}
    changed |= {"auto": True} if options.auto else {}
    return changed | ({"precision": options.precision} if options.precision != default.precision else {})


def _recipe(options: TrainOptions, encoders: Sequence[str], beneath: Beneath) -> Recipe:
    tables = {key: file_sha256(path) for key in ("splits", "other") if (path := getattr(options, key))}
    return {
        **beneath.below,
        "train": options.recipe() | {"precision": options.precision} | tables | _rules(options),
        **({"teacher": str(options.teacher)} if options.teacher else {}),
        "extract": [extraction_recipe(beneath.extract[encoder]) for encoder in encoders],
    }


def _rules(options: TrainOptions) -> Recipe:
    """Return by which rules settings will be chosen, when the bags are there, and what they leave as it is."""
    return {"auto": {"rules": VERSION, "fixed": sorted(options.fixed)}} if options.auto else {}


_OF_BAGS = (
    "encoder", "crop", "select", "tiles_per_slide", "select_seed", "stain", "views", "keep_views", "precision",
    "random_weights", "bag_dtype",
)  # fmt: skip
"""Options of extraction that shape the bags, with the weights."""


def extraction_recipe(options: ExtractOptions) -> Recipe:
    """Return what was asked of extraction that shapes the bags."""
    known = {own.name for own in fields(options)}
    told = {name: getattr(options, name) for name in _OF_BAGS if name in known}
    return told | ({"weights": str(options.weights)} if options.weights else {})
