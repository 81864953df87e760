"""All models of a run, loaded to be asked about bags; and the check that the bags were made as theirs were."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from features.bags.bag import BagHeader
from mil.data.cohort import Scale, check_same_making
from mil.evaluation.calibrate import Calibration, calibration_of
from mil.models.model import BagModel, load_model
from mil.models.scoring import autocast, score
from mil.ragged.packing import Rows, pack
from mil.run.folder import RunFolder
from mil.targets.metrics import Floats
from mil.training.options import TrainOptions
from wsi.errors import RequestError


@dataclass(frozen=True, slots=True)
class Member:
    """One model of the ensemble."""

    fold: int
    """The fold it has not seen."""
    seed: int
    model: BagModel


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The models of a run's own head, and how to read their logits."""

    run: RunFolder
    members: tuple[Member, ...]
    calibration: Calibration
    device: TrainOptions
    """Carries device, precision and row limit."""

    def logits(self, bags: Sequence[Rows], *others: Sequence[Rows]) -> Floats:
        """Return the logits (n, C) of bags: the mean over all models, uncalibrated; zeros for an empty bag.

        ``others``: the same slides' bags of the other encoders, where the run fuses them late or by folds.
        """
        views = (bags, *others)
        by_fold = self.run.fusion == "folds"
        scored = [
            score(member.model, views[(member.fold if by_fold else member.seed) % len(views)], self.device)
            for member in self.members
        ]
        return np.asarray(np.mean(scored, axis=0))

    @torch.inference_mode()
    def attention(self, bag: Rows, without_fold: int | None) -> NDArray[np.float64] | None:
        """Return the mean attention (n,), summing to 1, over the models, or over those that have not seen the fold.

        None where the head has no attention.
        """
        asked = [m for m in self.members if without_fold is None or m.fold == without_fold]
        packed = pack([bag], self.device.device)
        maps = []
        for member in asked:
            with autocast(self.device):
                attention_N = member.model(packed.rows_ND, packed.offsets).attention_N
            if attention_N is None:
                return None
            maps.append(attention_N.double().cpu().numpy())
        return np.asarray(np.mean(maps, axis=0))


def load_ensemble(run: RunFolder, options: TrainOptions) -> Ensemble:
    """Load every model of the run's head.

    Raises
    ------
    RequestError
        The run is not finished or its files are damaged.
    """
    recipe = run.recipe
    calibration = _calibration(run)
    if int(recipe["folds"]) < 2 or run.models_per_fold < 1:
        raise RequestError(f"{run.path}: expected models of two folds or more in config.toml, found none: train again")
    members = tuple(
        Member(fold, seed, load_model(run.model(run.head, fold, seed), options.device)[0])
        for fold in range(int(recipe["folds"]))
        for seed in range(run.models_per_fold)
    )
    return Ensemble(run, members, calibration, replace(options, precision=recipe["precision"]))


def _calibration(run: RunFolder) -> Calibration:
    """Return the run's calibration, of which every number is finite."""
    told = run.read_json("calibration.json")
    try:
        found = calibration_of(told)
        if np.isfinite([found.temperature, found.floor, *found.shift]).all() and found.temperature > 0:
            return found
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise RequestError(f"{run.path}/calibration.json: expected finite numbers, a temperature above 0: train it again")


def check_bags_fit(run: RunFolder, headers: Sequence[BagHeader]) -> None:
    """Raise `RequestError` naming a bag whose encoder, recipe width or scale is not that of the run's bags."""
    config = run.config
    made = config["recipe"]["bags"]
    recipe = json.loads(config["about"]["bag_recipe"])
    scale = next(iter(scales_of(run)), Scale())
    for header in headers:
        check_same_making(
            header, str(made["encoder"]), recipe, int(made["dim"]), scale, f"the bags of the run {run.path}"
        )


def scales_of(run: RunFolder) -> list[Scale]:
    """Return the um/px and tile side of the bags of each encoder of a run; none where an older run does not tell."""
    return [Scale(float(one["mpp"]), float(one["tile_px"])) for one in run.config["about"].get("bag_scales", [])]
