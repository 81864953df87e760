"""The small round spots that carry the class, and the distractors that do not.

A class-bearing spot holds `CELLS` dark small round cells of fixed sizes, so every spot has the same ink. Only their
arrangement differs: CE has tight round islands, LAA long parallel rows. Distractors stand in both classes alike: the
same cells scattered without order, and pale parallel stripes without cells.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from sample_data.noise import octaves, smooth_noise
from wsi.arrays import FloatImage, Floats

SPOT_PX = 320
"""Side of a spot's square, level-0 pixels (160 um)."""
CELLS = 108
"""Cells of a spot."""

Arrangement = Literal["islands", "rows", "scatter", "stripes"]
CLASS_ARRANGEMENT: dict[str, Arrangement] = {"CE": "islands", "LAA": "rows"}

_CELL_PITCH_PX = 13.6
_RADII_PX = np.linspace(5.0, 6.6, CELLS)
_NUCLEUS = 1.35
_MATRIX = 0.36
_MIDDLE = SPOT_PX / 2


@dataclass(frozen=True, slots=True)
class Spot:
    """One spot of one slide."""

    l0_y: int
    """Top edge of its square, level-0 pixels."""
    l0_x: int
    arrangement: Arrangement
    seed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stamp:
    """A spot's picture, float32 (`SPOT_PX`, `SPOT_PX`) each, in stain density."""

    alpha: FloatImage
    """1 inside the spot, falling to 0 at its edge."""
    nuclei: FloatImage
    """Hematoxylin."""
    eosin: FloatImage
    """Eosin of what lies between the cells."""


def paint_stamp(spot: Spot) -> Stamp:
    """Paint one spot; the same spot gives the same picture."""
    rng = np.random.default_rng(spot.seed)
    eosin = _MATRIX + 0.03 * smooth_noise(rng, (SPOT_PX, SPOT_PX), 24)
    nuclei = np.zeros((SPOT_PX, SPOT_PX), dtype=np.float32)
    if spot.arrangement == "stripes":
        eosin = eosin * (0.45 + 0.75 * _stripes(rng))
    else:
        for (y, x), radius in zip(cell_centres(rng, spot.arrangement), rng.permutation(_RADII_PX), strict=True):
            _paint_cell(nuclei, rng, y, x, radius)
    return Stamp(alpha=_soft_disc(rng), nuclei=nuclei, eosin=np.asarray(eosin, dtype=np.float32))


def cell_centres(rng: np.random.Generator, arrangement: Arrangement) -> Floats:
    """Return float64 (`CELLS`, 2): (y, x) of the cells in the spot's square, pixels."""
    if arrangement == "islands":
        points = _islands(rng)
    elif arrangement == "rows":
        points = _rows(rng)
    else:
        points = _scatter(rng)
    return points + rng.normal(0, 0.9, points.shape)


def _islands(rng: np.random.Generator, count: int = 6) -> Floats:
    """Return hexagonally packed groups of equal size, one in the middle and the others around it."""
    lattice = np.array([(row * 0.866, column + 0.5 * (row % 2)) for row in range(-4, 5) for column in range(-4, 5)])
    angles = rng.uniform(0, 2 * np.pi) + np.arange(count - 1) * 2 * np.pi / (count - 1)
    around = 88 * np.stack([np.sin(angles), np.cos(angles)], axis=1) + rng.uniform(-9, 9, (count - 1, 2))
    groups = []
    for middle in (rng.uniform(-6, 6, 2), *around):
        from_middle = lattice + rng.uniform(-0.3, 0.3, 2)
        nearest = np.argsort(np.hypot(*from_middle.T), kind="stable")[: CELLS // count]
        groups.append(_MIDDLE + middle + _CELL_PITCH_PX * _turned(from_middle[nearest], rng.uniform(0, np.pi)))
    return np.concatenate(groups)


def _rows(rng: np.random.Generator) -> Floats:
    """Return parallel rows across the disc, bent like the layers of an onion."""
    reach, gap, bend = 140.0, 36.0, 1 / rng.uniform(300.0, 520.0)
    points = []
    for across in np.arange(-3, 4) * gap:
        half = np.sqrt(reach**2 - across**2)
        along = np.arange(-half + rng.uniform(0, _CELL_PITCH_PX), half, _CELL_PITCH_PX)
        points.append(np.stack([across + bend * (along**2 - reach**2 / 3), along], axis=1))
    rows = np.concatenate(points)
    innermost = np.argsort(np.hypot(*rows.T), kind="stable")[:CELLS]
    return np.asarray(_MIDDLE + _turned(rows[innermost], rng.uniform(0, np.pi)))


def _scatter(rng: np.random.Generator) -> Floats:
    """Return cells without order: a jittered lattice of which a random part is kept."""
    side = np.arange(-8, 9) * 16.5
    lattice = np.stack(np.meshgrid(side, side, indexing="ij"), axis=2).reshape(-1, 2)
    lattice = lattice + rng.uniform(-6.5, 6.5, lattice.shape)
    inside = lattice[np.hypot(*lattice.T) < 138]
    return np.asarray(_MIDDLE + inside[rng.permutation(len(inside))[:CELLS]])


def _turned(points: Floats, angle: float) -> Floats:
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.asarray(points @ np.array([[cosine, -sine], [sine, cosine]]))


def _paint_cell(nuclei: FloatImage, rng: np.random.Generator, y: float, x: float, radius: float) -> None:
    """Add one slightly oval nucleus with a soft edge and a mottled inside; (y, x) lies at least 11 px inside."""
    top, left = int(y) - 10, int(x) - 10
    below, right = np.mgrid[top : top + 21, left : left + 21] - np.array([y, x]).reshape(2, 1, 1)
    oval, angle = rng.uniform(0.93, 1.07), rng.uniform(0, np.pi)
    u = below * np.cos(angle) + right * np.sin(angle)
    v = right * np.cos(angle) - below * np.sin(angle)
    disc = np.clip((radius - np.hypot(u * oval, v / oval)) / 1.6 + 0.5, 0, 1)
    mottle = rng.uniform(0.85, 1.15, (4, 4)).astype(np.float32)
    cell = (disc * cv2.resize(mottle / mottle.mean(), (21, 21)) * _NUCLEUS).astype(np.float32)
    there = nuclei[top : top + 21, left : left + 21]
    np.maximum(there, cell, out=there)


def _stripes(rng: np.random.Generator) -> FloatImage:
    """Return float32 0..1 parallel waves about 26 px apart."""
    y, x = np.mgrid[:SPOT_PX, :SPOT_PX].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    across = y * np.cos(angle) + x * np.sin(angle) + 6 * smooth_noise(rng, (SPOT_PX, SPOT_PX), 90)
    return np.asarray(0.5 + 0.5 * np.sin(across * (2 * np.pi / 26)), dtype=np.float32)


def _soft_disc(rng: np.random.Generator) -> FloatImage:
    """Return the spot's outline: a disc with a soft, uneven edge, 0 on the square's border."""
    y, x = np.abs(np.mgrid[:SPOT_PX, :SPOT_PX].astype(np.float32) - np.float32(_MIDDLE - 0.5))
    edge = _MIDDLE - np.hypot(y, x) + 9 * np.clip(octaves(rng, (SPOT_PX, SPOT_PX), 70, 3), -2, 2) - 12
    to_border = _MIDDLE - np.maximum(y, x)
    return np.asarray(np.clip(edge / 24 + 0.5, 0, 1) * np.clip(to_border / 20, 0, 1), dtype=np.float32)
