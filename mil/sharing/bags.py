"""One bag as it is shared: its rows and coordinates under a new id, with a list of what it may say of itself."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.bags.bag import BagFacts, BagHeader, feature_rows, read_coords, write_bag
from features.encoders.lineage import lineage_of, patient_sha256
from features.slide_encoders.spec import KEY as SLIDE
from wsi.errors import BagError
from wsi.recipe import Json, Recipe, recipe_hash
from wsi.sharing.ids import NewIds
from wsi.sharing.metadata import bundled_recipe

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+@/-]{0,199}")
"""Of an encoder: as `gigamil encoders` lists them, joined by ``+``; no blank, nothing of another alphabet."""
_WORD = re.compile(r"[a-z][a-z0-9_]{0,30}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d{1,4}(?:\.\d{1,4}){0,4}")
_NUMBERS = ("dim", "input_px", "mean", "std", "resize_px", "crop_pct", "cropped", "mpps", "trained")
"""Fields of an encoder that hold numbers, or lists of them."""
_WORDS = ("interpolation", "precisions")


def shared_bag_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of a bag, or what a run tells of its bags' recipe, without what leads to a slide or person."""
    found = {name: recipe[name] for name in ("stage", "precision", "stain", "bag_dtype") if _is_word(recipe.get(name))}
    for name in ("select", "views"):
        if isinstance(recipe.get(name), dict):
            found[name] = {k: v for k, v in recipe[name].items() if _is_word(k) and (_is_plain(v) or _is_word(v))}
    if isinstance(recipe.get("tiling"), dict):
        found["tiling"] = bundled_recipe(recipe["tiling"])
    if "encoder" in recipe:
        encoder = recipe["encoder"]
        found["encoder"] = shared_encoder(encoder) if isinstance(encoder, dict) else _name(encoder)
    if isinstance(recipe.get(SLIDE), dict):
        found[SLIDE] = _shared_slide_encoder(recipe[SLIDE])
    return found


def _shared_slide_encoder(told: Mapping[str, Any]) -> Json:
    """Return what a recipe tells of a slide encoder: its name, a fold, and hashes."""
    found: Json = {"name": _name(told.get("name", ""))}
    for name, value in told.items():
        hashes = value if isinstance(value, list) else [value]
        if _is_word(name) and (_is_plain(value) or all(_SHA256.fullmatch(str(own)) for own in hashes)):
            found[name] = value
    return found


def shared_encoder(encoder: Mapping[str, Any], ids: NewIds | None = None) -> Json:
    """Return what is told of an encoder; whom it was fine-tuned on by their new ids, others are not listed."""
    found: Json = {name: encoder[name] for name in _NUMBERS if name in encoder and _is_plain(encoder[name])}
    found |= {name: encoder[name] for name in _WORDS if name in encoder and _is_plain(encoder[name], _is_word)}
    if "name" in encoder:
        found["name"] = _name(encoder["name"])
    if _SHA256.fullmatch(str(encoder.get("weights_sha256"))):
        found["weights_sha256"] = encoder["weights_sha256"]
    if isinstance(encoder.get("members"), list):
        found["members"] = [shared_encoder(own, ids) for own in encoder["members"]]
    if isinstance(encoder.get("tiles"), dict):
        found["tiles"] = shared_encoder(encoder["tiles"], ids)
    if ids is not None and "lineage" in encoder:
        found["lineage"] = _lineage(encoder["lineage"], ids)
    return found


def share_bag(header: BagHeader, target: Path, image_id: str, ids: NewIds, picture: str) -> Json:
    """Write a bag as it is shared; return facts for the summary.

    Parameters
    ----------
    header
        Of a bag of ours.
    image_id
        The new id.
    ids
        Of everybody in the bundle.
    picture
        What the slide's overview is known by in this bundle; empty where that is not told.

    Raises
    ------
    BagError
        The bag is damaged, or another tool's.
    """
    if not header.recipe or header.mpp is None or header.level0_shape_yx is None or not header.tile_px:
        raise BagError(f"{header.path}: expected a bag of `gigamil extract`, found another tool's: extract it again")
    told = header.provenance
    recipe, rows = shared_bag_recipe(header.recipe), feature_rows(header.path)
    provenance: Json = {name: told[name] for name in ("precision", "device") if _is_word(told.get(name))}
    provenance |= {name: told[name] for name in ("compiled", "channels_last") if isinstance(told.get(name), bool)}
    provenance["versions"] = {
        name: value
        for name, value in dict(told.get("versions") or {}).items()
        if name in ("gigamil", "torch", "timm") and _VERSION.fullmatch(str(value))
    }
    provenance["encoder"] = shared_encoder(told.get("encoder") or {}, ids)
    provenance["store_recipe_hash"] = recipe_hash(recipe.get("tiling", {}))
    if picture:
        provenance["overview_sha256"] = picture
    facts = BagFacts(
        image_id=image_id,
        encoder=_name(header.encoder),
        recipe=recipe,
        provenance=provenance,
        tile_px=round(header.tile_px),
        l0_px_per_px=header.tile_px_l0 / round(header.tile_px),
        level0_shape_yx=header.level0_shape_yx,
        mpp=header.mpp,
    )
    write_bag(target, [rows], read_coords(header.path), facts, str(rows.dtype))
    return {"tiles": header.n_tiles, "bytes_out": target.stat().st_size}


def _lineage(values: Mapping[str, Any], ids: NewIds) -> Json:
    """Return a lineage that lists the patients of the bundle by their new ids."""
    lineage = lineage_of(values, "the encoder of the bags")
    seen = {new for old, new in ids.patients.items() if patient_sha256(old) in lineage.patients_sha256}
    return {
        "recipe_hash": lineage.recipe_hash,
        "splits_hash": "",
        "fold": lineage.fold,
        "n_folds": lineage.n_folds,
        "classes": [],
        "patients_sha256": sorted(map(patient_sha256, seen)),
    }


def _name(value: Any) -> str:
    if not isinstance(value, str) or (value and not _NAME.fullmatch(value)):
        raise BagError(f"encoder {value!r}: expected a name of letters, digits and ._:+@/-: it would go with the bag")
    return value


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(_WORD.fullmatch(value))


def _is_plain(value: Any, kind: Any = None) -> bool:
    """Tell whether a value is a number, none, or a list of them; or of another ``kind``."""
    if isinstance(value, list):
        return all(_is_plain(own, kind) for own in value)
    return kind(value) if kind else value is None or isinstance(value, int | float)
