"""A feature that hardly varied among the slides trained on does not outshout all others elsewhere."""

import numpy as np
import torch

from mil.heads import HeadSpec
from mil.models.model import BagModel
from mil.ragged.instances import Instances


def test_standardised_features_end_at_the_limit() -> None:
    rng = np.random.default_rng(0)
    trained_on = rng.normal(size=(20, 3)).astype(np.float32)
    trained_on[:, 2] *= 1e-4
    rows = torch.tensor([[0.0, 0.0, 40.0]])
    for kind in (torch.float32, torch.float16):
        told = []
        for limit in (5.0, 0.0):
            torch.manual_seed(0)
            model = BagModel(HeadSpec(name="mean_pool", dim=3, n_classes=2, limit=limit))
            model.standardise([trained_on])
            told.append(model.eval()(rows.to(kind), (0, 1)).logits_BC.detach().abs().max())
        assert told[0] < 10 < 1000 < told[1]
    held = Instances(rows, (0, 1), torch.zeros(3), torch.ones(3), 5.0)
    np.testing.assert_array_equal(held.rows(), [[0, 0, 5]])
