"""Pixels of a sample slide, block by block: any block can be painted alone, in any order, to the same bytes."""

from functools import lru_cache

import cv2
import numpy as np

from sample_data.spots import SPOT_PX, Stamp, paint_stamp
from sample_data.texture import ATLAS_PX, BLOCK_PX, DENSITY, RAGGED, REACH_PX, build_atlas
from sample_data.tissue import GRID_PX, TissueMap
from wsi.arrays import RGB, FloatImage

_RAGGED_EDGE_PX = 18.0
_FARTHEST_PX = _RAGGED_EDGE_PX * 128 / RAGGED + 4
"""How far from the coarse outline the ragged edge can reach."""


class Painter:
    """Paints one slide. Holds the coarse fields and a few stamps; safe to share between threads."""

    def __init__(self, tissue_map: TissueMap) -> None:
        self._map = tissue_map
        self._atlas = build_atlas()
        self._stamp = lru_cache(maxsize=128)(paint_stamp)
        angle = float(np.random.default_rng((*tissue_map.spec.seed, 0)).uniform(0, 2 * np.pi))
        y, x = np.mgrid[:BLOCK_PX, :BLOCK_PX].astype(np.float32) - np.float32(BLOCK_PX / 2)
        self._turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        self._turned_y = (y * self._turn[0, 0] + x * self._turn[0, 1]).astype(np.float32)
        self._turned_x = (y * self._turn[1, 0] + x * self._turn[1, 1]).astype(np.float32)
        self.background: RGB = tissue_map.look.light.astype(np.uint8)
        """uint8 (3,): colour of every pixel without tissue."""

    def block(self, l0_y: int, l0_x: int) -> RGB | None:
        """Paint the block whose top-left corner is (l0_y, l0_x), both multiples of `BLOCK_PX`.

        Returns uint8 (256, 256, 3), or None where the block holds background alone. Pixels beyond the slide's edge are
        painted too.
        """
        fields = self._window(self._map.fields, l0_y, l0_x)
        if fields[..., 0].max() <= -_FARTHEST_PX:
            return None
        depth, blood, cellular, thickness = cv2.split(_enlarged(fields))
        map_y, map_x, pale_rows, pale_islands = self._texture_coordinates(l0_y, l0_x)
        blood_planes = cv2.remap(self._atlas.blood, map_x, map_y, cv2.INTER_LINEAR).astype(np.float32)
        red_cells, ragged, row_cells, island_cells = cv2.split(blood_planes)
        ragged = (ragged - 128) * np.float32(1 / RAGGED)
        present = np.clip((depth + np.float32(_RAGGED_EDGE_PX) * ragged) * np.float32(0.3), 0, 1)
        if not present.any():
            return None
        nuclei, eosin = self._mix(map_y, map_x, red_cells, blood + 0.12 * ragged, cellular + 0.10 * ragged)
        pale = np.maximum(
            row_cells * np.clip(pale_rows * 5 + 0.5, 0, 1), island_cells * np.clip(pale_islands * 5 + 0.5, 0, 1)
        )
        nuclei += pale * np.float32(self._map.look.pale_depth[0] / 200)
        eosin += pale * np.float32(self._map.look.pale_depth[1] / 200)
        present *= _holes(ragged, depth)
        for spot in self._map.spots:
            if -SPOT_PX < spot.l0_y - l0_y < BLOCK_PX and -SPOT_PX < spot.l0_x - l0_x < BLOCK_PX:
                _press(self._stamp(spot), spot.l0_y - l0_y, spot.l0_x - l0_x, nuclei, eosin, present)
        present *= thickness
        return self._coloured(nuclei * present, eosin * present)

    @staticmethod
    def _window(field: FloatImage, l0_y: int, l0_x: int) -> FloatImage:
        y, x, length = l0_y // GRID_PX, l0_x // GRID_PX, BLOCK_PX // GRID_PX + 1
        return field[y : y + length, x : x + length]

    def _texture_coordinates(self, l0_y: int, l0_x: int) -> tuple[FloatImage, FloatImage, FloatImage, FloatImage]:
        """Return the atlas (y, x) of each pixel, turned by the slide's angle and then shifted; and the pale fields."""
        shift = self._window(self._map.shift, l0_y, l0_x)
        middle = shift[shift.shape[0] // 2, shift.shape[1] // 2, :2].astype(np.float64)
        centre = self._turn @ np.array([l0_y + BLOCK_PX / 2, l0_x + BLOCK_PX / 2]) + middle
        offset = centre % ATLAS_PX + REACH_PX + BLOCK_PX / 2 - middle
        shift_y, shift_x, pale_rows, pale_islands = cv2.split(_enlarged(shift))
        farthest = ATLAS_PX + BLOCK_PX + 2 * REACH_PX - 2
        return (
            np.clip(self._turned_y + (shift_y + np.float32(offset[0])), 0, farthest),
            np.clip(self._turned_x + (shift_x + np.float32(offset[1])), 0, farthest),
            pale_rows,
            pale_islands,
        )

    def _mix(
        self, map_y: FloatImage, map_x: FloatImage, red_cells: FloatImage, blood: FloatImage, cellular: FloatImage
    ) -> tuple[FloatImage, FloatImage]:
        """Return nuclei and eosin densities: blood over cellular tissue over fibrin."""
        stain = cv2.remap(self._atlas.stain, map_x, map_y, cv2.INTER_LINEAR).astype(np.float32)
        fibrin_nuclei, fibrin_eosin, cell_nuclei, cell_eosin = cv2.split(stain)
        cell_weight = np.clip(cellular * 5 + 0.5, 0, 1)
        blood_weight = np.clip(blood * 5 + 0.5, 0, 1)
        fibrin_nuclei *= np.float32(self._map.look.nuclei)
        nuclei = fibrin_nuclei + cell_weight * (cell_nuclei - fibrin_nuclei)
        eosin = fibrin_eosin + cell_weight * (cell_eosin - fibrin_eosin)
        nuclei *= (1 - blood_weight) * np.float32(1 / DENSITY)
        eosin += blood_weight * (red_cells - eosin)
        eosin *= np.float32(1 / DENSITY)
        return nuclei, eosin

    def _coloured(self, nuclei: FloatImage, eosin: FloatImage) -> RGB:
        """Return RGB after Beer and Lambert: light times exp(-optical density)."""
        rgb = np.empty((*nuclei.shape, 3), dtype=np.uint8)
        for channel, (per_nuclei, per_eosin) in enumerate(-self._map.look.stains):
            density = nuclei * per_nuclei
            density += eosin * per_eosin
            light = cv2.exp(density)
            light *= self._map.look.light[channel]
            light += np.float32(0.5)
            rgb[..., channel] = light
        return rgb


def _enlarged(window: FloatImage) -> FloatImage:
    """Interpolate a window of a coarse field linearly to (256, 256, c)."""
    matrix = np.array([[1 / GRID_PX, 0, 0], [0, 1 / GRID_PX, 0]], dtype=np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    enlarged = cv2.warpAffine(window, matrix, (BLOCK_PX, BLOCK_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(enlarged, dtype=np.float32)


def _holes(ragged: FloatImage, depth: FloatImage) -> FloatImage:
    """Return 0 in the small gaps inside a clot, else 1."""
    gap = np.clip((ragged - np.float32(1.75)) * 7, 0, 1) * np.clip((depth - 60) / 60, 0, 1)
    return np.asarray(1 - gap, dtype=np.float32)


def _press(stamp: Stamp, y: int, x: int, nuclei: FloatImage, eosin: FloatImage, present: FloatImage) -> None:
    """Press a stamp whose top-left corner is (y, x) of the block into the block's planes."""
    rows, columns = slice(max(0, y), y + SPOT_PX), slice(max(0, x), x + SPOT_PX)
    here = nuclei[rows, columns]
    top, left = max(0, -y), max(0, -x)
    part = (slice(top, top + here.shape[0]), slice(left, left + here.shape[1]))
    alpha = stamp.alpha[part]
    here += alpha * (stamp.nuclei[part] - here)
    there = eosin[rows, columns]
    there += np.float32(0.55) * alpha * (stamp.eosin[part] - there)
    np.maximum(present[rows, columns], alpha, out=present[rows, columns])
