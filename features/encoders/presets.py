"""Published encoders by name, with the exact arguments, pooling and recommended um/px of their public cards.

Every one is an architecture of timm, with a pool or projection of ours where its authors have one
(`published.poolers`): local files of weights, in the authors' own layout, load without a network and without anybody's
code. What needs more is left to packages that register it by the entry-point group of `features.encoders.registry`.
"""

from features.encoders.published.pathology import PATHOLOGY
from features.encoders.published.photographs import PHOTOGRAPHS
from features.encoders.published.preset import Preset
from features.encoders.published.vision_language import VISION_LANGUAGE

__all__ = ["PRESETS", "Preset"]

PRESETS: dict[str, Preset] = {**PATHOLOGY, **VISION_LANGUAGE, **PHOTOGRAPHS}
