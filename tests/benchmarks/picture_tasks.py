"""What frozen features tell of real texture: small questions with answers that come from elsewhere than the features.

Parts of one picture that touch are alike whatever is asked, so parts are divided into folds by quarters of the picture;
those that lie in two are left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage import data
from skimage.color import rgb2gray, rgb2hed
from skimage.filters import frangi
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsi.errors import GigamilError
from wsi.slide import open_slide
from wsi.units import Box

Tiles = NDArray[np.uint8]
Floats = NDArray[np.float64]
Encode = Callable[[Tiles], NDArray[np.float32]]
"""uint8 (N, T, T, 3) to features (N, D)."""
PART_PX = 64
FOLDS = 4
SLIDE_PX, MOST_PARTS = 224, 40
SLIDES = ("CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs")
LEAST_STAINED = 0.5
"""Share of a part's pixels that are darker than the glass."""


@dataclass(frozen=True)
class Parts:
    """Parts of a picture, what is asked of each, and in which block it lies."""

    tiles: Tiles
    truth: NDArray[np.bool_]
    block: NDArray[np.int64]


def immunohistochemistry() -> Parts:
    """Parts of skimage's colon: is there more DAB than in half of them? In grey: colour would tell it at once."""
    picture = data.immunohistochemistry()
    dab = rgb2hed(picture)[..., 2]
    grey = (rgb2gray(picture) * 255).round().astype(np.uint8)
    return _parts(np.repeat(grey[..., None], 3, 2), dab, step_px=32)


def retina() -> Parts:
    """Parts of skimage's fundus: are there more vessels (Frangi 1998) than in half of them?"""
    picture = data.retina()[200:1200, 200:1200]
    return _parts(picture, frangi(picture[..., 1].astype(float), sigmas=range(2, 7)) > 0.05, step_px=50)


def _parts(picture: Tiles, measure: NDArray[np.generic], step_px: int) -> Parts:
    middle_y, middle_x = picture.shape[0] // 2, picture.shape[1] // 2
    corners = [
        (y, x)
        for y in range(0, picture.shape[0] - PART_PX + 1, step_px)
        for x in range(0, picture.shape[1] - PART_PX + 1, step_px)
        if not (middle_y - PART_PX < y < middle_y or middle_x - PART_PX < x < middle_x)
    ]
    tiles = np.stack([picture[y : y + PART_PX, x : x + PART_PX] for y, x in corners])
    amounts = np.array([measure[y : y + PART_PX, x : x + PART_PX].mean() for y, x in corners])
    blocks = np.array([2 * (y >= middle_y) + (x >= middle_x) for y, x in corners])
    return Parts(tiles, amounts > np.median(amounts), blocks)


def probed(parts: Parts, encode: Encode) -> float:
    """Return the AUC of a logistic regression on features, each quarter of the picture told by the other three."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    folds = GroupKFold(FOLDS)
    scores = cross_val_predict(
        model, encode(parts.tiles), parts.truth, groups=parts.block, cv=folds, method="decision_function"
    )
    return float(roc_auc_score(parts.truth, scores))


def slide_parts(folder: Path) -> tuple[Tiles, NDArray[np.int64]]:
    """Return parts of real slides, uint8 (N, 224, 224, 3), that hold tissue and do not overlap, and whose they are."""
    tiles, slides = [], []
    for number, name in enumerate(SLIDES):
        try:
            own = list(_stained(folder / name))
        except GigamilError:
            continue
        keep = np.unique(np.linspace(0, len(own) - 1, min(MOST_PARTS, len(own))).round().astype(int))
        tiles += [own[i] for i in keep]
        slides += [number] * len(keep)
    return np.stack(tiles), np.array(slides)


def _stained(path: Path) -> Iterator[Tiles]:
    with open_slide(path) as slide:
        height, width = slide.levels[0].shape
        for y in range(0, height - SLIDE_PX + 1, SLIDE_PX):
            for x in range(0, width - SLIDE_PX + 1, SLIDE_PX):
                pixels = np.asarray(slide.read(0, Box(y, x, y + SLIDE_PX, x + SLIDE_PX)))
                if (pixels.min(2) < 220).mean() >= LEAST_STAINED:
                    yield pixels


def grey(tiles: Tiles) -> Tiles:
    """Return tiles without colour, each stretched to the same mean and spread: what is left is structure."""
    values = rgb2gray(tiles)
    mean, std = values.mean((1, 2), keepdims=True), values.std((1, 2), keepdims=True)
    plain = ((values - mean) / (std + 1e-3) * 0.15 + 0.6).clip(0, 1)
    return np.repeat((plain * 255).round().astype(np.uint8)[..., None], 3, 3)


def retrieved(features: NDArray[np.float32], slides: NDArray[np.int64], nearest: int = 5) -> float:
    """Return the share of a part's nearest (cosine, standardised) that are of its slide; slides count equally."""
    standard = StandardScaler().fit_transform(features)
    unit = standard / (np.linalg.norm(standard, axis=1, keepdims=True) + 1e-9)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    near = np.argsort(-likeness, axis=1)[:, :nearest]
    same = (slides[near] == slides[:, None]).mean(1)
    return float(np.mean([same[slides == slide].mean() for slide in np.unique(slides)]))
