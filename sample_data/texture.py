"""A seamless atlas of tissue texture, made once from a real micrograph.

The source is the immunohistochemistry picture inside scikit-image (colonic glands, hematoxylin and DAB, taken as
0.5 um/px). Its two stains are separated (Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23:291, 2001), stroma and
gland are told apart by their DAB, and each is spread over a torus by patch quilting (Efros and Freeman, SIGGRAPH 2001).
Hematoxylin stands for nuclei; DAB, which marks what lies between them, is stained again as eosin.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from skimage import data

from sample_data.noise import tileable_noise
from wsi.arrays import RGB, Bools, FloatImage, Floats

ATLAS_PX = 1024
"""Period of every atlas plane, in pixels of 0.5 um."""
BLOCK_PX = 256
"""Side of the block that one look-up may read."""
REACH_PX = 400
"""How far beyond its block, on each side, a look-up may be displaced."""
DENSITY = 80.0
"""Atlas grey levels per unit of optical density."""

RAGGED = 40.0
"""Atlas grey levels per standard deviation of the ragged noise."""

_PATCH = 88
_OVERLAP = 24
_CANDIDATES = 600
_HEMATOXYLIN = (0.650, 0.704, 0.286)
_DAB = (0.269, 0.568, 0.778)


@dataclass(frozen=True, slots=True)
class Atlas:
    """Texture planes, each repeated beyond its period so that one block's look-up never wraps."""

    stain: npt.NDArray[np.uint8]
    """uint8 (s, s, 4): fibrin nuclei, fibrin eosin, cellular nuclei, cellular eosin; optical density x ``DENSITY``."""
    blood: npt.NDArray[np.uint8]
    """uint8 (s, s, 4): packed red cells, eosin density x ``DENSITY``; ragged noise, 128 + ``RAGGED`` x standard
    deviations; two fields of pale cells, in rows and in islands, 0..200."""


@lru_cache(maxsize=1)
def build_atlas() -> Atlas:
    """Make the atlas: the same bytes on every call, about a second once per process."""
    rng = np.random.default_rng(20240501)
    source = _stain_densities(data.immunohistochemistry())
    gland = cv2.GaussianBlur(source[..., 1], (0, 0), 9)
    paper = cv2.GaussianBlur(source.sum(axis=2), (0, 0), 6) < 0.21
    stroma = _quilt(rng, source, (gland < 0.45) & ~paper)
    cellular = _quilt(rng, _flattened(source), (gland > 0.75) & ~paper)
    fibres = np.clip(stroma[..., 0], 0, 0.30)
    stroma[..., 1] = 0.13 + 1.5 * fibres + 0.45 * stroma[..., 1]
    stroma[..., 0] = np.maximum(0, stroma[..., 0] - 0.14) * 1.2
    cellular[..., 1] = 0.22 + 0.30 * np.maximum(0, cellular[..., 1])
    cellular[..., 0] = np.maximum(0, cellular[..., 0] - 0.06) * 1.3
    ragged = 128 + RAGGED * tileable_noise(rng, ATLAS_PX, 6, 240, fall=1.7)
    blood = np.stack([DENSITY * _red_cells(rng), ragged, _pale_rows(rng), _pale_islands(rng)], axis=2)
    return Atlas(stain=_extended(DENSITY * np.concatenate([stroma, cellular], axis=2)), blood=_extended(blood))


def _stain_densities(rgb: RGB) -> FloatImage:
    """Return float32 (h, w, 2): optical density of hematoxylin and of DAB, lightly smoothed as optics do."""
    optical = -np.log((rgb.astype(np.float64) + 1) / 256)
    first, second = np.array(_HEMATOXYLIN), np.array(_DAB)
    rest = np.cross(first, second)
    unmixing = np.linalg.inv(np.stack([first, second, rest / np.linalg.norm(rest)]))
    stains = np.maximum(0, optical @ unmixing)[..., :2].astype(np.float32)
    return np.asarray(cv2.GaussianBlur(stains, (0, 0), 0.7), dtype=np.float32)


def _flattened(stains: FloatImage) -> FloatImage:
    """Return the densities with their slow changes (beyond about 60 px) evened out, so that patches meet unseen."""
    slow = cv2.GaussianBlur(stains, (0, 0), 22)
    return np.asarray(stains * (slow.mean(axis=(0, 1)) / (slow + 0.08)), dtype=np.float32)


def _quilt(rng: np.random.Generator, source: FloatImage, allowed: Bools) -> FloatImage:
    """Fill a torus of ``ATLAS_PX`` with patches of ``source`` (h, w, c) that lie mostly where ``allowed``."""
    patches = _candidate_patches(rng, source, allowed)
    sparse = np.ascontiguousarray(patches[:, ::3, ::3]).reshape(len(patches), -1)
    used = np.zeros(len(patches), dtype=np.float32)
    step = _PATCH - _OVERLAP
    canvas = np.zeros((ATLAS_PX, ATLAS_PX, source.shape[2]), dtype=np.float32)
    painted = np.zeros((ATLAS_PX, ATLAS_PX), dtype=np.float32)
    for top in range(0, ATLAS_PX, step):
        for left in range(0, ATLAS_PX, step):
            where = np.ix_((top + np.arange(_PATCH)) % ATLAS_PX, (left + np.arange(_PATCH)) % ATLAS_PX)
            there, known = canvas[where], painted[where] > 0
            chosen = _best_fit(rng, sparse, there[::3, ::3], known[::3, ::3], used)
            used[chosen] += 1
            weight = np.where(known, _distance_share(known), 1.0)[..., None]
            canvas[where] = there * (1 - weight) + patches[chosen] * weight
            painted[where] = 1
    return canvas


def _candidate_patches(rng: np.random.Generator, source: FloatImage, allowed: Bools) -> FloatImage:
    share = cv2.boxFilter(
        allowed.astype(np.float32), -1, (_PATCH, _PATCH), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT
    )
    inner = share[: -_PATCH + 1, : -_PATCH + 1]
    good = np.argwhere(inner >= min(0.97, float(np.quantile(inner, 0.93))))
    corners = good[rng.choice(len(good), _CANDIDATES, replace=len(good) < _CANDIDATES)]
    cut = [source[y : y + _PATCH, x : x + _PATCH] for y, x in corners]
    return np.stack([patch[::-1, ::-1] if turned % 2 else patch for turned, patch in enumerate(cut)])


def _best_fit(rng: np.random.Generator, sparse: FloatImage, there: FloatImage, known: Bools, used: FloatImage) -> int:
    """Return the patch that agrees with what is painted already and was used little, drawn from the three best."""
    if not known.any():
        return int(rng.integers(len(sparse)))
    mask = np.repeat(known.reshape(-1).astype(np.float32), there.shape[2])
    target = there.reshape(-1) * mask
    misfit = (sparse * sparse) @ mask - 2 * (sparse @ target) + target @ target
    return int(rng.choice(np.argpartition(misfit * (1 + used), 3)[:3]))


def _distance_share(known: Bools) -> FloatImage:
    """Return the new patch's weight: 0 at the patch's outer edge, 1 beyond the overlap."""
    edge = np.ones((_PATCH + 2, _PATCH + 2), dtype=np.uint8)
    edge[0] = edge[-1] = edge[:, 0] = edge[:, -1] = 0
    to_edge = cv2.distanceTransform(edge, cv2.DIST_L1, 3)[1:-1, 1:-1]
    share = np.clip((to_edge - 4) / (_OVERLAP - 8), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), dtype=np.float32)


def _red_cells(rng: np.random.Generator) -> FloatImage:
    """Return float32 (a, a): eosin density of packed red cells, about 12 px across, on a torus."""
    cells = 80
    pitch = ATLAS_PX / cells
    lattice = (_lattice(cells) + rng.uniform(0.1, 0.9, (cells, cells, 2))) * pitch
    tree = cKDTree(lattice.reshape(-1, 2) % ATLAS_PX, boxsize=ATLAS_PX)
    grid = _lattice(ATLAS_PX).reshape(-1, 2)
    distance, owner = tree.query(grid, k=2)
    gap = (distance[:, 1] - distance[:, 0]).reshape(ATLAS_PX, ATLAS_PX)
    depth = rng.normal(1.0, 0.10, cells * cells)[owner[:, 0]].reshape(ATLAS_PX, ATLAS_PX)
    density = 0.92 * depth - 0.20 * np.exp(-((gap / 3.0) ** 2)) + 0.04 * tileable_noise(rng, ATLAS_PX, 3, 40)
    return np.asarray(cv2.GaussianBlur(density.astype(np.float32), (0, 0), 1.3), dtype=np.float32)


def _pale_rows(rng: np.random.Generator) -> FloatImage:
    """Return 0..200: pale beaded strands in waving rows 37 px apart, on a torus."""
    rows, cells = 28, 98
    wave = 7 * tileable_noise(rng, ATLAS_PX, 220, 500)
    row, cell = (axis.astype(np.float64) for axis in np.mgrid[:rows, :cells])
    y = (row + 0.5) * ATLAS_PX / rows
    x = (cell + rng.uniform(0, 1, (rows, 1))) * ATLAS_PX / cells
    y = y + wave[y.astype(int) % ATLAS_PX, x.astype(int) % ATLAS_PX]
    return _pale_cells(rng, np.stack([y, x], axis=2).reshape(-1, 2))


def _pale_islands(rng: np.random.Generator) -> FloatImage:
    """Return 0..200: pale cells in round packed groups about 90 px apart, on a torus."""
    side = 11
    middles = (_lattice(side) + rng.uniform(0.3, 0.7, (side, side, 2))) * ATLAS_PX / side
    lattice = np.array([(13.6 * 0.866 * i, 13.6 * (j + 0.5 * (i % 2))) for i in range(-4, 5) for j in range(-4, 5)])
    group = lattice[np.argsort(np.hypot(*lattice.T), kind="stable")[:18]]
    angles = rng.uniform(0, np.pi, side * side)
    turns = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], axis=1).reshape(-1, 2, 2)
    return _pale_cells(rng, (middles.reshape(-1, 1, 2) + group @ turns).reshape(-1, 2))


def _pale_cells(rng: np.random.Generator, centres: Floats) -> FloatImage:
    """Return 0..200: a soft disc of radius about 6 px at each centre (y, x), some fainter than others, on a torus."""
    tree = cKDTree((centres + rng.normal(0, 1.7, centres.shape)) % ATLAS_PX, boxsize=ATLAS_PX)
    grid = _lattice(ATLAS_PX).reshape(-1, 2)
    distance, owner = tree.query(grid, distance_upper_bound=10.0)
    strength = np.append(np.clip(rng.normal(0.75, 0.3, len(centres)), 0.1, 1), 0)[owner].reshape(ATLAS_PX, ATLAS_PX)
    disc = np.clip((6 - distance.reshape(ATLAS_PX, ATLAS_PX)) / 3.0 + 0.5, 0, 1)
    return np.asarray(200 * disc * strength, dtype=np.float32)


def _lattice(side: int) -> Floats:
    """Return float64 (side, side, 2): each sample's own (y, x)."""
    y, x = np.mgrid[:side, :side]
    return np.stack([y, x], axis=2).astype(np.float64)


def _extended(planes: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    rounded = np.clip(np.rint(planes), 0, 255).astype(np.uint8)
    beyond = BLOCK_PX + 2 * REACH_PX
    return np.pad(rounded, ((0, beyond), (0, beyond), (0, 0)), mode="wrap")
