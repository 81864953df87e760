"""What a shared store says of itself: an allow-list of fields, each held to the kind of value that it must be.

Whatever a field held that is not on the list, or is of another kind, is not copied. Words are copied only where they
are words of ours. Left out: ids, hashes of the slide's file and of drawn regions, names of classes, notes and warnings
(they quote what a scanner wrote), where the um/px came from, which scanner's format it was.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from wsi.recipe import Recipe, recipe_hash
from wsi.scores.drop import SCORES, parse_rules
from wsi.store.codecs import CODEC_CHOICES
from wsi.store.layout import meta_hash

ROI = "drawn"
"""Stands in a shared recipe for the hash of a file of regions."""
_Kind = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _none(value: Any) -> bool:
    return value is None


def _word(*known: str) -> _Kind:
    return lambda value: isinstance(value, str) and value in known


def _listed(kind: _Kind) -> _Kind:
    return lambda value: isinstance(value, list | tuple) and all(map(kind, value))


def _mapped(kind: _Kind, value_kind: _Kind) -> _Kind:
    return lambda value: isinstance(value, dict) and all(kind(n) and value_kind(v) for n, v in value.items())


def _digits(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 2


def _rule(value: Any) -> bool:
    return isinstance(value, str) and bool(_RULE.fullmatch(value)) and bool(parse_rules([value]))


_RULE = re.compile(rf"(?:{'|'.join(SCORES)})[<>]=?[0-9.e+-]+")
_VERSION = re.compile(r"\d{1,4}(?:\.\d{1,4}){0,4}")
_CODEC = _word(*CODEC_CHOICES)
_SHARED: dict[str, tuple[_Kind, ...]] = {
    "tile_px": (_number, _word("native")),
    "downscale": (_word("area", "dct"),),
    "fill_holes": (_flag,),
    "drop": (_listed(_rule),),
    "scores": (_word("auto", "all"),),
    "reader": (_word("tiff", "ndpi", "mirax", "dicom", "czi", "vsi", "ome-zarr", "openslide"),),
    "slide_mpp": (_number,),
}
_RECIPE: dict[str, tuple[_Kind, ...]] = _SHARED | {
    "target_mpp": (_number, _none, _word("native")),
    "codec": (_CODEC,),
    "min_tissue": (_number,),
    "keep_background": (_flag,),
    "roi_mode": (_word("and", "replace"),),
    "algorithm": (_number,),
    "assume_mpp": (_number, _none),
    "on_damage": (_word("fail", "skip"),),
    "icc": (_word("srgb"),),
    "scene": (_number,),
    "colours": (_word("ycbcr"),),
    "pyramid": (_word("source"),),
    "subsampling": (_word("420"),),
}
_EFFECT: dict[str, tuple[_Kind, ...]] = _SHARED | {
    "level": (_number,),
    "l0_px_per_px": (_number,),
    "codecs": (_listed(_CODEC),),
    "copied": (_mapped(_digits, _number),),
    "jpeg_reduced": (_number,),
}
_TISSUE: dict[str, tuple[_Kind, ...]] = {
    "background": (_listed(_number),),
    "dark_background": (_flag,),
    "threshold": (_number,),
    "ladder_step": (_number,),
    "artefact_shares": (_mapped(_word("pen", "fold", "bubble"), _number),),
    "pieces": (_number,),
    "repeats": (_listed(_listed(_number)),),
    "holes_filled": (_flag,),
    "damaged_overview": (_flag,),
}
_PROVENANCE: dict[str, tuple[_Kind, ...]] = _SHARED | {
    "level": (_number,),
    "single_pass": (_flag,),
    "damaged_tiles": (_number,),
    "median_scores": (_mapped(_word(*sorted(SCORES)), _number),),
    "versions": (
        _mapped(
            _word("gigamil", "imagecodecs", "numpy", "opencv-python-headless", "openslide-python", "tifffile", "zarr"),
            lambda value: isinstance(value, str) and bool(_VERSION.fullmatch(value)),
        ),
    ),
    "regions": (_listed(_number),),
}
_ROOT: dict[str, tuple[_Kind, ...]] = {
    **dict.fromkeys(("format", "tile_px", "mpp", "l0_px_per_px", "mask_mpp", "n_tiles"), (_number,)),
    **dict.fromkeys(("slide_shape_yx", "shape_yx"), (_listed(_number),)),
    "levels": (_listed(_listed(_number)),),
    "complete": (_flag,),
    "codec": (_CODEC,),
    "codecs": (_listed(_CODEC),),
    "jpeg_checksum": (_word("crc32c"),),
}


def allowed(values: Any, kinds: Mapping[str, tuple[_Kind, ...]]) -> dict[str, Any]:
    """Return the fields of a document that are listed and of a kind that is listed for them."""
    found = values if isinstance(values, dict) else {}
    return {name: value for name, value in found.items() if any(kind(value) for kind in kinds.get(name, ()))}


def bundled_recipe(recipe: Recipe) -> Recipe:
    """Return a tiling recipe without what leads to the slide or to a person: equal for all slides that shared one."""
    effect = {"effect": allowed(recipe["effect"], _EFFECT)} if "effect" in recipe else {}
    drawn: Recipe = {"roi": None if recipe.get("roi") is None else ROI, "roi_class": []}
    return allowed(recipe, _RECIPE) | drawn | effect


def shared_meta(meta: Mapping[str, Any], image_id: str, profile_sha256: str) -> dict[str, Any]:
    """Return our own attributes of a store's root as they are shared.

    Parameters
    ----------
    meta
        As `wsi.store.metadata.parse_metadata` read them.
    image_id
        The new id.
    profile_sha256
        Of the ICC profile that goes with the store; empty where none does.
    """
    recipe, told = bundled_recipe(meta["recipe"]), meta["provenance"]
    tissue = allowed(told.get("tissue"), _TISSUE) | {"left_out": [], "notes": []}
    applied = bool(dict(meta.get("icc") or {}).get("applied"))
    shared = allowed(dict(meta), _ROOT) | {
        "image_id": image_id,
        "scores": [name for name in meta["scores"] if name in SCORES],
        "recipe": recipe,
        "recipe_hash": recipe_hash(recipe),
        "provenance": allowed(told, _PROVENANCE) | {"tissue": tissue, "mpp_source": "", "warnings": []},
    }
    if profile_sha256:
        shared["icc"] = {"sha256": profile_sha256, "applied": applied}
    return shared | {"sha256": meta_hash(shared)}
