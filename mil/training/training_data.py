"""What a run is trained on, gathered from its options: labelled slides, their bags, classes, folds, and the recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from features.folds import folds_of, outer_folds, patient_folds
from mil.data.cohort import BagSet, Cohort, cohort_digest
from mil.data.duplicates import alike_ids, check_pictures
from mil.data.encoder_lineage import check_unseen
from mil.data.flow import NO_BAG, Flow
from mil.data.known_facts import note_damage, with_facts
from mil.data.preserved_site import preserved_site_folds
from mil.data.scales import note_scales
from mil.data.several_encoders import fused, open_cohorts, scan
from mil.data.splits import center_folds
from mil.run.folder import versions
from mil.targets import TARGETS, Target
from mil.training.options import TrainOptions
from wsi.arrays import Ints
from wsi.cohort.manifest import ManifestRow, check_disjoint, load_manifest
from wsi.errors import BagError, RequestError
from wsi.pages import plural
from wsi.recipe import Json, Recipe, canonical, recipe_hash

ALGORITHM = 2
"""Raised when the same options come to mean another training, so that an older run is not gone on with."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What every model of a run is trained on; the same in every process that gathers it."""

    options: TrainOptions
    rows: tuple[ManifestRow, ...]
    """The labelled slides that have a bag, sound or not."""
    sets: tuple[BagSet, ...]
    """The bags of each encoder; one unless several are fused."""
    row_folds: Ints
    """The fold that tests each row; -1 for slides that are trained on only, which stand last."""
    notes: tuple[str, ...]
    """What was left out."""
    target: Target
    """What is true of the rows."""
    strata: tuple[str, ...]
    """Of each row: folds hold alike shares of each."""
    flow: Flow
    """Who of the table is among the rows, and why others are not."""
    more_about: Json = field(default_factory=dict)
    """What config.toml tells beside the recipe and `about`."""

    @property
    def tested_rows(self) -> int:
        """Return how many rows some fold tests: the first ones."""
        return int((self.row_folds >= 0).sum())

    @property
    def folds(self) -> Ints:
        """Return the fold that tests each bag: each row, or each patient where their slides are one bag."""
        if self.options.aggregate != "bag":
            return self.row_folds
        first: dict[str, int] = {}
        for row, fold in zip(self.rows, self.row_folds.tolist(), strict=True):
            first.setdefault(row.patient_id, fold)
        return np.array(list(first.values()), np.int64)

    @property
    def bags(self) -> BagSet:
        """Return the bags as one set."""
        return fused(self.sets, self.options.fusion)

    def open(self) -> tuple[Cohort, ...]:
        """Open the bags, as one cohort, or where models are to differ in their encoder as one for each."""
        cohorts = open_cohorts(self.rows, self.sets, self.options.fusion, self.target, trusting=True)
        judged = (self.options.unit, self.options.aggregate)
        return tuple(replace(own, strata=self.strata).judged(*judged) for own in cohorts)

    def without_damaged(self, error: BagError) -> "TrainingData | None":
        """Return the data without the slide of the bag that an error of reading names, noted as damaged for all runs.

        None where the error names no bag whose damage is news, or that cannot be noted.
        """
        sound = [header for own in self.sets for i, header in own.headers.items() if i not in own.damaged]
        found = next((header for header in sound if str(error).startswith(f"{header.path}: ")), None)
        if found is None:
            return None
        note_damage(self.options.out.parent, found, str(error))
        again = replace(gather(self.options), more_about=self.more_about)
        return again if any(found.image_id in own.damaged for own in again.sets) else None

    def recipe(self) -> Recipe:
        """Return everything that shapes the run: the options, and what they were applied to."""
        options, made = self.options, self.bags.making
        return {
            **options.recipe(),
            "algorithm": ALGORITHM,
            "precision": options.precision,
            "classes": list(self.target.names),
            "bags": {"encoder": made.encoder, "dim": made.dim, "recipe_hash": recipe_hash(made.recipe)},
            "cohort": self._digest(),
            "splits": recipe_hash({"folds": self.row_folds.tolist()}),
            **({"risk_sets": "patients"} if self.target.joint and self._several_slides else {}),
            **({"models_per_fold": options.models_per_fold} if options.fusion == "late" else {}),
        }

    @property
    def _several_slides(self) -> bool:
        """Return whether a patient's slides are several bags; these were several at risk in earlier versions."""
        apart = self.options.unit == "patient" and self.options.aggregate != "bag"
        return apart and len(self.rows) > len({row.patient_id for row in self.rows})

    def _digest(self) -> str:
        digests = [cohort_digest(self.rows, own.headers) for own in self.sets]
        whole = digests[0] if len(digests) == 1 else recipe_hash({"encoders": digests})
        told = self.target.digested
        truth = [[getattr(row, name) for name in told] for row in self.rows]
        return recipe_hash({"cohort": whole, "truth": truth}) if told else whole

    def about(self) -> dict[str, Any]:
        """Return what config.toml tells beside the recipe: versions, and how the bags were made (canonical JSON)."""
        bags = self.bags
        return {
            "versions": versions(),
            "bag_recipe": canonical(bags.making.recipe),
            "encoder": canonical(next(iter(bags.headers.values())).provenance.get("encoder", {})),
            "bag_scales": [{"mpp": own.making.mpp, "tile_px": own.making.tile_px} for own in self.sets],
            **self.more_about,
        }


def gather(options: TrainOptions) -> TrainingData:
    """Read the manifest and the bags' headers, and decide classes and folds.

    Raises
    ------
    RequestError
        The manifest, the bags or the splits do not fit each other.
    """
    everyone, asked = load_manifest(options.manifest), TARGETS[options.target]
    known = [row for row in everyone if getattr(row, asked.column) is not None]
    if options.unit == "patient":
        asked.check_patients(known, str(options.manifest))
    if not known:
        raise RequestError(f"{options.manifest}: expected slides with a {asked.column}, found none")
    others = _others(options, everyone)
    scanned = scan(options.bags, [row.image_id for row in (*known, *others)], options.fusion)
    sets = with_facts(scanned, options.out.parent)
    bags = fused(sets, options.fusion)
    if not bags.headers:
        raise RequestError(f"no bag can be read: {next(iter(bags.failures.values()))}")
    rows, notes = _with_bags(everyone, known, bags)
    notes += [*alike_ids("patient_id", rows), *alike_ids("center_id", rows)]
    flow = Flow.of(everyone).leaving(f"nothing stands under {asked.column}", known).leaving(NO_BAG, rows)
    if options.other is not None and not any(row.image_id in bags.headers for row in others):
        raise RequestError(f"--other {options.other}: expected bags of its slides, found none that can be read")
    notes += dict.fromkeys(note for own in sets for note in check_pictures([*rows, *others], own.headers))
    notes += dict.fromkeys(note for own in sets for note in note_scales(own.headers))
    target, strata = asked.read(rows, options.classes, options.folds, others)
    folds, told = _folds(options, rows, strata[: len(rows)], target)
    notes += told
    _check_encoders(options, sets, rows, folds)
    if options.other is not None and others:
        taken = "" if options.other_label in target.names else ", a class of their own that is never told"
        notes.append(
            f"{plural(len(others), 'slide', f'of {options.other.name}', 'are')} trained on only, "
            f"as {options.other_label}{taken}"
        )
    folds = np.concatenate([folds, np.full(len(others), -1, np.int64)])
    flow = flow.training_only(others)
    return TrainingData(options, (*rows, *others), sets, folds, tuple(notes), target, tuple(strata), flow)


def _others(options: TrainOptions, everyone: Sequence[ManifestRow]) -> list[ManifestRow]:
    """Return the slides that are trained on only, with the class that they are taken for."""
    if options.other is None:
        return []
    others = load_manifest(options.other)
    check_disjoint(everyone, others)
    return [replace(row, label=options.other_label) for row in others]


def _with_bags(
    everyone: Sequence[ManifestRow], labelled: Sequence[ManifestRow], bags: BagSet
) -> tuple[list[ManifestRow], list[str]]:
    """Return the labelled slides that have a bag, sound or not, and a note on each group left out."""
    there = {*bags.headers, *bags.failures}
    absent = [row.image_id for row in labelled if row.image_id not in there]
    notes = []
    if len(labelled) < len(everyone):
        notes.append(f"{plural(len(everyone) - len(labelled), 'slide', 'without a label', 'were')} left out")
    if absent:
        notes.append(
            f"{plural(len(absent), 'labelled slide', 'without a bag', 'were')} left out: {', '.join(absent[:10])}"
        )
    return [row for row in labelled if row.image_id in there], notes


def _folds(
    options: TrainOptions, rows: Sequence[ManifestRow], strata: Sequence[str], target: Target
) -> tuple[Ints, list[str]]:
    """Return the fold that tests each row, and what is to be told of the folds."""
    patients, centers = [row.patient_id for row in rows], [row.center_id for row in rows]
    if options.splits is None and options.split == "preserved-site":
        folds, dealt = preserved_site_folds(strata, centers, patients, options.folds)
        return folds, [dealt.told()]
    if options.splits is None and options.split == "centers":
        return center_folds(centers, patients, options.folds), []
    if options.splits is None and target.groups:
        return outer_folds(strata, centers, patients, options.folds, options.seed), []
    if options.splits is None:
        return patient_folds(strata, patients, options.folds, options.seed), []
    folds = folds_of(options.splits, [row.image_id for row in rows], patients)
    found = sorted(set(folds.tolist()))
    if found != list(range(options.folds)):
        raise RequestError(f"{options.splits}: expected folds 0 to {options.folds - 1}, found {found}")
    return folds, []


def _check_encoders(options: TrainOptions, sets: Sequence[BagSet], rows: Sequence[ManifestRow], folds: Ints) -> None:
    """Raise `RequestError` unless no fold tests patients whom the encoder of its bags has seen."""
    by_fold = options.fusion == "folds"
    if by_fold and len(sets) != options.folds:
        raise RequestError(
            f"--fusion folds: expected a folder of bags for each of {options.folds} folds, found {len(sets)}"
        )
    for number, own in enumerate(sets):
        tested = [number] if by_fold else range(options.folds)
        patients, image_ids = [row.patient_id for row in rows], [row.image_id for row in rows]
        check_unseen(own.headers.values(), patients, folds, tested, image_ids)
