"""Encoders by name: the built-in ones, the published ones, and those that other packages add.

A name is ``texture`` (built in, handcrafted), a published pathology encoder (`features.encoders.presets`), or
``timm:<model>``; several are joined by ``+``. Other packages add theirs by the entry-point group
``gigamil.encoders``: the entry point's name is the part before the colon, its value an `EncoderEntry`.
Each implementation passes the suite of `features.encoders.contract`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TypeGuard

from features.encoders.presets import PRESETS, Preset
from features.encoders.spec import Encoder, TunedEncoder, WeightsChoice
from features.option_groups import JOINED
from wsi.errors import RequestError
from wsi.option_files import nearest
from wsi.plugins import load_plugin, plugins, told

ENTRY_POINTS = "gigamil.encoders"


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """One line of the registry."""

    name_form: str
    """``texture``, ``timm:<model>``."""
    description: str
    licence: str
    build: Callable[[str, WeightsChoice], Encoder]
    """From the whole name and the choice of weights. Raises `RequestError` in one clear line."""
    dim: int | None = None
    """Length of a feature vector, where it is one for all models of this line."""
    input_px: int | None = None
    mpps: tuple[float, ...] = ()
    """um/px of the tiles it was made for."""
    gated: bool = False
    """The hub gives the weights only to accounts that have accepted the terms."""
    hub: str = ""
    """Repository on the Hugging Face hub, where there is one."""
    source: str = ""
    """The publication."""
    needs: str = "nothing"
    """What must be had before it encodes."""


def _texture(name: str, weights: WeightsChoice) -> Encoder:
    from features.encoders.texture_encoder import build

    return build(name, weights)


def _timm(name: str, weights: WeightsChoice) -> Encoder:
    from features.encoders.timm_encoder import build

    return build(name, weights)


def _published(name: str, preset: Preset) -> EncoderEntry:
    return EncoderEntry(
        name,
        f"{preset.hub}; {preset.source}",
        preset.licence,
        _timm,
        preset.dim,
        preset.input_px,
        preset.mpps,
        preset.gated,
        preset.hub,
        preset.source,
        preset.needs,
    )


_BUILT_IN = {
    "texture": EncoderEntry(
        "texture",
        "handcrafted colour and texture measures for H&E; no learning, no download; a baseline and the demo's encoder",
        "MIT (part of this software)",
        _texture,
    ),
    "timm": EncoderEntry(
        "timm:<model>",
        "any image model of the timm library, pooled features before its classifier; tiles are resized whole, and its "
        "crop_pct applied with --crop only",
        "per model; see its card",
        _timm,
        needs="a download",
    ),
    **{name: _published(name, preset) for name, preset in PRESETS.items()},
}


def entries() -> tuple[dict[str, EncoderEntry], list[str]]:
    """Return the registry by the part before the colon, and a caution for each package whose encoder cannot be had."""
    found, cautions = dict(_BUILT_IN), []
    for point in plugins(ENTRY_POINTS).values():
        try:
            if point.name in found:
                raise RequestError(f"{told(point)}: the name is taken; rename it or uninstall its package")
            found[point.name] = _loaded(point)
        except RequestError as error:
            cautions.append(str(error))
    return found, cautions


def _is_entry(found: object) -> TypeGuard[EncoderEntry]:
    return isinstance(found, EncoderEntry)


def _loaded(point: EntryPoint) -> EncoderEntry:
    return load_plugin(point, _is_entry, "an EncoderEntry")


def check_encoder_name(name: str) -> None:
    """Raise `RequestError` unless each of the names joined by ``+`` is known and different; none is loaded."""
    names = name.split(JOINED)
    if len(set(names)) < len(names):
        raise RequestError(f"encoder {name}: expected different encoders, found one twice")
    for own in names:
        key, known = own.partition(":")[0], [*_BUILT_IN, *plugins(ENTRY_POINTS)]
        if key not in known:
            told = f"expected texture, timm:<model>, or another that `gigamil encoders` lists{nearest(key, known)}"
            raise RequestError(f"encoder {own}: {told}")


def _entry(name: str) -> EncoderEntry:
    """Return the line of the registry; other packages are imported only where their own name is asked for."""
    key = name.partition(":")[0]
    return _BUILT_IN[key] if key in _BUILT_IN else _loaded(plugins(ENTRY_POINTS)[key])


def _joint(name: str, weights: WeightsChoice) -> Encoder:
    from features.encoders.joint import JointEncoder

    names = name.split(JOINED)
    if weights.file is not None:
        raise RequestError(f"--weights {weights.file}: expected one encoder with it, found {len(names)}")
    return JointEncoder([build_encoder(own, weights if own != "texture" else None) for own in names])


def build_encoder(name: str, weights: WeightsChoice | None = None, *, crop: bool = False) -> Encoder:
    """Build an encoder by name, on the CPU, in evaluation mode; names joined by ``+`` stand beside each other.

    Raises
    ------
    RequestError
        The name is unknown, or the weights cannot be had as asked, or there is nothing to crop; the message says what
        to do.
    """
    check_encoder_name(name)
    choice = weights or WeightsChoice()
    encoder = _joint(name, choice) if JOINED in name else _entry(name).build(name, choice)
    if crop and not (isinstance(encoder, TunedEncoder) and encoder.apply_crop()):
        raise RequestError(f"--crop: the transform of {name} crops nothing: leave --crop out")
    return encoder
