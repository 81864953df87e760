"""Who is trained on: labelled slides with a sound store, their folds, the tiles that may be drawn, and the recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from features.encoders.lineage import Lineage, patient_sha256, splits_hash
from features.encoders.spec import EncoderSpec
from features.finetune.attention import AttentionTables, choice_digest
from features.finetune.options import FinetuneOptions
from features.folds import make_folds, read_folds, splits_table
from features.learning.before import seen_before
from features.learning.slides import Slide, listed_tiles, one_scale
from wsi.cohort.manifest import ManifestRow, check_one_label_per_patient, load_manifest
from wsi.errors import RequestError, StoreError
from wsi.pages import plural
from wsi.recipe import Recipe, recipe_hash
from wsi.store.tile_store import TileStore, find_stores

ALGORITHM = 1
"""Raised when the same options come to mean another training."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """What is trained and validated on; the same in every process."""

    train: tuple[Slide, ...]
    """In the order of the image ids."""
    val: tuple[Slide, ...]
    classes: tuple[str, ...]
    tile_px: int
    recipe: Recipe
    lineage: Lineage
    splits_table: str
    """splits.csv as text."""
    weights_sha256: str
    """Of the weights it begins from; every rank checks that it has the same."""
    failures: dict[str, str] = field(default_factory=dict)
    """Image id -> why the slide is not used, where its store is damaged."""
    notes: tuple[str, ...] = ()


def gather(options: FinetuneOptions, spec: EncoderSpec, precision: str) -> Cohort:
    """Decide everything that the training is applied to.

    Raises
    ------
    RequestError
        The manifest, the stores, the splits, the attention or the weights to begin from do not fit each other.
    """
    labelled = [row for row in load_manifest(options.manifest) if row.label is not None]
    check_one_label_per_patient(labelled, str(options.manifest))
    classes = _classes(labelled, options.classes)
    folds = (
        read_folds(options.splits, labelled) if options.splits else make_folds(labelled, options.folds, options.seed)
    )
    n_folds = max(folds.values()) + 1
    if options.fold >= n_folds:
        raise RequestError(f"--fold {options.fold}: expected 0 to {n_folds - 1}, as the splits have {n_folds} folds")
    val_fold = options.fold if options.keep == "last" else (options.fold + 1) % n_folds
    if options.keep == "best" and n_folds < 3:
        raise RequestError(f"--keep best: expected 3 folds or more (held out, validation, training), found {n_folds}")
    stores = {store.image_id: store for store in find_stores(options.stores)}
    rows = sorted((row for row in labelled if row.image_id in stores), key=lambda row: row.image_id)
    used = [row for row in rows if options.keep == "last" or folds[row.patient_id] != options.fold]
    slides, failures = _slides(options, used, classes, stores)
    parts: dict[bool, list[Slide]] = {True: [], False: []}
    for slide in slides:
        parts[folds[slide.patient_id] == val_fold].append(slide)
    train, val = tuple(parts[False]), tuple(parts[True])
    _check_parts(train, val, classes)
    held_out = {patient for patient, fold in folds.items() if fold == options.fold}
    recipe: Recipe = {
        "stage": "finetune",
        "algorithm": ALGORITHM,
        **options.recipe(),
        "precision": precision,
        "encoder": spec.recipe(),
        "classes": list(classes),
        "splits": splits_hash(folds),
        "cohort": _digest(train + val, stores),
    }
    lineage = _lineage(options, recipe, n_folds, classes, slides, held_out)
    absent = len(labelled) - len(rows)
    return Cohort(
        train=train,
        val=val,
        classes=classes,
        tile_px=one_scale([stores[slide.image_id] for slide in slides]),
        recipe=recipe,
        lineage=lineage,
        splits_table=splits_table(labelled, folds),
        weights_sha256=spec.weights_sha256,
        failures=failures,
        notes=(f"{plural(absent, 'labelled slide', 'without a store', 'were')} left out",) if absent else (),
    )


def _classes(rows: Sequence[ManifestRow], given: Sequence[str]) -> tuple[str, ...]:
    found = sorted({row.label or "" for row in rows})
    unknown = [label for label in found if given and label not in given]
    if unknown or len(given or found) < 2:
        raise RequestError(
            f"expected two or more classes that hold every label of the manifest, found classes "
            f"{', '.join(given or found) or 'none'} and labels {', '.join(found) or 'none'}"
        )
    return tuple(given or found)


def _slides(
    options: FinetuneOptions, rows: Sequence[ManifestRow], classes: Sequence[str], stores: dict[str, TileStore]
) -> tuple[list[Slide], dict[str, str]]:
    """Return the slides that have tiles, and why others cannot be read."""
    attention = AttentionTables(options.heatmaps) if options.heatmaps else None
    slides, failures = [], {}
    for row in rows:
        store = stores[row.image_id]
        try:
            everything = listed_tiles(store)
            if not len(everything):
                continue
            chosen = attention.best(store, options.attention_share) if attention else everything
            slides.append(
                Slide(row.image_id, row.patient_id, classes.index(row.label or ""), store.path, chosen),
            )
        except (StoreError, OSError) as error:
            failures[row.image_id] = str(error)
    return slides, failures


def _check_parts(train: Sequence[Slide], val: Sequence[Slide], classes: Sequence[str]) -> None:
    there = {slide.label for slide in train}
    missing = [name for number, name in enumerate(classes) if number not in there]
    if missing or not val:
        what = f"no slide of {', '.join(missing)} to train on" if missing else "no slide to validate on"
        raise RequestError(
            f"expected slides with tiles of every class to train on, and some of the validation fold, found {what}: "
            "give more stores, or other splits"
        )


def _digest(slides: Sequence[Slide], stores: dict[str, TileStore]) -> str:
    table: list[list[Any]] = [[s.image_id, s.patient_id, s.label, stores[s.image_id].recipe_hash] for s in slides]
    return recipe_hash({"slides": table, "tiles": choice_digest({s.image_id: s.tiles for s in slides})})


def _lineage(
    options: FinetuneOptions,
    recipe: Recipe,
    n_folds: int,
    classes: tuple[str, ...],
    slides: Sequence[Slide],
    held_out: set[str],
) -> Lineage:
    """Return the lineage; refuse to begin from weights that have seen the held-out patients."""
    seen = {patient_sha256(slide.patient_id) for slide in slides if slide.patient_id not in held_out}
    seen |= seen_before(options.weights, held_out, options.fold)
    return Lineage(
        recipe_hash=recipe_hash(recipe),
        splits_hash=str(recipe["splits"]),
        fold=options.fold,
        n_folds=n_folds,
        classes=classes,
        patients_sha256=tuple(sorted(seen)),
    )
