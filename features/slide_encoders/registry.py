"""Slide encoders by name: pools, and the published ones. A run's own embedding is `mil.embedding`'s."""

from features.encoders.spec import WeightsChoice
from features.slide_encoders.pools import POOLS, Pool
from features.slide_encoders.presets import SLIDE_PRESETS, UNSUPPORTED
from features.slide_encoders.spec import SlideEncoder
from wsi.errors import RequestError


def build_slide_encoder(name: str, weights: WeightsChoice) -> SlideEncoder:
    """Build a slide encoder by name, on the CPU, in evaluation mode.

    Raises
    ------
    RequestError
        The name is unknown, or the weights cannot be had as asked; the message says what to do.
    """
    if name in POOLS:
        if weights != WeightsChoice():
            raise RequestError(f"encoder {name} has no weights: leave --weights and --random-weights out")
        return Pool(name)
    if name in SLIDE_PRESETS:
        from features.slide_encoders.published import PublishedSlideEncoder

        return PublishedSlideEncoder(name, weights)
    if name in UNSUPPORTED:
        raise RequestError(f"encoder {name} cannot be had: {UNSUPPORTED[name]} (docs/encoders.md)")
    known = ", ".join([*POOLS, *SLIDE_PRESETS])
    raise RequestError(f"encoder {name}: expected one of {known}, or the folder of a run")
