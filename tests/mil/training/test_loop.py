"""One epoch of one model: what it tells is what its slides come to, one by one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from witness import Trained

from mil.models.scoring import Compute, score
from mil.training.fit import new_model
from mil.training.jobs import FitJob, divide
from mil.training.later import Later
from mil.training.loop import Loop
from mil.training.ranks import Ranks
from mil.training.training_data import gather


@pytest.mark.parametrize("batch_bags", [1, 7, 1000])
def test_the_loss_of_an_epoch_is_the_mean_over_its_slides(trained: Trained, tmp_path: Path, batch_bags: int) -> None:
    asked = {
        "dropout": 0.0,
        "device": "cpu",
        "precision": "fp32",
        "balance": "weights",
        "batch_bags": batch_bags,
        "folds": 3,
    }
    options = trained.witness.options(tmp_path / "run", **asked)
    data = gather(options)
    cohort = data.open()[0]
    job = FitJob(head="mean_pool", fold=0, seed=0, folder=options.out, options=options, recipe_hash="")
    parts = divide(cohort, data.folds, job)
    model = new_model(job, cohort, parts, Ranks())
    loop = Loop(job, cohort, parts, model, Ranks())
    loop.optimizer.step = lambda: None  # the weights stay as they are
    told = loop.epoch(0)
    model.eval()
    logits_SC = score(model, [cohort.bags[i] for i in parts.train], Compute("cpu", "fp32", 10**6))
    wanted_S = np.array(
        [
            np.log(np.exp(row - row[label]).sum())
            for row, label in zip(logits_SC, cohort.target.groups_N[parts.train], strict=True)
        ]
    )
    assert told["train_loss"] == pytest.approx((wanted_S * loop.weights).sum() / len(parts.train), rel=1e-5)
    assert told["grad_norm"] > 0


@pytest.mark.gpu
def test_a_number_is_that_of_when_it_was_asked_for() -> None:  # pragma: no cover
    values = torch.ones(1 << 24, device="cuda")
    sums = []
    for _ in range(5):
        values += values
        sums.append(Later(values.sum()))
    values.zero_()
    assert [float(own.read()) / values.numel() for own in sums] == [2, 4, 8, 16, 32]
