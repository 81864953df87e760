"""What is learned from: formulas, or slides with a sound store less those of held-out patients; recipe and lineage."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from features.encoders.lineage import Lineage, patient_sha256, splits_hash
from features.encoders.timm_encoder import TimmEncoder
from features.folds import make_folds, read_folds
from features.formulas import formula
from features.learning.before import seen_before
from features.learning.slides import Slide, listed_tiles, one_scale
from features.pretrain.model import method_of
from features.pretrain.options import PretrainOptions
from wsi.cohort.manifest import ManifestRow, check_one_label_per_patient, load_manifest
from wsi.errors import RequestError, StoreError
from wsi.pages import plural
from wsi.recipe import Recipe, recipe_hash
from wsi.store.tile_store import TileStore, find_stores

ALGORITHM = 1
"""Raised when the same options come to mean another training."""
TILES_PER_SLIDE = 64
NOBODY = -1
"""The fold that is held out where nobody is."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Slides by whose labels features are judged."""

    taught: tuple[Slide, ...]
    told: tuple[Slide, ...]
    """Of the held-out patients."""
    classes: tuple[str, ...]
    tile_px: int


@dataclass(frozen=True, slots=True)
class Cohort:
    """What is learned from; the same in every process."""

    slides: tuple[Slide, ...]
    """In the order of the image ids; none with formulas."""
    tile_px: int
    images_per_epoch: int
    method: str
    """classes, dino or vicreg."""
    recipe: Recipe
    lineage: Lineage
    weights_sha256: str
    """Of the weights it begins from; every rank checks that it has the same."""
    probe: Probe | None = None
    failures: dict[str, str] = field(default_factory=dict)
    """Image id -> why the slide is not used, where its store is damaged."""
    notes: tuple[str, ...] = ()


def gather(options: PretrainOptions, encoder: TimmEncoder, precision: str) -> Cohort:
    """Decide everything that the pretraining is applied to.

    Raises
    ------
    RequestError
        The source, the manifest, the splits or the weights to begin from do not fit each other.
    """
    rows = load_manifest(options.manifest) if options.manifest else ()
    folds = _folds(options, rows)
    held_out = {patient for patient, fold in folds.items() if fold == options.fold}
    slides, failures, notes = _slides(options, rows, held_out) if not options.from_formula else ((), {}, ())
    probe = _probe(options, rows, folds) if options.probe else None
    method = method_of(options, encoder.module)
    recipe: Recipe = {
        "stage": "pretrain",
        "algorithm": ALGORITHM,
        **options.recipe(),
        "method": method,
        "precision": precision,
        "encoder": encoder.spec.recipe(),
        "splits": splits_hash(folds),
        "cohort": _digest(slides),
        **({"probe": {"by": options.probe_by, "cohort": _digest(probe.taught + probe.told)}} if probe else {}),
    }
    before = seen_before(options.weights, held_out, options.fold)
    return Cohort(
        slides=slides,
        tile_px=one_scale([TileStore(slide.store) for slide in slides]) if slides else 0,
        images_per_epoch=_images_per_epoch(options, len(slides)),
        method=method,
        recipe=recipe,
        lineage=Lineage(
            recipe_hash=recipe_hash(recipe),
            splits_hash=str(recipe["splits"]),
            fold=options.fold if folds and slides else NOBODY,
            n_folds=max(folds.values()) + 1 if folds and slides else 0,
            classes=(),
            patients_sha256=tuple(sorted(before | _seen(slides, known=bool(rows)))),
        ),
        weights_sha256=encoder.spec.weights_sha256,
        probe=probe,
        failures=failures,
        notes=notes,
    )


def _images_per_epoch(options: PretrainOptions, n_slides: int) -> int:
    if not options.from_formula:
        return options.images_per_epoch or TILES_PER_SLIDE * n_slides
    formula(options.formula, classes=options.classes, seed=options.seed)
    there = options.classes * options.instances
    if options.images_per_epoch > there:
        raise RequestError(
            f"--images-per-epoch {options.images_per_epoch}: expected at most {there}, as {options.classes} classes "
            f"with {options.instances} instances have"
        )
    return options.images_per_epoch or there


def _folds(options: PretrainOptions, rows: Sequence[ManifestRow]) -> dict[str, int]:
    """Return the fold of each labelled patient; empty where nobody is held out."""
    if not rows or options.fold == NOBODY or (options.from_formula and not options.probe):
        return {}
    labelled = [row for row in rows if row.label is not None]
    if not labelled and options.splits is None:
        raise RequestError(
            f"--fold {options.fold}: expected labels in {options.manifest} by which patients are split, found none: "
            "give --splits, or --fold -1 to hold nobody out"
        )
    check_one_label_per_patient(labelled, str(options.manifest))
    folds = (
        read_folds(options.splits, labelled) if options.splits else make_folds(labelled, options.folds, options.seed)
    )
    n_folds = max(folds.values()) + 1
    if options.fold >= n_folds:
        raise RequestError(f"--fold {options.fold}: expected 0 to {n_folds - 1}, as the splits have {n_folds} folds")
    return folds


def _slides(
    options: PretrainOptions, rows: Sequence[ManifestRow], held_out: set[str]
) -> tuple[tuple[Slide, ...], dict[str, str], tuple[str, ...]]:
    """Return the slides with tiles, why others cannot be read, and what is remarkable."""
    stores = {store.image_id: store for store in find_stores(options.source)}
    known = {row.image_id: row for row in rows} or {name: ManifestRow(name, name) for name in stores}
    own = [known[name] for name in sorted(stores) if name in known and known[name].patient_id not in held_out]
    slides, failures = sound_slides(own, stores)
    if not slides:
        raise RequestError(
            f"expected slides with tiles to learn from, found none of {len(stores)} stores that are in the manifest "
            "and not held out"
        )
    notes = [
        f"{plural(count, 'slide', why, 'were')} left out"
        for count, why in (
            (len(stores.keys() - known.keys()), "that the manifest does not name"),
            (sum(known[name].patient_id in held_out for name in stores.keys() & known.keys()), "of held-out patients"),
        )
        if count
    ]
    if not rows:
        notes.append("no --manifest: nobody is held out, and `gigamil train` will refuse to test any of these slides")
    return slides, failures, tuple(notes)


def sound_slides(
    rows: Sequence[ManifestRow], stores: dict[str, TileStore], classes: Sequence[str] = ()
) -> tuple[tuple[Slide, ...], dict[str, str]]:
    """Return the slides that have tiles, and why others cannot be read."""
    slides, failures = [], {}
    for row in rows:
        try:
            tiles = listed_tiles(stores[row.image_id])
        except (StoreError, OSError) as error:
            failures[row.image_id] = str(error)
            continue
        label = classes.index(row.label) if classes and row.label else -1
        place = stores[row.image_id].path
        if len(tiles):
            slides.append(Slide(row.image_id, row.patient_id, label, place, tiles, row.center_id or ""))
    return tuple(slides), failures


def _probe(options: PretrainOptions, rows: Sequence[ManifestRow], folds: dict[str, int]) -> Probe:
    """Return the probe's slides; its patients are told by others' labels alone."""
    stores = {store.image_id: store for store in find_stores(options.probe)}
    labelled = sorted((r for r in rows if r.label and r.image_id in stores), key=lambda row: row.image_id)
    classes = tuple(sorted({row.label or "" for row in labelled}))
    slides, _ = sound_slides(labelled, stores, classes)
    taught = tuple(slide for slide in slides if folds[slide.patient_id] != options.fold)
    told = tuple(slide for slide in slides if folds[slide.patient_id] == options.fold)
    for what, own in (("to learn from", taught), (f"of fold {options.fold} to tell", told)):
        if len({slide.label for slide in own}) < 2:
            raise RequestError(
                f"--probe: expected slides with tiles of two classes {what}, found fewer: give more stores"
            )
    return Probe(taught, told, classes, one_scale([stores[slide.image_id] for slide in slides]))


def _seen(slides: Sequence[Slide], *, known: bool) -> set[str]:
    """Return the sha256 of the patients seen; of slides' ids where no table tells whose they are."""
    return {patient_sha256(slide.patient_id if known else slide.image_id) for slide in slides}


def _digest(slides: Sequence[Slide]) -> str:
    table: list[list[Any]] = [
        [s.image_id, s.patient_id, s.label, s.center_id, TileStore(s.store).recipe_hash] for s in slides
    ]
    return recipe_hash({"slides": table})
