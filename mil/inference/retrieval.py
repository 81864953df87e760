"""Slides as points: the nearest known slides, and how well that finds the same class.

Points are a head's bag embeddings (best with the ArcFace output layer), compared by the cosine. All pure functions on
arrays: ``points_NH`` float, ``labels_N`` int64 class numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch

from mil.heads import HEADS, has_embedding
from mil.models.model import BagModel
from mil.ragged.packing import BagRows, pack
from wsi.arrays import Floats, Ints
from wsi.errors import RequestError


def embed_bags(model: BagModel, bags: Sequence[BagRows], device: torch.device | str = "cpu") -> Floats:
    """Return the unit points (n, H) of bags, one bag at a time, in evaluation mode; raises as `check_point`."""
    check_point(model.spec.name)
    return unit(np.stack([point_of(model, bag, device) for bag in bags]))


def check_point(head: str) -> None:
    """Raise `RequestError` where a head makes no single point of a bag."""
    if not has_embedding(head):
        wanted = ", ".join(own for own in HEADS if has_embedding(own))
        raise RequestError(f"head {head} makes no single point of a bag: train one of {wanted}")


@torch.inference_mode()
def point_of(model: BagModel, bag: BagRows, device: torch.device | str = "cpu") -> Floats:
    """Return what the last layer sees of a bag: (H,) float64, in evaluation mode, as it is."""
    packed = pack([bag], device)
    embedding_BH = model.eval()(packed.rows_ND, packed.offsets).embedding_BH
    return np.asarray(embedding_BH[0].double().cpu().numpy())


def unit(points_NH: Floats) -> Floats:
    """Return the points at distance 1 from the origin; a point at the origin stays there."""
    lengths = np.linalg.norm(points_NH, axis=1, keepdims=True)
    return np.asarray(points_NH / np.where(lengths > 0, lengths, 1.0))


def nearest(queries_QH: Floats, gallery_NH: Floats, most: int) -> tuple[Ints, Floats]:
    """Return the numbers (Q, k) of the most similar points of the gallery, best first, and their cosines (Q, k).

    k is ``most``, or the gallery's size where that is less. Equal ones come in the gallery's order.
    """
    cosines_QN = unit(np.asarray(queries_QH, np.float64)) @ unit(np.asarray(gallery_NH, np.float64)).T
    order_Qk = np.argsort(-cosines_QN, axis=1, kind="stable")[:, :most]
    return np.asarray(order_Qk, np.int64), np.take_along_axis(cosines_QN, order_Qk, axis=1)


def map_at_k(points_NH: Floats, labels_N: Ints, k: int, groups: Sequence[str] | None = None) -> tuple[float, int]:
    """Return the mean average precision at k of looking every slide up among the others, and how many count.

    A query's average precision is the sum of the precisions at each hit among its first k, over min(k, the slides of
    its class that could be found). Queries whose class has no other slide do not count. Where ``groups`` (patients) are
    given, a slide is never looked up among those of its own group: that would be no retrieval.
    """
    owners = np.arange(len(labels_N)) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    values = []
    for query, label in enumerate(labels_N):
        others = np.flatnonzero(owners != owners[query])
        wanted = int((labels_N[others] == label).sum())
        if not wanted:
            continue
        found, _ = nearest(points_NH[query : query + 1], points_NH[others], k)
        hits = (labels_N[others][found[0]] == label).astype(np.float64)
        precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        values.append(float((precisions * hits).sum() / min(k, wanted)))
    return (float(np.mean(values)) if values else float("nan")), len(values)


def familiarity(cosines_QN: Floats, most: int) -> Floats:
    """Return the mean (Q,) of each slide's highest cosines to the known ones, those of -inf left out."""
    highest = -np.sort(-cosines_QN, axis=1)[:, :most]
    there = np.isfinite(highest)
    return np.asarray(np.where(there, highest, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1))
