"""How a center's laboratory and scanner colour a slide: stain directions, their strength, the background's light."""

from dataclasses import dataclass

import numpy as np

from sample_data.spec import Background
from wsi.arrays import FloatImage

_GREEN = (203.0, 228.0, 198.0)


@dataclass(frozen=True, slots=True)
class _Laboratory:
    """One center's habits."""

    hematoxylin: tuple[float, float, float]
    """Optical density of red, green, blue."""
    eosin: tuple[float, float, float]
    strength: tuple[float, float]
    """Mean strength of hematoxylin and of eosin."""
    light: tuple[float, float, float]
    """RGB of the empty slide, 0..255."""


_LABORATORIES = {
    "1": _Laboratory((0.62, 0.72, 0.31), (0.09, 0.88, 0.46), (1.00, 0.92), (241.0, 239.0, 240.0)),
    "4": _Laboratory((0.71, 0.63, 0.31), (0.06, 0.78, 0.62), (1.15, 0.80), (236.0, 240.0, 237.0)),
    "11": _Laboratory((0.55, 0.75, 0.36), (0.13, 0.93, 0.33), (0.85, 1.08), (242.0, 238.0, 233.0)),
}


@dataclass(frozen=True, slots=True)
class Look:
    """One slide's colours and its mix of tissue: nuisance, drawn without regard to the class."""

    light: FloatImage
    """float32 (3,): RGB of the empty slide."""
    stains: FloatImage
    """float32 (3, 2): optical density of R, G, B per unit of hematoxylin, of eosin."""
    blood_share: float
    """Share of the tissue that is packed red cells."""
    cellular_share: float
    """Share of the rest that is cellular; what remains is fibrin."""
    pale_share: tuple[float, float]
    """Shares of the tissue under pale cells in rows and in islands: they mimic both classes, in both classes."""
    pale_depth: tuple[float, float]
    """Their hematoxylin and eosin, density."""
    crowd: float
    """How many distractors there are for each class-bearing spot."""
    nuclei: float
    """How many of the fibrin's nuclei show, 0 to 1.2."""


def draw_look(rng: np.random.Generator, center_id: str, background: Background) -> Look:
    """Draw one slide's look around its center's."""
    laboratory = _LABORATORIES[center_id]
    light = np.array(_GREEN if background == "green" else laboratory.light) + rng.uniform(-3, 3, 3)
    strength = np.array(laboratory.strength) * np.exp(rng.normal(0, 0.20, 2))
    stains = np.stack([laboratory.hematoxylin, laboratory.eosin], axis=1) + rng.normal(0, 0.025, (3, 2))
    return Look(
        light=np.rint(np.clip(light, 0, 247)).astype(np.float32),
        stains=(np.maximum(0.02, stains) * strength).astype(np.float32),
        blood_share=float(rng.beta(0.9, 1.1) * 0.9),
        cellular_share=float(rng.beta(0.8, 1.6)),
        pale_share=(float(0.9 * rng.beta(0.4, 0.6)), float(0.9 * rng.beta(0.4, 0.6))),
        pale_depth=(float(rng.uniform(0.08, 0.40)), float(rng.uniform(0.25, 0.6))),
        crowd=float(rng.uniform(0.0, 4.0)),
        nuclei=float(rng.uniform(0.15, 1.2)),
    )
