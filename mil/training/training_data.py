"""What a run is trained on, gathered from its options: labelled slides, their bags, classes, folds, and the recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from features.folds import folds_of, patient_folds
from mil.data.cohort import BagSet, Cohort, cohort_digest
from mil.data.duplicates import check_pictures
from mil.data.encoder_lineage import check_unseen
from mil.data.several_encoders import fused, open_fused, scan
from mil.data.splits import center_folds, outer_folds
from mil.run.folder import versions
from mil.targets import TARGETS, Target
from mil.training.options import TrainOptions
from wsi.arrays import Ints
from wsi.cohort.manifest import ManifestRow, check_disjoint, load_manifest
from wsi.errors import RequestError
from wsi.recipe import Recipe, canonical, recipe_hash

ALGORITHM = 2
"""Raised when the same options come to mean another training, so that an older run is not gone on with."""


@dataclass(frozen=True, slots=True)
class Material:
    """What every model of a run is trained on; the same in every process that gathers it."""

    rows: tuple[ManifestRow, ...]
    """The labelled slides that have a bag, sound or not."""
    sets: tuple[BagSet, ...]
    """The bags of each encoder; one unless several are fused."""
    fusion: str
    row_folds: Ints
    """The fold that tests each row; -1 for slides that are trained on only, which stand last."""
    notes: tuple[str, ...]
    """What was left out."""
    target: Target
    """What is true of the rows."""
    strata: tuple[str, ...]
    """Of each row: folds hold alike shares of each."""
    joined: bool
    """A patient's slides are one bag."""
    unit: str
    """What is judged: the patient or the slide."""

    @property
    def tested_rows(self) -> int:
        """Return how many rows some fold tests: the first ones."""
        return int((self.row_folds >= 0).sum())

    @property
    def folds(self) -> Ints:
        """Return the fold that tests each bag: each row, or each patient where their slides are one bag."""
        if not self.joined:
            return self.row_folds
        first = dict(
            zip(reversed([row.patient_id for row in self.rows]), reversed(self.row_folds.tolist()), strict=True)
        )
        return np.array([first[patient] for patient in dict.fromkeys(row.patient_id for row in self.rows)], np.int64)

    @property
    def tested(self) -> int:
        """Return how many bags some fold tests: the first ones."""
        return int((self.folds >= 0).sum())

    @property
    def bags(self) -> BagSet:
        """Return the bags as one set."""
        return fused(self.sets, self.fusion)

    def open(self) -> Cohort:
        """Open the bags: the first encoder's where they are fused late."""
        return self.open_all()[0]

    def open_all(self) -> tuple[Cohort, ...]:
        """Open the bags, as one cohort, or where they are fused late as one for each encoder."""
        whole = open_fused(self.rows, self.sets, self.fusion, self.target)
        whole = tuple(replace(own, strata=self.strata) for own in whole)
        whole = tuple(own.by_patient() for own in whole) if self.joined else whole
        return tuple(own.by_slide() for own in whole) if self.unit == "slide" else whole

    def recipe(self, options: TrainOptions) -> Recipe:
        """Return everything that shapes the run: the options, and what they were applied to."""
        return {
            **options.recipe(),
            "algorithm": ALGORITHM,
            "precision": options.precision,
            "classes": list(self.target.names),
            "bags": {
                "encoder": self.bags.encoder,
                "dim": self.bags.dim,
                "recipe_hash": recipe_hash(self.bags.recipe),
            },
            "cohort": self._digest(),
            "splits": recipe_hash({"folds": self.row_folds.tolist()}),
            **({"models_per_fold": options.models_per_fold} if self.fusion == "late" else {}),
        }

    def _digest(self) -> str:
        digests = [cohort_digest(self.rows, own.headers) for own in self.sets]
        whole = digests[0] if len(digests) == 1 else recipe_hash({"encoders": digests})
        told = self.target.digested
        truth = [[getattr(row, name) for name in told] for row in self.rows]
        return recipe_hash({"cohort": whole, "truth": truth}) if told else whole

    def about(self) -> dict[str, Any]:
        """Return what config.toml tells beside the recipe: versions, and how the bags were made (canonical JSON)."""
        encoder = next(iter(self.bags.headers.values())).provenance.get("encoder", {})
        return {
            "versions": versions(),
            "bag_recipe": canonical(self.bags.recipe),
            "encoder": canonical(encoder),
            "bag_scales": [{"mpp": own.scale.mpp, "tile_px": own.scale.tile_px} for own in self.sets],
        }


def gather(options: TrainOptions) -> Material:
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
    sets = scan(options.bags, [row.image_id for row in (*known, *others)], options.fusion)
    bags = fused(sets, options.fusion)
    if not bags.headers:
        raise RequestError(f"no bag can be read: {next(iter(bags.failures.values()))}")
    rows, notes = _with_bags(everyone, known, bags)
    if options.other is not None and not any(row.image_id in bags.headers for row in others):
        raise RequestError(f"--other {options.other}: expected bags of its slides, found none that can be read")
    notes += dict.fromkeys(note for own in sets for note in check_pictures([*rows, *others], own.headers))
    target, strata = asked.read(rows, options.classes, options.folds, others)
    folds = _folds(options, rows, strata[: len(rows)], target)
    patients = [row.patient_id for row in rows]
    if options.fusion == "folds" and len(sets) != options.folds:
        raise RequestError(
            f"--fusion folds: expected a folder of bags for each of {options.folds} folds, found {len(sets)}"
        )
    for number, one in enumerate(sets):
        tested = [number] if options.fusion == "folds" else range(options.folds)
        check_unseen(one.headers.values(), patients, folds, tested)
    if others:
        taken = f"as {options.other_label}"
        if options.other_label not in target.names:
            taken += ", a class of their own that is never told"
        notes.append(
            f"{len(others)} slides of {options.other.name if options.other else ''} are trained on only, {taken}"
        )
        folds = np.concatenate([folds, np.full(len(others), -1, np.int64)])
    joined = options.aggregate == "bag"
    return Material(
        (*rows, *others), sets, options.fusion, folds, tuple(notes), target, tuple(strata), joined, options.unit
    )


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
    rows = [row for row in labelled if row.image_id in bags.headers or row.image_id in bags.failures]
    absent = [
        row.image_id for row in labelled if row.image_id not in bags.headers and row.image_id not in bags.failures
    ]
    notes = []
    if len(labelled) < len(everyone):
        notes.append(f"{len(everyone) - len(labelled)} slides without a label were left out")
    if absent:
        notes.append(f"{len(absent)} labelled slides without a bag were left out: {', '.join(absent[:10])}")
    return rows, notes


def _folds(options: TrainOptions, rows: Sequence[ManifestRow], strata: Sequence[str], target: Target) -> Ints:
    patients = [row.patient_id for row in rows]
    if options.splits is None and options.split == "centers":
        return center_folds([row.center_id for row in rows], patients, options.folds)
    if options.splits is None and target.groups:
        return outer_folds(strata, [row.center_id for row in rows], patients, options.folds, options.seed)
    if options.splits is None:
        return patient_folds(strata, patients, options.folds, options.seed)
    folds = folds_of(options.splits, [row.image_id for row in rows], patients)
    if sorted(set(folds.tolist())) != list(range(options.folds)):
        raise RequestError(
            f"{options.splits}: expected folds 0 to {options.folds - 1}, found {sorted(set(folds.tolist()))}"
        )
    return folds
