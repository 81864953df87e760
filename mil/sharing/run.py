"""A run that knows its patients by their new ids alone: what draws pages and heat maps for a bundle is given this one.

Weights and numbers stay. Ids are exchanged; reasons of failures, warnings and hashes of who was in the cohort go.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import tomli_w

from mil.run.checks import FORMAT, checked_table
from mil.run.folder import RunFolder
from mil.sharing.bags import shared_bag_recipe, shared_encoder
from mil.sharing.table import CENTER, Centers, with_new_ids
from wsi.errors import RequestError
from wsi.files.atomic import write_bytes, write_text
from wsi.files.csv_table import csv_text
from wsi.recipe import Json, recipe_hash
from wsi.sharing.ids import NewIds

_MODEL = ("weights.safetensors", "history.csv")
_PREDICTION = ("level", "patient_id", "image_id", "fold", "n_tiles")
"""Columns of oof.csv that go, beside those of the outputs and, where asked for, the truth."""


def patients_of_run(run: RunFolder) -> dict[str, str]:
    """Return image id -> patient id of every slide that a run was trained or tested on."""
    tables = [run.path / name for name in ("splits.csv", "others.csv") if (run.path / name).exists()]
    records = [record for table in tables for record in checked_table(table, ("image_id", "patient_id"))]
    return {record["image_id"]: record["patient_id"] for record in records}


def centers_of_run(run: RunFolder) -> list[str]:
    """Return the name of each slide's center, as far as a run knows it."""
    return [record.get(CENTER, "") for record in checked_table(run.path / "oof.csv", ("image_id",))]


def predictions_table(run: RunFolder, ids: NewIds, *, truth: bool) -> str:
    """Return what the run tells of its own slides and patients, out of fold, as CSV under the new ids."""
    names = list(run.read_json("metrics.json")["classes"])
    columns = [*_PREDICTION, *(f"logit_{name}" for name in names), *(f"p_{name}" for name in names)]
    columns[3:3] = run.predicts.columns(names) if truth else []
    records = checked_table(run.path / "oof.csv", columns)
    rows = with_new_ids(records, ids, lambda _: "")
    return csv_text([columns, *([row[name] for name in columns] for row in rows)])


def share_run(run: RunFolder, folder: Path, ids: NewIds, center: Centers) -> RunFolder:
    """Write the run with new ids into a folder; return it.

    Raises
    ------
    RequestError
        The run is not finished, or fuses the bags of several encoders.
    """
    if run.fusion != "none":
        raise RequestError(f"{run.path} fuses bags of several encoders ({run.fusion}): pages are made of one's")
    recipe = _write_config(run, folder)
    for name in ("splits.csv", "others.csv", "oof.csv", "baselines/oof.csv"):
        if (run.path / name).exists():
            _write_table(run.path / name, folder / name, ids, center)
    _write_json(run, folder, center)
    for fold in range(int(recipe["folds"])):
        for seed in range(run.models_per_fold):
            _write_model(run.model(run.head, fold, seed), folder / f"fold{fold}" / f"seed{seed}", recipe_hash(recipe))
    return RunFolder(folder)


def _write_config(run: RunFolder, folder: Path) -> Json:
    config = run.config
    about = config["about"]
    bags = shared_bag_recipe(json.loads(about["bag_recipe"]))
    told = json.loads(about["encoder"])
    made = {"bags": {**config["recipe"]["bags"], "recipe_hash": recipe_hash(bags)}, "cohort": "", "splits": ""}
    recipe = {**config["recipe"], **made}
    encoder = shared_encoder(told) if isinstance(told, dict) else [shared_encoder(own) for own in told]
    shown = {
        "bag_recipe": json.dumps(bags),
        "encoder": json.dumps(encoder),
        "bag_scales": about.get("bag_scales", []),
        "versions": about.get("versions", {}),
    }
    content = {"format": FORMAT, "recipe_hash": recipe_hash(recipe), "recipe": recipe, "about": shown}
    write_bytes(folder / "config.toml", tomli_w.dumps(content).encode())
    return recipe


def _write_table(source: Path, target: Path, ids: NewIds, center: Centers) -> None:
    records = checked_table(source, ("patient_id",))
    rows = with_new_ids(records, ids, center)
    columns = list(records[0])
    write_text(target, csv_text([columns, *([row[name] for name in columns] for row in rows)]))


def _write_json(run: RunFolder, folder: Path, center: Centers) -> None:
    metrics = run.read_json("metrics.json")
    metrics |= {"failures": {}, "warnings": [], "seen_stores": []}
    if isinstance(metrics.get("centers"), list):
        told = [{**own, "center": center(str(own.get("center", "")))} for own in metrics["centers"]]
        metrics["centers"] = [own for own in told if own["center"]]
    write_text(folder / "metrics.json", json.dumps(metrics))
    write_text(folder / "calibration.json", json.dumps(run.read_json("calibration.json")))


def _write_model(source: Path, target: Path, run_hash: str) -> None:
    target.mkdir(parents=True)
    for name in _MODEL:
        shutil.copyfile(source / name, target / name)
    facts: dict[str, Any] = json.loads((source / "model.json").read_text("utf-8"))
    write_text(target / "model.json", json.dumps({**facts, "recipe_hash": run_hash}))
