"""scores.csv: what one model says about the slides it did not train on, and who they are to it (val or test)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mil.metrics import Floats
from mil.run_checks import damaged, run_records
from wsi.atomic import write_text
from wsi.tables import csv_text


@dataclass(frozen=True, slots=True)
class Scores:
    """Logits of slides; the fields run in parallel."""

    image_ids: tuple[str, ...]
    test_S: NDArray[np.bool_]
    """True for the test fold, False for the inner validation slides."""
    logits_SC: Floats


def write_scores(path: Path, scores: Scores) -> None:
    """Write the table; numbers so that they read back bit for bit."""
    header = ["image_id", "part", *(f"logit_{c}" for c in range(scores.logits_SC.shape[1]))]
    rows = [
        (image_id, "test" if test else "val", *logits)
        for image_id, test, logits in zip(scores.image_ids, scores.test_S, scores.logits_SC.tolist(), strict=True)
    ]
    write_text(path, csv_text([header, *rows]))


def read_scores(path: Path) -> Scores:
    """Read the table.

    Raises
    ------
    RequestError
        There is none, or it is not as it was written.
    OSError
        The storage fails.
    """
    rows = run_records(path, ("image_id", "part", "logit_0"))
    try:
        logits_SC = np.array([[float(row[name]) for name in row if name.startswith("logit_")] for row in rows])
    except ValueError as error:
        raise damaged(path, str(error)) from None
    if not rows or any(row["part"] not in ("test", "val") for row in rows) or not np.isfinite(logits_SC).all():
        raise damaged(path, "expected slides, each of part test or val, and finite logits")
    tested_S = np.array([row["part"] == "test" for row in rows], bool)
    return Scores(tuple(row["image_id"] for row in rows), tested_S, logits_SC)


def patient_logits(
    logits_SC: Floats, patients: tuple[str, ...], usable_S: NDArray[np.bool_], how: str = "mean"
) -> tuple[list[str], Floats]:
    """Return the patients, sorted, and the logits (P, C) over their usable slides; zeros where there is none.

    ``how``: the ``mean`` of the slides' logits, or each class's ``max`` over the slides.
    """
    names, owner = np.unique(np.array(patients, dtype=object).astype(str), return_inverse=True)
    member_PS = (owner[None] == np.arange(len(names))[:, None]) & usable_S[None]
    counts = member_PS.sum(axis=1)
    if how == "max":
        highest = np.where(member_PS[:, :, None], logits_SC[None], -np.inf).max(axis=1)
        return [str(name) for name in names], np.where(counts[:, None] > 0, highest, 0.0)
    sums = member_PS.astype(np.float64) @ np.where(usable_S[:, None], logits_SC, 0.0)
    return [str(name) for name in names], np.asarray(sums / np.maximum(counts, 1)[:, None])


def centred(logits_NC: Floats) -> Floats:
    """Return the logits with each row's mean taken off: the same probabilities, comparable between models."""
    return np.asarray(logits_NC - logits_NC.mean(axis=1, keepdims=True))
