"""Probabilities at the shares of the classes that each center's known patients have (``--prevalence by-center``).

Shares are counted on the run's own patients and pulled to those of all by as much as tells these best, each left out of
the counts (`mil.evaluation.centers.prior`). Whether that helps stands in the run's report, measured out of fold. A
patient of a center that the run does not know, or of whom no center is told, has the shares of all.
"""

from collections.abc import Sequence

import numpy as np

from mil.evaluation.centers.prior import priors_of_new
from mil.inference.options import BY_CENTER
from mil.run.evidence import Evidence
from wsi.arrays import Floats
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError
from wsi.pages import plural


def shares_by_center(evidence: Evidence, rows: Sequence[ManifestRow], units: Sequence[str]) -> tuple[Floats, list[str]]:
    """Return the shares of the classes (P, C) for those who are told, and notes on whom they are not their center's.

    Parameters
    ----------
    evidence
        The run's, of its own patients.
    rows, units
        The new slides, and who is told: patients, or slides where each is judged by itself.

    Raises
    ------
    RequestError
        Nobody who is told comes from a center of the run.
    """
    own_P = evidence.scored_P
    centers = [row["center_id"] for row, fine in zip(evidence.patients, own_P, strict=True) if fine]
    home: dict[str, str] = {}
    for row in rows:
        name = row.image_id if evidence.run.unit == "slide" else row.patient_id
        home[name] = home.get(name) or row.center_id or ""
    new, unit = [home[name] for name in units], evidence.run.unit
    known = {center for center in centers if center}
    unknown = [name for name, center in zip(units, new, strict=True) if center not in known]
    if len(unknown) == len(units):
        raise RequestError(
            f"--prevalence {BY_CENTER}: expected {unit}s whose center_id in the manifest is one of the run's "
            f"({', '.join(sorted(known)) or 'it has none'}), found none: give shares, CLASS=SHARE"
        )
    labels = evidence.truth.of(own_P).groups_N
    prior_PC, belief = priors_of_new(labels, centers, new, len(evidence.classes))
    notes = []
    if not np.isfinite(belief):
        notes.append(
            "the run's centers are not shown to differ in their shares of the classes: all stand at those of all its "
            f"{unit}s together"
        )
    elif unknown:
        listed = f"{', '.join(unknown[:10])}{' ...' if len(unknown) > 10 else ''}"
        notes.append(
            f"{plural(len(unknown), unit)} of no center of the run, told at the shares of all its {unit}s: {listed}"
        )
    return prior_PC, notes
