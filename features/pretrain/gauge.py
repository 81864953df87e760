"""Whether features still tell images apart: the collapse of self-supervised learning, seen early and said.

``rank``: RankMe (arXiv 2210.02885), the exponential of the entropy of the features' singular values over their sum: how
many directions are in use. Here of centred features, so that what all images share is not one of them.
``spread``: the standard deviation of each dimension of the normalised features, times the root of their number, on
average (as arXiv 2011.10566 looks at it): 1 for directions without preference, 0 where all images look alike.
"""

from dataclasses import dataclass

import numpy as np

from wsi.arrays import Floats

SAMPLE = 256
"""Images looked at, always the same ones."""
LEAST_RANK, LEAST_SPREAD = 2.0, 0.01
"""Below either, features say hardly anything: of two images nothing but that they are images, or one number."""
LEAST_IMAGES = 8
"""For fewer, directions are few whatever the features."""
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class Gauge:
    """How far features of different images differ."""

    rank: float
    spread: float
    images: int
    """That were looked at."""

    def collapsed(self, before: "Gauge") -> str:
        """Return in one phrase what is wrong and was not so before training; nothing of a handful of images."""
        if self.images < LEAST_IMAGES:
            return ""
        if self.spread < min(LEAST_SPREAD, before.spread):
            return f"all images look alike (spread {self.spread:.4f}, expected {LEAST_SPREAD:g} or more)"
        if self.rank < min(LEAST_RANK, before.rank):
            return f"features lie on one line (rank {self.rank:.2f}, expected {LEAST_RANK:g} or more)"
        return ""


def gauge(features_ND: Floats) -> Gauge:
    """Return how far the features of different images differ; those that are not finite make both NaN."""
    if not np.isfinite(features_ND).all():
        return Gauge(float("nan"), float("nan"), len(features_ND))
    singular = np.linalg.svd(features_ND - features_ND.mean(0), compute_uv=False)
    shares = singular / max(float(singular.sum()), _NOTHING)
    entropy = -float((shares * np.log(shares + _NOTHING)).sum())
    lengths = np.maximum(np.linalg.norm(features_ND, axis=1, keepdims=True), _NOTHING)
    spread = float((features_ND / lengths).std(0).mean() * np.sqrt(features_ND.shape[1]))
    return Gauge(float(np.exp(entropy)), spread, len(features_ND))
