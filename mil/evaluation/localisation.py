"""Does the attention lie in the region that a person drew? Measured slide by slide, with intervals over patients.

A tile counts as inside where at least half of it lies in the region. Measures: the pointing game (is the tile of
highest attention inside?), the AUC of the attention for inside against outside, and the overlap (IoU) of the region
with the tiles of highest attention, as many as cover its area: no threshold on the attention, which has no scale of its
own, is to be chosen. Only what lies under the slide's tiles counts as region.

Sources: Zhang et al., Top-down neural attention by excitation backprop, IJCV 2018 (the pointing game).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mil.evaluation.bootstrap import draw_groups, estimate
from wsi.arrays import Floats
from wsi.errors import AnnotationError
from wsi.recipe import Json

INSIDE = 0.5
"""Share of a tile's area from which on it counts as inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Localised:
    """How well the attention of one slide lies in its region."""

    image_id: str
    patient_id: str
    tiles: int
    region: float
    """Share of the tiles' area that lies in the region."""
    inside: float
    """Share of the tiles that are inside: what pointing at random would hit."""
    pointing: float
    """1 where the tile of highest attention is inside, 0 where not; of several, their mean."""
    auc: float | None
    """None where all tiles are inside, or none is."""
    iou: float
    iou_by_chance: float
    """What as many tiles taken at random would overlap, on average (to first order)."""
    out_of_fold: bool
    """Whether only models were asked that have not seen the slide."""


MEASURES = {
    "pointing": "tile of highest attention inside (pointing game)",
    "auc": "AUC, inside against outside",
    "iou": "overlap (IoU) at the region's area",
}


def localised(attention_N: Floats, share_N: Floats) -> dict[str, float | None]:
    """Compare attention with the shares of the tiles that lie in a region.

    Raises
    ------
    AnnotationError
        The region lies outside all tiles.
    """
    from sklearn.metrics import roc_auc_score

    if not share_N.any():
        raise AnnotationError("the regions lie outside all tiles of the slide: expected level-0 pixels, (x, y)")
    inside_N, region = share_N >= INSIDE, float(share_N.mean())
    k = max(1, round(float(share_N.sum())))
    top = np.argsort(-attention_N, kind="stable")[:k]
    common = float(share_N[top].sum())
    return {
        "region": region,
        "inside": float(inside_N.mean()),
        "pointing": float(inside_N[attention_N == attention_N.max()].mean()),
        "auc": float(roc_auc_score(inside_N, attention_N)) if 0 < inside_N.sum() < len(inside_N) else None,
        "iou": common / (k + float(share_N.sum()) - common),
        "iou_by_chance": region * k / (k + float(share_N.sum()) - region * k),
    }


def summarised(slides: Sequence[Localised], seed: int = 0) -> dict[str, Json]:
    """Return each measure's mean over the slides with its 95 % interval, patients drawn with all of their slides.

    Beside value, low and high stand how many slides and patients it is of, and the mean by chance.
    """
    return {name: _mean(name, slides, seed) for name in MEASURES}


_CHANCE = {"pointing": "inside", "iou": "iou_by_chance"}


def _mean(name: str, slides: Sequence[Localised], seed: int) -> Json:
    rows = [row for row in map(asdict, slides) if row[name] is not None]
    counted = {"slides": len(rows), "patients": len({row["patient_id"] for row in rows})}
    if not rows:
        return {"value": None, "low": None, "high": None, "chance": None, **counted}
    values_N = np.array([row[name] for row in rows], np.float64)
    draws_BN = draw_groups([row["patient_id"] for row in rows], seed)
    chance = float(np.mean([row[_CHANCE[name]] for row in rows])) if name in _CHANCE else 0.5
    found = estimate(lambda drawn_BN: drawn_BN @ values_N / drawn_BN.sum(axis=1), draws_BN)
    return {**found, "chance": chance, **counted}
