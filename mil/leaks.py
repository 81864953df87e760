"""The same picture under two names: found by the hash of its overview, which bags carry in their provenance.

A slide that was scanned once and filed twice, under two patients, would be trained on as one and tested as the other.
Bags of other tools carry no such hash; nothing can be told of them.
"""

from collections.abc import Mapping, Sequence

from features.bag import BagHeader
from wsi.errors import RequestError
from wsi.manifest import ManifestRow

PICTURE = "overview_sha256"


def pictures(headers: Mapping[str, BagHeader]) -> dict[str, str]:
    """Return image id -> hash of the slide's overview, of the bags that carry one."""
    return {i: str(bag.provenance[PICTURE]) for i, bag in headers.items() if bag.provenance.get(PICTURE)}


def check_pictures(rows: Sequence[ManifestRow], picture_of: Mapping[str, str]) -> list[str]:
    """Return a note for each picture that one patient has twice.

    Raises
    ------
    RequestError
        Two patients have the same picture.
    """
    first: dict[str, ManifestRow] = {}
    notes = []
    for row in rows:
        if row.image_id not in picture_of:
            continue
        other = first.setdefault(picture_of[row.image_id], row)
        if other.patient_id != row.patient_id:
            raise RequestError(
                f"slides {other.image_id} (patient {other.patient_id}) and {row.image_id} (patient {row.patient_id}) "
                "are the same picture: one would be tested by models trained on the other; leave one of them out"
            )
        if other is not row:
            notes.append(f"slides {other.image_id} and {row.image_id} of patient {row.patient_id} are the same picture")
    return notes


def seen_pictures(seen: Mapping[str, str], picture_of: Mapping[str, str]) -> list[str]:
    """Return ``new = trained`` for every slide that is the picture of a trained one under another name."""
    trained = {picture: image_id for image_id, picture in seen.items() if picture}
    return [
        f"{image_id} = {trained[picture]}"
        for image_id, picture in sorted(picture_of.items())
        if picture in trained and image_id not in seen
    ]
