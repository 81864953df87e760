"""`gigamil share`: a de-identified bundle of stores, bags, pages and what a run says of them, whole or not at all.

Everything is made from stores, bags and tables that bear the new ids already: what draws a page, a picture or a file
cannot tell what it never saw.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from features.bags.bag import BagHeader
from mil.data.cohort import read_headers
from mil.run.folder import RunFolder
from mil.sharing.forms import Bundle
from mil.sharing.options import Form, ShareOptions
from mil.sharing.run import centers_of_run, patients_of_run
from mil.sharing.table import CENTER, Centers, cohort_table, renumbered
from wsi.cohort.manifest import ManifestRow, load_manifest
from wsi.errors import GigamilError, RecipeMismatchError, RequestError
from wsi.files.atomic import replacing, write_text
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.files.replace import refuse_input
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.sharing.bundle import finish_bundle, is_bundle
from wsi.sharing.ids import NewIds, check_key_place, is_key, new_ids, patients_of_key, read_key, write_key
from wsi.store.tile_store import TileStore, find_stores

PARTS: Mapping[Form, str] = {
    "stores": "tile stores (OME-Zarr 0.5): napari, gigamil",
    "ome-tiff": "slides as pyramidal OME-TIFF: QuPath, every pathology viewer",
    "pages": "open index.html by a double click",
    "bags": "features of the tiles (HDF5)",
    "heatmaps": "where the model looked: a picture and a table for each slide",
    "annotations": "regions (GeoJSON, QuPath's form)",
    "predictions": "what the model told, out of fold",
}
"""What a part of the bundle holds, for its README."""
_Own = TypeVar("_Own")
_FILES: Mapping[Form, str] = {"predictions": "predictions.csv"}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is shared, by old ids."""

    forms: tuple[Form, ...]
    run: RunFolder | None
    stores: Mapping[str, TileStore]
    bags: Mapping[str, BagHeader]
    rows: Mapping[str, ManifestRow]
    patient_of: Mapping[str, str]
    """Of every slide that gets a new id."""
    failures: Mapping[str, str]


@stage
def share(options: ShareOptions, progress: Progress | None = None) -> Summary:
    """Write a de-identified bundle; a slide that fails is named and left out.

    Raises
    ------
    RequestError
        Nothing to share was found, ``--out`` lies in an input or holds something else, the key file lies in the bundle.
    GigamilError
        Not one slide could be shared.
    """
    start, progress = time.perf_counter(), progress or Silent()
    if options.key is not None:
        check_key_place(options.key, options.out)
    plan = _planned(options)
    key = options.key if options.key is not None and is_key(options.key) else None
    earlier = patients_of_key(key) if key else {}
    patient_of = {**earlier, **plan.patient_of}
    ids = new_ids(patient_of, read_key(key) if key else NewIds())
    with claim(options.out):
        if options.out.exists() and not options.overwrite and is_bundle(options.out):
            raise RecipeMismatchError(f"{options.out} holds a bundle: choose another --out, or give --overwrite")
        with replacing(options.out, is_bundle) as folder:
            outcomes = _written(options, plan, ids, folder, progress)
            if options.key is not None:
                write_key(options.key, ids, patient_of)
    return Summary("share", outcomes, time.perf_counter() - start)


def _planned(options: ShareOptions) -> _Plan:
    run, stores, bags = None, [*options.stores], [*options.bags]
    for item in options.items:
        if (item / "config.toml").is_file():
            if run is not None:
                raise RequestError("expected one run, found two")
            run = RunFolder(item)
        elif item.suffix == ".h5" or (item.is_dir() and item.suffix != ".zarr" and any(item.glob("*.h5"))):
            bags.append(item)
        else:
            stores.append(item)
    forms = options.forms or _usual(run, stores)
    _check_wanted(options, forms, run, stores, bags)
    inputs = [*options.items, *stores, *bags, *filter(None, [options.manifest, options.annotations, options.key])]
    refuse_input(options.out, [path for path in inputs if path != options.key])
    found = {store.image_id: store for store in find_stores(stores)} if stores else {}
    headers, failures = read_headers(bags) if bags else ({}, {})
    rows = {row.image_id: row for row in load_manifest(options.manifest)} if options.manifest else {}
    if rows:
        found, headers = _of_table(found, rows), _of_table(headers, rows)
        failures = _of_table(failures, rows)
    known = {row.image_id: row.patient_id for row in rows.values()} | (patients_of_run(run) if run else {})
    wanted = {**found, **headers}
    if not wanted and not failures and run is None:
        raise RequestError("expected a slide that is in the cohort table, found none")
    everybody = [*wanted, *(patients_of_run(run) if run else ())]
    patient_of = {image_id: known.get(image_id) or re.sub(r"_\d+$", "", image_id) for image_id in everybody}
    return _Plan(forms, run, found, headers, rows, patient_of, failures)


def _of_table(found: Mapping[str, _Own], rows: Mapping[str, ManifestRow]) -> dict[str, _Own]:
    return {image_id: own for image_id, own in found.items() if image_id in rows}


def _usual(run: RunFolder | None, stores: Sequence[Path]) -> tuple[Form, ...]:
    if run is None:
        return ("stores",) if stores else ("bags",)
    return ("pages", "predictions") if stores else ("predictions",)


def _check_wanted(
    options: ShareOptions, forms: Sequence[Form], run: RunFolder | None, stores: Sequence[Path], bags: Sequence[Path]
) -> None:
    """Raise `RequestError` naming the first form that what was given cannot be shared in."""
    missing = {
        "tile stores": {"stores", "ome-tiff", "pages", "heatmaps"} if not stores else set(),
        "bags (--bags)": {"bags", "heatmaps"} if not bags else set(),
        "a run": {"heatmaps", "predictions"} if run is None else set(),
        "--annotations": {"annotations"} if options.annotations is None else set(),
    }
    for what, needing in missing.items():
        if lacking := [form for form in forms if form in needing]:
            raise RequestError(f"--as {lacking[0]}: expected {what}, found none")


def _written(options: ShareOptions, plan: _Plan, ids: NewIds, folder: Path, progress: Progress) -> list[Outcome]:
    """Write everything into the folder; return what became of each slide."""
    center = _centers(plan) if CENTER in options.keep else _no_center
    bundle = Bundle(folder, plan.forms, ids, center, options)
    reasons, notes = dict(plan.failures), dict[str, str]()
    for image_id in sorted({*plan.stores, *plan.bags}):
        try:
            notes[image_id] = bundle.add(image_id, plan.stores.get(image_id), plan.bags.get(image_id), progress)
        except GigamilError as error:
            reasons[image_id] = str(error)
            bundle.drop(image_id)
    if not notes and (reasons or plan.run is None):
        raise GigamilError(f"not one slide could be shared: {next(iter(reasons.values()))}")
    bundle.finish(plan.run, progress)
    shared = notes or (plan.patient_of if plan.run else {})
    write_text(folder / "cohort.csv", csv_text(cohort_table(plan.rows, ids, options.keep, shared, center)))
    parts = {_FILES.get(form, f"{form}/"): PARTS[form] for form in PARTS if form in plan.forms}
    about = {"slides": len(shared), "forms": sorted(plan.forms), "columns": list(options.keep)}
    finish_bundle(folder, about, {**parts, "cohort.csv": "which slide is whose, under the new ids"})
    done = [Outcome(image_id, Status.DONE, note) for image_id, note in notes.items()]
    done = done or [Outcome(str(plan.run.path), Status.DONE)] if plan.run else done
    return [*done, *(Outcome(image_id, Status.FAILED, why) for image_id, why in reasons.items())]


def _centers(plan: _Plan) -> Centers:
    """Return what numbers the centers of the whole bundle, in no order."""
    of_rows = [row.center_id or "" for row in plan.rows.values()]
    return renumbered([*of_rows, *(centers_of_run(plan.run) if plan.run else ())])


def _no_center(name: str) -> str:
    return ""
