"""What a cohort looks like from outside: counted in the manifest and in the headers of the bags, no feature is read."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from features.folds import fold_table
from mil.targets import TARGETS
from mil.training.options import TrainOptions
from wsi.cohort.manifest import ManifestRow, load_manifest
from wsi.errors import RequestError
from wsi.recipe import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """A cohort as the rules of `mil.auto.rules` see it."""

    patients: int
    """With a label, and a bag."""
    least: int
    """Patients of the rarest kind: of a class, with or without a label, with the event; of values all."""
    kind: str
    """Which these are, in words."""
    tiles: int
    """Of the middle bag, when bags stand in order of size."""
    many_tiles: int
    """Of the bag that nine in ten do not exceed."""
    slides: float
    """Of a patient, on average."""
    centers: int
    """That are named."""
    dim: int
    """Width of the features."""
    told_folds: int
    """As --splits, a teacher or bags of fine-tuned encoders, one a fold, tell them; 0: free."""
    by_center: bool
    """Whether folds are whole centers."""
    steps: float
    """That one epoch over all bags would take."""
    validates: bool
    """Whether some patients must validate: risks count from their median, and inner folds calibrate by them."""

    def as_dict(self) -> Json:
        """Return JSON values."""
        return asdict(self)


def fingerprint_of(options: TrainOptions) -> Fingerprint:
    """Return the fingerprint of the cohort that a training is asked for.

    Raises
    ------
    RequestError
        No slide has a label and a bag, or manifest and bags do not fit each other.
    """
    from mil.data.several_encoders import fused, scan  # torch: a pipeline only asks for the rules' version

    rows = labelled(options)
    sets = scan(options.bags, [row.image_id for row in rows], options.fusion)
    bags = fused(sets, options.fusion)
    sizes = {image_id: header.n_tiles for image_id, header in bags.headers.items()}
    known = [row for row in rows if row.image_id in sizes or row.image_id in bags.failures]
    return of_bags(options, known, sizes, bags.making.dim)


def labelled(options: TrainOptions) -> list[ManifestRow]:
    """Return the manifest's rows of which it is known what is asked for."""
    column = TARGETS[options.target].column
    return [row for row in load_manifest(options.manifest) if getattr(row, column) is not None]


def of_bags(options: TrainOptions, rows: Sequence[ManifestRow], sizes: dict[str, int], dim: int) -> Fingerprint:
    """Return the fingerprint of labelled slides, whose bags have so many tiles by image id."""
    filled = [own for own in _bag_sizes(options, rows, sizes) if own]
    if not filled:
        raise RequestError(f"{options.manifest}: --auto expects labelled slides with bags and tiles, found none")
    persons = {row.patient_id: row for row in reversed(rows)}
    units = list(rows) if options.unit == "slide" else list(persons.values())
    target, _ = TARGETS[options.target].read(units, options.classes, 2)
    carriers = target.carriers()
    rarest = min(carriers, key=lambda name: carriers[name])
    return Fingerprint(
        patients=len(persons),
        least=carriers[rarest],
        kind=f"patients of class {rarest}" if target.groups else f"patients {rarest}",
        tiles=int(np.median(filled)),
        many_tiles=int(np.quantile(filled, 0.9)),
        slides=len(rows) / len(persons),
        centers=len({row.center_id for row in rows if row.center_id}),
        dim=dim,
        told_folds=_told_folds(options),
        by_center=options.splits is None and options.split == "centers",
        steps=len(filled) / options.batch_bags,
        validates=options.target == "survival" or options.nested > 0,
    )


def _bag_sizes(options: TrainOptions, rows: Sequence[ManifestRow], sizes: dict[str, int]) -> Collection[int]:
    """Return the tiles of each bag that is trained on: of each slide, or of a patient's slides together."""
    if options.aggregate != "bag":
        return [sizes.get(row.image_id, 0) for row in rows]
    whole: dict[str, int] = {}
    for row in rows:
        whole[row.patient_id] = whole.get(row.patient_id, 0) + sizes.get(row.image_id, 0)
    return whole.values()


def _told_folds(options: TrainOptions) -> int:
    splits = options.splits or (options.teacher / "splits.csv" if options.teacher else None)
    if splits is not None:
        return 1 + max(fold for _, fold in fold_table(splits).values())
    return len(options.bags) if options.fusion == "folds" else 0
