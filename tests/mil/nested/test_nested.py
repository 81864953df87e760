"""Nested cross-validation: the outer fold's patients steer nothing that is chosen for them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from witness import DIM, Witness

from mil.evaluation.spread.resampled import fold_values
from mil.nested.choose import choose_heads, inner_of
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.train import train
from mil.training.options import TrainOptions, resolve
from mil.training.training_data import gather
from wsi.errors import RequestError

QUICK = {"folds": 2, "epochs": 2, "hidden": 16, "attention": 8, "head": "mean_pool", "baselines": ("max_pool",)}


@pytest.fixture(scope="module")
def witness(write_cohort: Callable[..., Witness], tmp_path_factory: pytest.TempPathFactory) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("nested"), 45)


def test_labels_and_features_of_the_outer_fold_steer_nothing(witness: Witness, tmp_path: Path) -> None:
    """Everything that is chosen for a fold stays bit-equal when its own patients are turned into others."""
    options: TrainOptions = resolve(witness.options(tmp_path / "run", nested=2, **QUICK))
    data = gather(options)
    cohort, folds = data.open()[0], data.folds
    own = folds == 0
    rng = np.random.default_rng(0)
    target = replace(cohort.target, labels_N=np.where(own, 1 - cohort.target.groups_N, cohort.target.groups_N))  # type: ignore[type-var]
    names = target.names
    other = replace(
        cohort,
        target=target,
        strata=tuple(names[label] for label in target.groups_N),
        bags=tuple(
            rng.normal(size=(7, DIM)).astype(np.float32) if mine else bag
            for mine, bag in zip(own, cohort.bags, strict=True)
        ),
    )
    told = {}
    for name, changed in (("as it is", cohort), ("another", other)):
        every = inner_of(options, changed, folds)
        told[name] = choose_heads(options, changed, folds, every, tmp_path / name, "stamp", lambda _: None)["choices"]
        assert not (tmp_path / name / "nested").exists()
    assert told["as it is"][0] == told["another"][0]  # bit by bit: losses and the head
    assert told["as it is"][1] != told["another"][1]  # fold 0 trains for fold 1


def test_a_run_tells_what_choosing_is_worth(witness: Witness, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(witness.options(out, nested=2, **QUICK)).exit_code == 0
    told = json.loads((out / "nested.json").read_text())
    assert told["candidates"] == ["mean_pool", "max_pool"]
    evidence = read_evidence(RunFolder(out))
    for choice in told["choices"]:
        losses = {head: np.mean(own) for head, own in choice["losses"].items()}
        assert choice["head"] == min(losses, key=lambda head, losses=losses: losses[head])  # type: ignore[misc]
        own = evidence.folds_P == choice["fold"]
        assert np.array_equal(evidence.told["nested"][own], evidence.told[choice["head"]][own])
    measure = evidence.truth.measures(evidence.told["nested"], evidence.folds_P)["auc"]
    assert evidence.metrics["models"]["nested"]["auc"]["value"] == pytest.approx(measure(np.ones((1, 45)))[0])
    assert len(fold_values(measure, evidence.folds_P)) == 2
    assert "Head chosen by inner folds" in (out / "report.html").read_text()
    assert evidence.best_simpler() is not None
    assert RunFolder(out).recipe["nested"] == 2


def test_processes_choose_the_same_bit_by_bit(witness: Witness, tmp_path: Path) -> None:
    told = []
    for workers in (1, 2):
        options = resolve(witness.options(tmp_path / "run", nested=2, workers=workers, together=3, **QUICK))
        data = gather(options)
        cohort, folds, done = data.open()[0], data.folds, list[int]()
        every = inner_of(options, cohort, folds)
        told.append(choose_heads(options, cohort, folds, every, tmp_path / "work", "stamp", done.append))
        assert sum(done) == 8
    assert json.dumps(told[0]) == json.dumps(told[1])


def test_what_leaves_nothing_to_choose_is_refused(witness: Witness, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--nested 2: expected two heads or more to choose from"):
        witness.options(tmp_path, nested=2, baselines=())
    with pytest.raises(RequestError, match="--nested 1: expected 0 for none, or 2 inner folds or more"):
        witness.options(tmp_path, nested=1)
