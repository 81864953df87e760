"""Slides as points: the nearest known slides, how well that finds the same class, and slides that are like none.

Points are a head's bag embeddings (best with the ArcFace output layer), compared by the cosine. All pure functions on
arrays: ``points_NH`` float, ``labels_N`` int64 class numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mil.heads import HEADS, has_embedding
from mil.models.model import BagModel
from mil.ragged.packing import Rows, pack
from wsi.arrays import Floats, Ints
from wsi.errors import RequestError


@torch.inference_mode()
def embed_bags(model: BagModel, bags: Sequence[Rows], device: torch.device | str = "cpu") -> Floats:
    """Return the unit points (n, H) of bags, one bag at a time, in evaluation mode.

    Raises
    ------
    RequestError
        The model's head makes no single point of a bag.
    """
    name = model.spec.name
    if not has_embedding(name):
        wanted = ", ".join(head for head in HEADS if has_embedding(head))
        raise RequestError(f"head {name} makes no single point of a bag: train one of {wanted}")
    model.eval()
    points = []
    for bag in bags:
        packed = pack([bag], device)
        embedding_BH = model(packed.rows_ND, packed.offsets).embedding_BH
        points.append(embedding_BH.double().cpu().numpy())
    return unit(np.concatenate(points))


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


@dataclass(frozen=True, slots=True)
class Gallery:
    """Known slides to look others up in, and the similarity below which one is like none of them."""

    points_NH: Floats
    labels_N: Ints
    neighbours: int
    """Points whose mean cosine says how familiar a slide is."""
    threshold: float
    """Mean cosine; slides below it are of none of the known classes."""

    def familiarity(self, queries_QH: Floats) -> Floats:
        """Return the mean cosine (Q,) to the nearest points."""
        return np.asarray(nearest(queries_QH, self.points_NH, self.neighbours)[1].mean(axis=1))

    def classify(self, queries_QH: Floats) -> Ints:
        """Return the class (Q,) of most of the nearest points (the nearer on a tie), -1 for none of the known."""
        order_Qk, cosines_Qk = nearest(queries_QH, self.points_NH, self.neighbours)
        chosen = []
        for labels, cosines in zip(self.labels_N[order_Qk], cosines_Qk, strict=True):
            votes = {label: (int((labels == label).sum()), cosines[labels == label].sum()) for label in labels.tolist()}
            chosen.append(max(votes, key=lambda label: votes[label]))
        return np.where(self.familiarity(queries_QH) < self.threshold, -1, np.array(chosen, np.int64))


def fit_gallery(
    points_NH: Floats,
    labels_N: Ints,
    held_out_MH: Floats,
    *,
    neighbours: int = 5,
    refused: float = 0.05,
) -> Gallery:
    """Return a gallery whose threshold refuses the given share of known slides that are not in it.

    Parameters
    ----------
    points_NH
        The gallery's points.
    labels_N
        Their classes.
    held_out_MH
        Points of other slides of the same classes, which the model was not trained on: training slides seem more
        familiar than any new slide does.
    neighbours
        See `Gallery`.
    refused
        Share of known slides that may be called unknown, in (0, 1).

    Raises
    ------
    RequestError
        No held-out slide, an empty gallery, or a share or a count that cannot be.
    """
    if not (len(points_NH) and len(held_out_MH)):
        raise RequestError("expected one or more slides in the gallery, and one or more held out for the threshold")
    if not 0 < refused < 1 or neighbours < 1:
        raise RequestError(f"expected refused in (0, 1) and neighbours of 1 or more, found {refused} and {neighbours}")
    gallery = Gallery(np.asarray(points_NH, np.float64), labels_N, min(neighbours, len(points_NH)), -np.inf)
    threshold = float(np.quantile(gallery.familiarity(held_out_MH), refused))
    return Gallery(gallery.points_NH, labels_N, gallery.neighbours, threshold)
