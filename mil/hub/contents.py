"""What goes up of a run, of bags, of weights: by allow-list, with what they were made with and under which licence.

Of a run: what `gigamil predict` needs, and the model card. Its tables of patients and slides, its pictures, what it
keeps of known slides, its report and its curves stay.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.bags.bag import BagHeader, find_bags
from features.encoders.lineage import KEY
from features.encoders.presets import PRESETS
from features.encoders.registry import entries
from features.tensors import read_texts
from mil.data.cohort import read_headers
from mil.data.splits import read_column
from mil.hub.licences import Kind, Source
from mil.hub.options import PushOptions
from mil.run.folder import RunFolder
from wsi.errors import RequestError
from wsi.files.documents import parse_json
from wsi.pages import plural
from wsi.sharing.bundle import is_bundle


@dataclass(frozen=True, slots=True)
class Contents:
    """What would be shared."""

    kind: Kind
    files: Mapping[str, Path | bytes]
    """Name in the folder of the hub -> file, or its content."""
    sources: list[Source]
    lineages: int
    """Lists of patients' hashes that they carry."""
    about: dict[str, Any]
    """JSON values for the manifest."""
    card: str
    """Its text, without the head that the hub reads."""
    names: Path | None
    """A table of the patients and slides behind it; None where they are not known here."""


def contents_of(options: PushOptions) -> Contents:
    """Return what would be shared of a path; `RequestError` where it is nothing that can be."""
    item = options.item
    if (item / "config.toml").is_file():
        return _of_run(RunFolder(item))
    if item.is_file() and item.suffix == ".safetensors":
        return _of_weights(item)
    if item.is_dir() and any(item.glob("*.h5")):
        return _of_bags(item, options)
    raise RequestError(
        f"{item}: expected a run, a folder of bags (*.h5), or a file of weights (.safetensors)"
        + ("" if item.exists() else ", found nothing")
    )


def _of_run(run: RunFolder) -> Contents:
    metrics = run.read_json("metrics.json")
    run.read_json("calibration.json")
    files: dict[str, Path | bytes] = {"config.toml": run.path / "config.toml"}
    files["calibration.json"] = run.path / "calibration.json"
    # what names slides stays, and centers are numbered
    plain = {**metrics, "failures": {}, "warnings": [], "seen_stores": []}
    if metrics.get("centers"):
        plain["centers"] = [{**own, "center": str(n)} for n, own in enumerate(metrics["centers"], start=1)]
    files["metrics.json"] = json.dumps(plain, indent=1, allow_nan=False).encode()
    for fold in range(int(run.recipe["folds"])):
        for seed in range(run.models_per_fold):
            folder = run.model(run.head, fold, seed)
            for name in ("weights.safetensors", "model.json"):
                files[(folder / name).relative_to(run.path).as_posix()] = folder / name
    if missing := [str(own) for own in files.values() if isinstance(own, Path) and not own.is_file()]:
        raise RequestError(f"{run.path}: expected {missing[0]}, found none: train the run to its end")
    told = json.loads(run.config["about"]["encoder"])
    encoders = told if isinstance(told, list) else [told]
    return Contents(
        kind="run",
        files=files,
        sources=[own for encoder in encoders for own in _sources(encoder)],
        lineages=sum(_lineages(encoder) for encoder in encoders),
        about={"recipe_hash": run.config["recipe_hash"], "head": run.head, "classes": list(run.classes)},
        card=_card_of(run),
        names=run.path / "splits.csv",
    )


def _card_of(run: RunFolder) -> str:
    """Return the model card without the lines that tell of single slides or patients."""
    path, table = run.path / "model_card.md", run.path / "splits.csv"
    if not path.is_file() or not table.is_file():
        return "# Model\n"
    patients = read_column(table, "patient_id")
    ids = sorted({own for own in (*patients, *patients.values()) if len(own) > 2})
    named = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, ids))})(?!\w)") if ids else None
    lines = path.read_text("utf-8").splitlines()
    return "\n".join(own for own in lines if named is None or not named.search(own.replace("\\", ""))) + "\n"


def _of_bags(folder: Path, options: PushOptions) -> Contents:
    if not (is_bundle(folder.parent) or is_bundle(folder) or options.public_ids):
        raise RequestError(
            f"{folder}: bags bear the ids of slides: expected those of a bundle of `gigamil share --as bags`, which "
            "are random; or say --public-ids, where the ids are public or pseudonyms already"
        )
    headers, failures = read_headers([folder])
    if failures:
        raise RequestError(f"{folder}: {next(iter(failures.values()))}")
    names = sorted({own.encoder for own in headers.values()})
    tiles = sum(own.n_tiles for own in headers.values())
    return Contents(
        kind="bags",
        files={path.name: path for path in find_bags([folder])},
        sources=_unique(own for header in headers.values() for own in _of_header(header)),
        lineages=sum(_lineages(own.provenance.get("encoder")) for own in headers.values()),
        about={"bags": len(headers), "encoders": names},
        card=f"# Features of {plural(len(headers), 'slide')}\n\n{tiles:,} rows; encoder: "
        f"{', '.join(names) or 'not told'}. "
        "HDF5, one file a slide: `features` (n, D) and `coords` (n, 2), (x, y) level-0 pixels.\n",
        names=None,
    )


def _of_weights(file: Path) -> Contents:
    text = read_texts(file, RequestError).get(KEY)
    try:
        told = dict(parse_json(text)) if text else {}
        recipe = dict(told.get("recipe", {}))
    except (TypeError, ValueError) as error:
        raise RequestError(f"{file}: what it tells of itself ({KEY}) cannot be read: {error}") from None
    encoder = recipe.get("encoder")
    name = encoder.get("name", "") if isinstance(encoder, dict) else str(encoder or "")
    return Contents(
        kind="weights",
        files={file.name: file},
        sources=[Source(name, _licence_of(name))] if name else [],
        lineages=int(_names_somebody(told.get("lineage"))),
        about={"encoder": name},
        card=f"# Weights{f' of {name}, trained further by gigamil' if name else ''}\n\n"
        f"`gigamil extract STORES --encoder {name or 'NAME'} --weights {file.name}` takes them.\n",
        names=None,
    )


def _licence_of(name: str) -> str:
    """Return the licence of an encoder's published weights; that of a model of timm as timm has it."""
    if name in PRESETS:
        return PRESETS[name].licence
    if name.startswith("timm:"):
        import timm

        config = timm.get_pretrained_cfg(name.removeprefix("timm:"), allow_unregistered=True)
        return str((config and config.license) or "")
    known = entries()[0].get(name.partition(":")[0])
    return known.licence if known else ""


def _of_header(header: BagHeader) -> list[Source]:
    return _sources(header.provenance.get("encoder") or {"name": header.encoder})


def _sources(encoder: Any) -> list[Source]:
    """Return every encoder that an entry tells of, those whose vectors stand beside each other one by one."""
    if not isinstance(encoder, dict) or not encoder.get("name"):
        return []
    if isinstance(encoder.get("members"), list):
        return [own for member in encoder["members"] for own in _sources(member)]
    return [Source(str(encoder["name"]), str(encoder.get("licence", "")))]


def _lineages(encoder: Any) -> int:
    if isinstance(encoder, list):
        return sum(map(_lineages, encoder))
    if not isinstance(encoder, dict):
        return 0
    own = _names_somebody(encoder.get("lineage"))
    return own + sum(_lineages(other) for key, other in encoder.items() if key != "lineage")


def _names_somebody(lineage: Any) -> bool:
    """Tell whether a lineage holds patients; that of weights which learned from formulas holds none."""
    return bool(lineage.get("patients_sha256", True) if isinstance(lineage, dict) else lineage)


def _unique(sources: Iterator[Source]) -> list[Source]:
    return list(dict.fromkeys(sources))
