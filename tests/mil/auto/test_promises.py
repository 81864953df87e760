"""What `--auto` is worth beside the defaults: the tables of docs/HEADS.md.

    PYTHONPATH=.:tests python tests/mil/auto/test_promises.py                      simulated cohorts
    PYTHONPATH=.:tests python tests/mil/auto/test_promises.py BAGS MANIFEST        a set, ten folds, four divisions

Both runs of a cohort have the same folds. Simulated cohorts have 400 new patients, told by all models of a run.
"""

import csv
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import NormalDist
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from witness import facts, grid

from features.bags.bag import write_bag
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.train import train
from mil.training.options import TrainOptions
from wsi.progress.outcome import Status

Rng = np.random.Generator
Draw = Callable[[Rng, int], np.ndarray]
DIM, TILES, SHARE, NEW, DIVISIONS = 64, (20, 30), 0.4, 400, 4


def faint(direction: np.ndarray, mixing: np.ndarray, rng: Rng, label: int) -> np.ndarray:
    """Return a bag: a seventh of its tiles lie along a direction, the further the higher a burden; best AUC .85."""
    burden = rng.normal() + 2**0.5 * NormalDist().inv_cdf(0.85) * label
    slide = 0.6 * rng.normal(size=DIM)
    rows = 3 * (rng.normal(size=(int(rng.integers(*TILES)), DIM)) + slide) @ mixing
    rows[: len(rows) // 7] += direction * (6 + 2.5 * burden)
    return rows


def needle(direction: np.ndarray, mixing: np.ndarray, rng: Rng, label: int) -> np.ndarray:
    """Return a bag: three tiles of a positive one lie along a direction."""
    rows = rng.normal(size=(int(rng.integers(*TILES)), DIM)) @ mixing
    rows[: 3 * label] += direction * 5
    return rows


def write(folder: Path, draw: Callable[[Rng, int], np.ndarray], rng: Rng, patients: int) -> np.ndarray:
    """Write bags and manifest.csv; return the labels (patients,), 0 or 1."""
    folder.mkdir(parents=True)
    labels = (np.arange(patients) < round(SHARE * patients)).astype(np.int64)
    lines = ["image_id,patient_id,label"]
    for i, label in enumerate(labels.tolist()):
        rows = draw(rng, label).astype(np.float16)
        write_bag(folder / f"{i:03d}.h5", [rows], grid(len(rows)), facts(f"{i:03d}"))
        lines.append(f"{i:03d},{i:03d},{('no', 'yes')[label]}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return labels


def cohort(folder: Path, kind: Callable[..., np.ndarray], patients: int, seed: int) -> np.ndarray:
    """Write a cohort and new patients of the same kind; return the labels of the latter."""
    rng = np.random.default_rng([seed, patients])
    direction = rng.normal(size=DIM)
    mixing = (rng.normal(size=(DIM, DIM)) * np.exp(-4 * np.arange(DIM) / DIM)).T / DIM**0.5
    draw = partial(kind, direction / np.linalg.norm(direction), mixing)
    write(folder / "bags", draw, rng, patients)
    return write(folder / "new", draw, rng, NEW)


def on_new_patients(folder: Path, truth: np.ndarray, *, auto: bool) -> tuple[float, float]:
    """Return AUC and log loss of a run on the new patients."""
    out, table = folder / f"run_{auto}", folder / f"{auto}.csv"
    bags = folder / "bags"
    options = TrainOptions(
        bags=(bags,), manifest=bags / "manifest.csv", out=out, auto=auto, baselines=(), device="cpu", repeats=1,
        fixed=("repeats",) if auto else (),
    )  # fmt: skip
    assert all(own.status is Status.DONE for own in train(options).outcomes)
    predict(PredictOptions(items=(out, folder / "new"), out=table, device="cpu"))
    with table.open() as file:
        told = np.array([float(row["yes"]) for row in csv.DictReader(file)])
    weights = np.where(truth, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))
    return float(roc_auc_score(truth, told)), float(log_loss(truth, told, sample_weight=weights))


def compared(kind: Callable[..., np.ndarray], patients: int, cohorts: int) -> np.ndarray:
    """Return AUC and log loss (cohorts, 2 ways, 2): of the defaults, then of --auto."""
    found = []
    for seed in range(cohorts):
        with TemporaryDirectory() as name:
            truth = cohort(Path(name), kind, patients, seed)
            found.append([on_new_patients(Path(name), truth, auto=auto) for auto in (False, True)])
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [faint, needle])
def test_it_does_not_lose_to_the_defaults(kind: Callable[..., np.ndarray]) -> None:
    found = compared(kind, 60, 4)
    auc, loss = (found[:, 1] - found[:, 0]).mean(axis=0)
    assert auc > -0.01
    assert loss < 0.01


def main() -> None:
    """Print the table of the simulated cohorts."""
    row = "| {} | {} | {} | {:.3f} | {:.3f} | {:+.3f} ± {:.3f} | {:.3f} | {:.3f} | {:+.3f} ± {:.3f} |\n"
    for kind in (faint, needle):
        for patients, cohorts in ((50, 8), (100, 6), (300, 4)):
            found = compared(kind, patients, cohorts)
            difference = found[:, 1] - found[:, 0]
            error = difference.std(axis=0, ddof=1) / cohorts**0.5
            cells = [
                value
                for metric in range(2)
                for value in (*found[:, :, metric].mean(axis=0), difference[:, metric].mean(), error[metric])
            ]
            sys.stdout.write(row.format(kind.__name__, patients, cohorts, *cells))
            sys.stdout.flush()


def of_a_set(bags: Path, manifest: Path) -> None:
    """Print accuracy and AUC of the defaults and of --auto, out of fold."""
    for auto in (False, True):
        found = []
        for seed in range(DIVISIONS):
            with TemporaryDirectory() as name:
                out = Path(name) / "run"
                options = TrainOptions(
                    bags=(bags,), manifest=manifest, out=out, auto=auto, folds=10, seed=seed, baselines=(),
                    device="cpu",
                )  # fmt: skip
                train(options)
                with (out / "oof.csv").open() as file:
                    rows = [row for row in csv.DictReader(file) if row["level"] == "patient"]
            first = next(name for name in rows[0] if name.startswith("p_"))
            truth = np.array([row["label"] == first[2:] for row in rows])
            told = np.array([float(row[first]) for row in rows])
            found.append((((told > 0.5) == truth).mean(), roc_auc_score(truth, told)))
        accuracy, auc = np.mean(found, axis=0)
        each = ", ".join(f"{own:.3f}" for own, _ in found)
        way = "--auto" if auto else "defaults"
        sys.stdout.write(f"{way}: accuracy {accuracy:.3f} ({each}), AUC {auc:.3f}\n")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        of_a_set(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
