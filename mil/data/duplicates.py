"""What stands under two names: one picture, one bag's features, one patient on both sides.

A slide that was scanned once and filed twice, under two patients, would be trained on as one and tested as the other.
Our bags carry the hash of their slide's overview; bags of other tools are known by the hash of what they hold.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from features.bags.bag import BagHeader, content_sha256
from mil.data.splits import read_column
from wsi.cohort.manifest import ManifestRow
from wsi.errors import BagError, RequestError
from wsi.pages import plural

PICTURE = "overview_sha256"
OTHERS = "others.csv"
"""Of a run folder: the slides that were trained on in every fold and never tested, as splits.csv has them."""


def pictures(headers: Mapping[str, BagHeader]) -> dict[str, str]:
    """Return image id -> what its slide is known by: the hash of its overview, else of the bag's content.

    Empty bags, all of which are alike, and damaged ones are not known by anything.
    """
    return {i: known for i, bag in headers.items() if bag.n_tiles and (known := _known_by(bag))}


def _known_by(bag: BagHeader) -> str:
    if picture := bag.provenance.get(PICTURE):
        return str(picture)
    try:
        return f"content {content_sha256(bag)}"
    except BagError:
        return ""


def check_pictures(
    rows: Sequence[ManifestRow],
    headers: Mapping[str, BagHeader],
    harm: str = "one would be tested by models trained on the other",
) -> list[str]:
    """Return a note for each picture that one patient has twice, or each bag whose content another has.

    ``harm``: why two patients may not have the same.

    Raises
    ------
    RequestError
        Two patients have the same picture, or bags of the same content.
    """
    notes: dict[tuple[str, str], str] = {}
    row_of = {row.image_id: row for row in rows}
    for one_id, other_id, what in _alike(row_of, headers):
        one, other = row_of[one_id], row_of[other_id]
        if one.patient_id != other.patient_id:
            raise RequestError(
                f"slides {one_id} (patient {one.patient_id}) and {other_id} (patient {other.patient_id}) "
                f"{what}{_told_otherwise(one, other)}: {harm}; leave one of them out"
            )
        notes.setdefault((one_id, other_id), f"slides {one_id} and {other_id} of patient {one.patient_id} {what}")
    return [*notes.values()]


def _told_otherwise(one: ManifestRow, other: ManifestRow) -> str:
    """Return what the table tells of two rows, where it differs."""
    told = [(getattr(one, name), getattr(other, name)) for name in ("label", "value", "time", "event")]
    apart = [f"{own} and {its}" for own, its in told if own != its]
    return f", and the table tells {', '.join(apart)} of them" if apart else ""


def alike_ids(column: str, rows: Sequence[ManifestRow]) -> list[str]:
    """Return a note where ids of a column differ in capitals and leading zeros alone: one may stand under two."""
    first: dict[str, str] = {}
    pairs = []
    for own in sorted({found for row in rows if (found := getattr(row, column))}):
        other = first.setdefault(re.sub(r"(?<!\d)0+(?=\d)", "", own.casefold()), own)
        pairs += [f"{other} and {own}"] if other != own else []
    if not pairs:
        return []
    line = (
        f"{column} {_listed(pairs)} differ in capitals or leading zeros alone and are taken for different ones: if "
        "they are not, write one of them throughout, as folds may part them"
    )
    return [line]


def _alike(row_of: Mapping[str, ManifestRow], headers: Mapping[str, BagHeader]) -> Iterator[tuple[str, str, str]]:
    """Yield pairs of image ids, and what they have in common, the surest first."""
    for what, known in _marks(headers):
        first: dict[str, str] = {}
        for image_id in row_of:
            if image_id in known and (other := first.setdefault(known[image_id], image_id)) != image_id:
                yield other, image_id, what


def _marks(headers: Mapping[str, BagHeader]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what equal marks mean, and image id -> mark. Only bags of one size can hold the same: others go unread."""
    yield "are the same picture", {i: str(own) for i, bag in headers.items() if (own := bag.provenance.get(PICTURE))}
    sizes = Counter((bag.n_tiles, bag.dim) for bag in headers.values())
    alike = {i: bag for i, bag in headers.items() if bag.n_tiles and sizes[bag.n_tiles, bag.dim] > 1}
    plain = {i: bag for i, bag in alike.items() if not bag.provenance.get(PICTURE)}
    yield "have the same features", {i: mark for i, bag in plain.items() if (mark := _known_by(bag))}


def notes_of_training(
    run: Path, rows: Sequence[ManifestRow], picture_of: Mapping[str, str], tiles_of: Mapping[str, str]
) -> list[str]:
    """Return a note for each way in which slides to predict were trained on: they, their pictures, their patients.

    Slides that were trained on only (``--other``) count as those that were also tested. ``tiles_of``: image id -> the
    known slide whose tiles it holds.
    """
    tables = [table for table in (run / "splits.csv", run / OTHERS) if table.exists()]
    patients = {image: patient for table in tables for image, patient in read_column(table, "patient_id").items()}
    trained = {known: image for table in tables for image, known in read_column(table, PICTURE, "").items() if known}
    seen = sorted(row.image_id for row in rows if row.image_id in patients)
    new = sorted((row for row in rows if row.image_id not in patients), key=lambda row: row.image_id)
    marks = [(row.image_id, picture_of.get(row.image_id, "")) for row in new]
    told = {
        ("were", "in the run's training, their scores flatter: {}; see oof.csv instead"): seen,
        ("were", "in the run's training under other names: {}"): [
            f"{image_id} = {found}"
            for image_id, mark in marks
            if (found := trained.get(mark) or tiles_of.get(image_id))
        ],
        ("are", "new, but their patients were in the run's training, so that their scores flatter: {}"): [
            f"{row.image_id} of {row.patient_id}" for row in new if row.patient_id in set(patients.values())
        ],
    }
    return [
        f"{plural(len(found), 'slide', verb=verb)} {line.format(_listed(found))}"
        for (verb, line), found in told.items()
        if found
    ]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
