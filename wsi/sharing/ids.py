"""New ids for slides and patients: random, so that nothing leads back to the old ones but the key file.

A patient is ``p`` and twelve letters of the operating system's randomness, 48 bits; a slide is its patient and a
number, as cohort tables name slides. Letters without digits or vowels are nobody's number, hash or name by chance.
"""

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsi.errors import RequestError
from wsi.files.atomic import replacing
from wsi.files.csv_table import csv_text, read_records
from wsi.files.regular import first_bytes

COLUMNS = ("image_id", "patient_id", "new_image_id", "new_patient_id")
"""Of the key file."""
_LETTERS = "ghjklmnpqrstvwxz"
_LENGTH = 12


@dataclass(frozen=True, slots=True)
class NewIds:
    """Old id -> new id."""

    slides: Mapping[str, str] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)


def new_ids(patient_of: Mapping[str, str], known: NewIds | None = None) -> NewIds:
    """Return new ids for slides, given by their patients.

    Parameters
    ----------
    patient_of
        Image id -> patient id, in any order: the order leaves no trace.
    known
        Ids of an earlier bundle, which stay as they are.
    """
    known = known or NewIds()
    patients, slides = dict(known.patients), dict(known.slides)
    for patient in _shuffled(set(patient_of.values()) - set(patients)):
        while (new := _drawn()) in patients.values():
            pass
        patients[patient] = new
    taken = set(slides.values())
    for image_id in _shuffled(set(patient_of) - set(slides)):
        patient = patients[patient_of[image_id]]
        number = next(n for n in range(len(taken) + 1) if f"{patient}_{n}" not in taken)
        slides[image_id] = f"{patient}_{number}"
        taken.add(slides[image_id])
    return NewIds(slides, patients)


def _drawn() -> str:
    return "p" + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def _shuffled(names: Iterable[str]) -> list[str]:
    found = sorted(names)
    secrets.SystemRandom().shuffle(found)
    return found


def check_key_place(key: Path, out: Path) -> None:
    """Raise `RequestError` where a key file would lie in the bundle, links resolved, or is no file of that kind."""
    place, bundle = Path(os.path.realpath(key)), Path(os.path.realpath(out))
    if place == bundle or bundle in place.parents:
        raise RequestError(f"--key {key} lies inside --out {out}: it leads back to the patients, keep it elsewhere")
    if os.path.lexists(key) and not is_key(key):
        raise RequestError(f"--key {key}: a file is there that is no key file of `gigamil share`: give another name")


def is_key(path: Path) -> bool:
    """Tell whether a file is a key file that `write_key` wrote."""
    return first_bytes(path, 200).startswith(",".join(COLUMNS).encode() + b"\n")


def read_key(path: Path) -> NewIds:
    """Return the ids of a key file; `RequestError` where it is none."""
    try:
        records = read_records(path)
        slides = {own["image_id"]: own["new_image_id"] for own in records}
        patients = {own["patient_id"]: own["new_patient_id"] for own in records}
    except (ValueError, KeyError) as error:
        raise RequestError(f"--key {path}: cannot be read as a key file ({error})") from None
    return NewIds(slides, patients)


def write_key(path: Path, ids: NewIds, patient_of: Mapping[str, str]) -> None:
    """Write the key file, readable by its owner alone; ``patient_of``: image id -> patient id of each slide in it."""
    rows = [(old, patient_of[old], new, ids.patients[patient_of[old]]) for old, new in sorted(ids.slides.items())]
    with replacing(path, is_key) as temporary:
        temporary.touch(0o600)
        temporary.write_text(csv_text([COLUMNS, *rows]), "utf-8")


def patients_of_key(path: Path) -> dict[str, str]:
    """Return image id -> patient id of a key file."""
    return {own["image_id"]: own["patient_id"] for own in read_records(path)}
