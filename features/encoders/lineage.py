"""Whom an encoder has seen: the lineage of fine-tuned weights, which travels with them into every bag.

An encoder that was trained on a patient's tiles and labels makes that patient easier to predict than a new one. The
lineage lists the patients by the sha256 of their id (UTF-8, without salt: it hides the ids from a reader, not from
somebody who holds a list of candidates), so that a later stage can tell whom the features must not be tested on.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.tensors import read_texts
from wsi.errors import RequestError, one_line
from wsi.files.documents import parse_json
from wsi.recipe import recipe_hash

KEY = "gigamil"
"""Our only key in the metadata of a safetensors file, whose keys come in any order: JSON with recipe and lineage."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """What fine-tuned weights were made from."""

    recipe_hash: str
    """Of the fine-tuning."""
    splits_hash: str
    """Of the patients' folds; `splits_hash`."""
    fold: int
    """The fold whose patients were held out."""
    n_folds: int
    classes: tuple[str, ...]
    patients_sha256: tuple[str, ...]
    """Patients seen in any way: trained on, or used to choose the epoch; here and in the weights that this began from.
    Sorted."""

    def seen(self, patient_ids: Iterable[str]) -> list[str]:
        """Return those of the patients that the encoder has seen, sorted."""
        known = frozenset(self.patients_sha256)
        return sorted(patient for patient in set(patient_ids) if patient_sha256(patient) in known)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def patient_sha256(patient_id: str) -> str:
    """Return the sha256 (hex) of a patient's id."""
    return hashlib.sha256(patient_id.encode()).hexdigest()


def splits_hash(fold_of_patient: Mapping[str, int]) -> str:
    """Return one hash of who is tested in which fold, whatever the order and the number of slides."""
    return recipe_hash({"patients": dict(fold_of_patient)})


def lineage_of(values: Mapping[str, Any], source: str) -> Lineage:
    """Return the lineage from its JSON values; `RequestError` where they are none."""
    try:
        return Lineage(
            recipe_hash=str(values["recipe_hash"]),
            splits_hash=str(values["splits_hash"]),
            fold=int(values["fold"]),
            n_folds=int(values["n_folds"]),
            classes=tuple(map(str, values["classes"])),
            patients_sha256=tuple(map(str, values["patients_sha256"])),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        told = one_line(repr(error), 200)
        raise RequestError(
            f"{source}: its list of training patients cannot be read ({told}): make it again, it may hide a leak"
        ) from None


def read_lineage(weights: Path) -> Lineage | None:
    """Return the lineage of a file of weights; None where it has none (published weights, another program's)."""
    if weights.suffix != ".safetensors":
        return None
    try:
        text = read_texts(weights, RequestError).get(KEY)
        return None if text is None else lineage_of(parse_json(text)["lineage"], f"--weights {weights}")
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        told = one_line(error, 200)
        raise RequestError(f"--weights {weights}: expected a whole safetensors file, found {told}") from None
