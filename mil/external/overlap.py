"""Who of another cohort was trained on: by id, by the picture of the slide, by the features of its bag."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from features.bags.bag import BagHeader
from mil.data.cohort import Cohort
from mil.data.duplicates import OTHERS, PICTURE, pictures
from mil.data.flow import Flow
from mil.data.same_tiles import known_with, sketch_of
from mil.data.splits import read_column
from mil.evaluation.probe import mean_of
from mil.run.folder import RunFolder
from mil.run.known import KnownSlides
from wsi.arrays import Floats
from wsi.cohort.manifest import ManifestRow
from wsi.errors import BagError, RequestError
from wsi.pages import plural

ALIKE = 1e-5
"""Of mean features, as a share of their size: kept as float32, equal ones differ by less."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """The patients who were trained on, and by what they were found."""

    reasons: dict[str, str]
    """Patient -> the first thing that was found."""

    def lines(self) -> list[str]:
        """Return what was found, one line for each way."""
        by_why: dict[str, list[str]] = {}
        for patient, why in sorted(self.reasons.items()):
            by_why.setdefault(why.partition(":")[0], []).append(patient)
        return [
            f"{plural(len(found), 'patient')} by {why} ({', '.join(found[:5])}{' ...' if len(found) > 5 else ''})"
            for why, found in by_why.items()
        ]


def flow_without(flow: Flow, rows: Sequence[ManifestRow], overlap: Overlap) -> Flow:
    """Return the flow after those of these rows have left who were trained on, one step for each way."""
    whys = {patient: why.partition(":")[0] for patient, why in overlap.reasons.items()}
    for why in sorted(set(whys.values())):
        rows = [row for row in rows if whys.get(row.patient_id) != why]
        flow = flow.leaving(f"the run was trained on the patient, known by {why}", rows)
    return flow


def find_overlap(
    run: RunFolder, rows: Sequence[ManifestRow], headers: Mapping[str, BagHeader], known: KnownSlides | None
) -> Overlap:
    """Return the patients of these slides whom the run was trained on.

    ``headers``: of the slides' bags. ``known``: what the run keeps of its slides, where it does.
    """
    tables = [table for table in (run.path / "splits.csv", run.path / OTHERS) if table.exists()]
    patients = {own for table in tables for own in read_column(table, "patient_id").values()}
    images = {own for table in tables for own in read_column(table, "image_id")}
    marks = {mark: image for table in tables for image, mark in read_column(table, PICTURE, "").items() if mark}
    contents = {} if known is None else {own: i for i, own in zip(known.image_ids, known.contents, strict=True) if own}
    picture_of, reasons = pictures(headers), dict[str, str]()
    for row in rows:
        header = headers.get(row.image_id)
        mark = picture_of.get(row.image_id, "")
        content = "" if header is None or not header.n_tiles else header.content_sha256
        if row.patient_id in patients:
            why = "the patient's id"
        elif row.image_id in images:
            why = "the slide's id"
        elif mark in marks:
            why = f"{'the same features' if mark.startswith('content') else 'the same picture'}: {marks[mark]}"
        elif content in contents:
            why = f"the same features: {contents[content]}"
        else:
            continue
        reasons.setdefault(row.patient_id, why)
    return Overlap(reasons)


def find_same_tiles(cohort: Cohort, known: KnownSlides | None, overlap: Overlap) -> Overlap:
    """Return the overlap with those added who have the tiles of a known slide: anew, rounded, or in part."""
    if known is None:
        return overlap
    reasons = dict(overlap.reasons)
    for i in np.flatnonzero(cohort.usable_N).tolist():
        if cohort.groups[i] in reasons:
            continue
        try:
            twin, same = _same(mean_of(cohort.bags[i]), known.means_SD), None
            if twin is None and known.tiles_SKA.size:
                same = known_with(sketch_of(cohort.bags[i]), known.tiles_SKA)
        except BagError:  # told when it is judged
            continue
        if twin is not None:
            reasons[cohort.groups[i]] = f"the same features: {known.image_ids[twin]}"
        elif same is not None:
            reasons[cohort.groups[i]] = f"the same tiles: {known.image_ids[same]}"
    return Overlap(reasons)


def _same(mean_D: Floats, means_SD: Floats) -> int | None:
    sizes_S = np.linalg.norm(means_SD, axis=1) + 1e-12
    off_S = np.linalg.norm(means_SD - mean_D, axis=1) / sizes_S
    nearest = int(off_S.argmin())
    return nearest if off_S[nearest] < ALIKE else None


def refuse_overlap(overlap: Overlap, run: RunFolder) -> None:
    """Raise `RequestError` where patients were trained on."""
    if overlap.reasons:
        raise RequestError(
            f"{run.path} was trained on patients of this cohort: {'; '.join(overlap.lines())}: leave them out of the "
            "manifest, or give --overlap leave-out"
        )
