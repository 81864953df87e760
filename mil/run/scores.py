"""scores.csv: what one model says about the slides it did not train on, and who they are to it (val or test)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mil.run.checks import checked_table, damaged
from mil.targets.metrics import centred
from wsi.arrays import Bools, Floats
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text


@dataclass(frozen=True, slots=True)
class Scores:
    """Logits of slides; the fields run in parallel."""

    image_ids: tuple[str, ...]
    test_S: Bools
    """True for the test fold, False for the inner validation slides."""
    logits_SC: Floats


def write_scores(path: Path, scores: Scores) -> None:
    """Write the table; numbers so that they read back bit for bit."""
    header = ["image_id", "part", *_outputs(scores.logits_SC.shape[1])]
    columns = (scores.image_ids, scores.test_S, scores.logits_SC.tolist())
    rows = [[name, "test" if test else "val", *logits] for name, test, logits in zip(*columns, strict=True)]
    write_text(path, csv_text([header, *rows]))


def read_scores(path: Path, image_ids: Collection[str] | None = None, outputs: int | None = None) -> Scores:
    """Read the table of a model, of these slides and with so many outputs where they are given.

    Raises
    ------
    RequestError
        The table is not there, or not as it was written.
    """
    if outputs is None:
        outputs = len(checked_table(path, ("image_id", "part"))[0]) - 2
    names = _outputs(outputs)
    rows = checked_table(path, ("image_id", "part"), names)
    for row in rows:
        if row["part"] not in ("val", "test") or (image_ids is not None and row["image_id"] not in image_ids):
            raise damaged(path, f"expected val or test for slides of the cohort, found {row['part']} {row['image_id']}")
    return Scores(
        tuple(row["image_id"] for row in rows),
        np.array([row["part"] == "test" for row in rows], bool),
        np.array([[float(row[name]) for name in names] for row in rows], np.float64),
    )


def _outputs(count: int) -> list[str]:
    return [f"logit_{c}" for c in range(count)]


def patient_logits(
    logits_SC: Floats, patients: tuple[str, ...], usable_S: Bools, how: str = "mean"
) -> tuple[list[str], Floats]:
    """Return the patients, sorted, and the logits (P, C) over their usable slides; zeros where there is none.

    ``how``: the ``mean`` of the slides' logits, or ``max``: with two classes the logits of the slide with the highest
    log odds of the second class; with more each class's highest logit, of rows with their mean taken off.
    """
    names, owner = np.unique(np.array(patients, dtype=object).astype(str), return_inverse=True)
    member_PS = (owner[None] == np.arange(len(names))[:, None]) & usable_S[None]
    counts = member_PS.sum(axis=1)
    if how == "max":
        return [str(name) for name in names], np.where(counts[:, None] > 0, _highest(logits_SC, member_PS), 0.0)
    sums = member_PS.astype(np.float64) @ np.where(usable_S[:, None], logits_SC, 0.0)
    return [str(name) for name in names], np.asarray(sums / np.maximum(counts, 1)[:, None])


def validation_medians(table: Scores, patients: Sequence[str], usable_S: Bools, how: str = "mean") -> Floats:
    """Return the median output (C,) of a model's inner validation patients; ``patients``: of each slide of the table.

    Zeros where no slide of theirs has tiles.
    """
    chosen_S = usable_S & ~table.test_S
    if not chosen_S.any():
        return np.zeros(table.logits_SC.shape[1])
    own = tuple(patient for patient, fine in zip(patients, chosen_S, strict=True) if fine)
    return np.asarray(np.median(patient_logits(table.logits_SC[chosen_S], own, chosen_S[chosen_S], how)[1], axis=0))


def _highest(logits_SC: Floats, member_PS: Bools) -> Floats:
    """Return the logits (P, C) of `patient_logits` by ``max``; whatever they are for a patient without a slide."""
    if logits_SC.shape[1] == 2:
        odds_S = logits_SC[:, 1] - logits_SC[:, 0]
        return np.asarray(logits_SC[np.where(member_PS, odds_S, -np.inf).argmax(axis=1)])
    return np.asarray(np.where(member_PS[:, :, None], centred(logits_SC), -np.inf).max(axis=1))
