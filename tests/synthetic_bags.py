"""Synthetic bags with a known rule, and a short training on them.

Three algorithmic unit tests of Raff and Holt (Reproducibility in Multiple Instance Learning: A Case For Algorithmic
Unit Tests, NeurIPS 2023, arXiv 2310.17867), and the shifted-mean bags of Harvey, Loevlie and Hughes (Synthetic Data
Reveals Generalization Gaps in Correlated Multiple Instance Learning, arXiv 2510.25759) with their Bayes optimum.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mil.heads import HeadSpec
from mil.models.model import BagModel
from mil.ragged.packing import pack
from mil.targets import ClassTarget
from mil.targets.metrics import macro_auc, ones

DIM = 16
"""Features of the unit tests' instances."""
Rng = np.random.Generator
Bag = np.ndarray


@dataclass(frozen=True)
class Bags:
    """Bags (n_i, D) and their labels, 0 or 1."""

    bags: list[Bag]
    labels_N: np.ndarray


def _normal(rng: Rng, count: int, mean: float, deviation: float) -> Bag:
    return rng.normal(mean, deviation, (count, DIM)).astype(np.float32)


def _poison(rng: Rng) -> Bag:
    """Return one instance far from all others; it says nothing of the label by the rule of the test."""
    return _normal(rng, 1, -10, 0.1)


def single_concept(rng: Rng, positive: bool, training: bool) -> Bag:
    """Return a bag that is positive if and only if it holds an instance of the concept; 10 others.

    While training the poison is in negative bags, in the test in positive ones: a model that took the absence of
    something for a sign is now wrong.
    """
    parts = [_normal(rng, 10, 0, 1)]
    if positive:
        kinds = rng.integers(2, size=rng.integers(1, 4))
        parts += [_normal(rng, 1, *((0, 3), (1, 1))[kind]) for kind in kinds]
    if positive != training:
        parts.append(_poison(rng))
    return np.concatenate(parts)


def multiple_concepts(rng: Rng, positive: bool, training: bool) -> Bag:
    """Return a bag that is positive if and only if it holds both concepts; poison as in `single_concept`."""
    parts = [_normal(rng, int(rng.integers(1, 10)), 0, 1)]
    if positive:
        count = int(rng.integers(1, 4))
        parts += [_normal(rng, count, 2, 0.1), _normal(rng, count, 3, 0.1)]
    else:
        parts.append(_normal(rng, 1, float(rng.choice([2, 3])), 0.1))
    if positive != training:
        parts.append(_poison(rng))
    return np.concatenate(parts)


def false_frequency(rng: Rng, positive: bool, training: bool) -> Bag:
    """Return a bag that is positive if and only if it holds both concepts; many of one mean nothing.

    While training a negative bag has one instance of the first concept, in the test 35 to 44.
    """
    parts = [_normal(rng, int(rng.integers(1, 10)), 0, 1)]
    if positive:
        parts += [_normal(rng, 1, 2, 0.1), _normal(rng, 1, 3, 0.1)]
    else:
        parts.append(_normal(rng, 1 if training else int(rng.integers(35, 45)), 2, 0.1))
    return np.concatenate(parts)


UNIT_TESTS: dict[str, Callable[[Rng, bool, bool], Bag]] = {
    "single concept": single_concept,
    "multiple concepts": multiple_concepts,
    "false frequency": false_frequency,
}


def unit_test_bags(name: str, count: int, training: bool, seed: int) -> Bags:
    """Return bags of a unit test, half of them positive."""
    rng = np.random.default_rng([seed, int(training)])
    labels = np.arange(count, dtype=np.int64) % 2
    return Bags([UNIT_TESTS[name](rng, bool(label), training) for label in labels], labels)


@dataclass(frozen=True, kw_only=True)
class ShiftedMean:
    """Bags of unit normal instances; in a positive one, ``run`` consecutive instances are shifted in some features."""

    run: int = 3
    shift: float = 2.0
    shifted: int = 1
    """Features that the shift is in: the first ones."""
    dim: int = 8
    smallest: int = 15
    largest: int = 45

    def draw(self, count: int, seed: int) -> Bags:
        rng = np.random.default_rng(seed)
        labels, bags = np.arange(count, dtype=np.int64) % 2, []
        for label in labels:
            size = int(rng.integers(self.smallest, self.largest + 1))
            bag = rng.normal(size=(size, self.dim)).astype(np.float32)
            start = int(rng.integers(size - self.run + 1))
            bag[start : start + self.run, : self.shifted] += self.shift * label
            bags.append(bag)
        return Bags(bags, labels)

    def _ratios(self, bag: Bag) -> np.ndarray:
        """Return each instance's log likelihood ratio of shifted against not."""
        return (self.shift * bag[:, : self.shifted].astype(np.float64) - self.shift**2 / 2).sum(axis=1)

    def log_odds(self, bag: Bag) -> float:
        """Return the Bayes optimum's log odds of a bag: the mean over starts of the run's likelihood ratio."""
        runs = np.convolve(self._ratios(bag), np.ones(self.run), "valid")
        return float(np.logaddexp.reduce(runs) - np.log(len(runs)))

    def log_odds_unordered(self, bag: Bag) -> float:
        """Return the log odds of the optimum that does not know the order of the instances.

        The mean over all sets of ``run`` instances of their likelihood ratio: an elementary symmetric polynomial.
        """
        logs = np.full(self.run + 1, -np.inf)
        counts = np.zeros(self.run + 1)
        logs[0], counts[0] = 0.0, 1.0
        for ratio in self._ratios(bag):
            logs[1:] = np.logaddexp(logs[1:], logs[:-1] + ratio)
            counts[1:] += counts[:-1]
        return float(logs[-1] - np.log(counts[-1]))


def auc(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Return the area under the ROC curve of scores for label 1."""
    return float(macro_auc(labels_N[:, None].astype(float), scores_N[:, None], ones(len(labels_N)))[0])


def train_head(
    name: str, bags: Bags, *, epochs: int = 30, batch: int = 32, lr: float = 3e-3, seed: int = 0
) -> BagModel:
    """Return a small head trained on the bags, in evaluation mode: AdamW, a cosine without warm-up."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = BagModel(HeadSpec(name=name, dim=bags.bags[0].shape[1], n_classes=2, hidden=32, attention=16, dropout=0.0))
    model.standardise(bags.bags)
    target, steps = ClassTarget(bags.labels_N, ("no", "yes")), -(-len(bags.bags) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    for _ in range(epochs):
        for chosen in np.array_split(rng.permutation(len(bags.bags)), steps):
            packed, truth = pack([bags.bags[i] for i in chosen]), target.batch(chosen, "cpu")
            output = model.train()(packed.rows_ND, packed.offsets, truth)
            losses = truth.loss(output.logits_BC)
            losses = losses if output.aux_loss_B is None else losses + output.aux_loss_B
            optimizer.zero_grad()
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def scores(model: BagModel, bags: Bags) -> np.ndarray:
    """Return the log odds of label 1 of each bag."""
    packed = pack(bags.bags)
    logits = model(packed.rows_ND, packed.offsets).logits_BC.double().numpy()
    return np.asarray(logits[:, 1] - logits[:, 0])
