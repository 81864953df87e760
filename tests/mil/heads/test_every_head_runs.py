"""Every head goes through training, from bags to a run folder with a report and a model that loads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from witness import Witness

from mil.heads import HEADS
from mil.models.model import load_model
from mil.ragged.packing import pack
from mil.run.folder import RunFolder
from mil.train import train


def test_every_head_trains_and_reports(tmp_path: Path, write_cohort: Callable[..., Witness]) -> None:
    witness = write_cohort(tmp_path / "cohort", 24)
    names = tuple(HEADS)
    small = {"folds": 2, "epochs": 3, "hidden": 16, "attention": 8}
    options = witness.options(tmp_path / "run", head=names[0], baselines=names[1:], **small)
    summary = train(options)
    assert summary.exit_code == 0, summary.outcomes
    run = RunFolder(tmp_path / "run")
    for name in names:
        model, facts = load_model(run.model(name, 0, 0))
        assert facts["epochs_run"] == 3
        packed = pack([np.ones((3, model.spec.dim), np.float16)])
        assert model(packed.rows_ND, packed.offsets).logits_BC.shape == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gated_abmil", "abmil", "max_pool", "additive", "clam_sb", "dsmil", "dtfd"])
def test_heads_that_single_out_tiles_learn_the_witness_cohort(
    name: str, tmp_path: Path, write_cohort: Callable[..., Witness]
) -> None:
    """Few tiles tell the label there; the constant scores 0.693."""
    witness = write_cohort(tmp_path / "cohort", 45)
    assert train(witness.options(tmp_path / "run", head=name, baselines=())).exit_code == 0
    metrics = RunFolder(tmp_path / "run").read_json("metrics.json")
    assert metrics["models"][name]["weighted_log_loss"]["value"] < 0.67
