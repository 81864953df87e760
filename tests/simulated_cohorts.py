"""Simulated cohorts with known truth, trained on without a report: how well settings judge new patients.

A patient has a hidden severity, two normal distributions whose distance sets the best AUC that anybody can reach. Some
tiles of a slide show it along one direction, and are known by another; all tiles have correlated noise, and a shift of
their own for each patient, as stain and scanner make it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from tempfile import TemporaryDirectory

import numpy as np

from features.folds import patient_folds
from mil.data.cohort import Cohort
from mil.models.model import load_model
from mil.models.scoring import Compute, score
from mil.targets import ClassTarget
from mil.targets.metrics import METRICS, ones, softmax
from mil.training.fit import fit
from mil.training.jobs import FitJob
from mil.training.options import TrainOptions

NAMES = ("common", "rare")


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """How a cohort is made."""

    patients: int
    auc: float = 0.85
    """The best that can be reached."""
    rare: float = 0.3
    """Share of the rare class."""
    tiles: int = 24
    """Of a slide, on average; half to one and a half times as many."""
    dim: int = 16
    telling: float = 0.15
    """Share of the tiles that show the severity."""
    patient_noise: float = 0.2
    """Deviation of a patient's shift, in that of a tile."""

    def draw(self, seed: int, patients: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the bags, and the true classes (P,): 1 is the rare one."""
        axes = np.random.default_rng(17)  # the same for every draw
        mix = np.linalg.qr(axes.normal(size=(self.dim, self.dim)))[0] * np.exp(axes.normal(0, 0.5, self.dim))[:, None]
        shows, marks = np.linalg.qr(axes.normal(size=(self.dim, 2)))[0].T
        rng, count = np.random.default_rng([seed, 5]), patients or self.patients
        labels = rng.permutation(np.arange(count) < round(self.rare * count)).astype(np.int64)
        apart = np.sqrt(2) * NormalDist().inv_cdf(self.auc)
        severity = rng.normal(size=count) + apart * (labels - 0.5)
        return [self._bag(rng, own, mix, shows, marks) for own in severity], labels

    def _bag(
        self, rng: np.random.Generator, severity: float, mix: np.ndarray, shows: np.ndarray, marks: np.ndarray
    ) -> np.ndarray:
        n = int(rng.integers(self.tiles // 2, self.tiles * 3 // 2 + 1))
        rows = (rng.normal(size=(n, self.dim)) + rng.normal(0, self.patient_noise, self.dim)) @ mix
        telling = slice(0, max(2, round(n * self.telling)))
        rows[telling] += 4 * marks + 3 * severity * shows
        return rng.permutation(rows).astype(np.float32)


def cohort_of(bags: Sequence[np.ndarray], labels_P: np.ndarray) -> Cohort:
    """Return the bags as a cohort, a slide a patient."""
    ids = tuple(f"p{i:04d}" for i in range(len(bags)))
    strata = tuple(NAMES[label] for label in labels_P)
    return Cohort(ids, ids, (None,) * len(ids), ClassTarget(labels_P, NAMES), tuple(bags), strata=strata)


def options_of(**changes: object) -> TrainOptions:
    """Return options of a training without baselines; of a cohort in memory paths mean nothing."""
    settings: dict[str, object] = {"baselines": (), "device": "cpu", "precision": "fp32", **changes}
    return TrainOptions(bags=(Path("bags"),), manifest=Path("m.csv"), out=Path("run"), **settings)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a cross-validation gives."""

    oof_PC: np.ndarray
    """Logits of the patients, each by models that never saw the patient."""
    new_PC: np.ndarray
    """Logits of new patients, the mean of all models."""
    folds_P: np.ndarray


def cross_validated(
    cohort: Cohort, options: TrainOptions, new: Sequence[np.ndarray] = (), truth: Cohort | None = None
) -> Answers:
    """Train every fold and seed, as `gigamil train` does, and score the fold and new patients."""
    truth = truth or cohort
    folds = patient_folds(list(truth.strata), list(truth.patient_ids), options.folds, options.seed)
    oof, new_PC = np.zeros((len(cohort), 2)), np.zeros((len(new), 2))
    compute = Compute("cpu", "fp32", options.max_rows)
    with TemporaryDirectory() as folder:
        for fold in range(options.folds):
            tested = np.flatnonzero(folds == fold)
            for seed in range(options.seeds):
                out = Path(folder) / f"{fold}_{seed}"
                fit(
                    FitJob(head=options.head, fold=fold, seed=seed, folder=out, options=options, recipe_hash="s"),
                    cohort,
                    folds,
                )
                model = load_model(out)[0]
                oof[tested] += score(model, [cohort.bags[i] for i in tested], compute) / options.seeds
                if new:
                    new_PC += score(model, new, compute) / (options.folds * options.seeds)
    return Answers(oof, new_PC, folds)


def auc_of(labels_P: np.ndarray, logits_PC: np.ndarray) -> float:
    """Return the area under the ROC curve."""
    return float(METRICS["auc"](labels_P, softmax(logits_PC), ones(len(labels_P)))[0])
