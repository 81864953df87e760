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


def check_pictures(rows: Sequence[ManifestRow], headers: Mapping[str, BagHeader]) -> list[str]:
    """Return a note for each picture that one patient has twice, or each bag whose content another has.

    Raises
    ------
    RequestError
        Two patients have the same picture, or bags of the same content.
    """
    notes = []
    for what, known in _marks(headers):
        first: dict[str, ManifestRow] = {}
        for row in rows:
            if row.image_id not in known:
                continue
            other = first.setdefault(known[row.image_id], row)
            if other.patient_id != row.patient_id:
                raise RequestError(
                    f"slides {other.image_id} (patient {other.patient_id}) and {row.image_id} (patient "
                    f"{row.patient_id}) {what}: one would be tested by models trained on the other; "
                    "leave one of them out"
                )
            if other is not row:
                notes.append(f"slides {other.image_id} and {row.image_id} of patient {row.patient_id} {what}")
    return notes


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


def _marks(headers: Mapping[str, BagHeader]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what equal marks mean, and image id -> mark. Only bags of one size can hold the same: others go unread."""
    yield "are the same picture", {i: str(own) for i, bag in headers.items() if (own := bag.provenance.get(PICTURE))}
    sizes = Counter((bag.n_tiles, bag.dim) for bag in headers.values())
    alike = {i: bag for i, bag in headers.items() if bag.n_tiles and sizes[bag.n_tiles, bag.dim] > 1}
    plain = {i: bag for i, bag in alike.items() if not bag.provenance.get(PICTURE)}
    yield "have the same features", {i: mark for i, bag in plain.items() if (mark := _known_by(bag))}


def notes_of_training(run: Path, rows: Sequence[ManifestRow], picture_of: Mapping[str, str]) -> list[str]:
    """Return a note for each way in which slides to predict were trained on: they, their pictures, their patients.

    Slides that were trained on only (``--other``) count as those that were also tested.
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
            f"{image_id} = {trained[mark]}" for image_id, mark in marks if mark in trained
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
