"""All models of a run, loaded to be asked about bags; and the check that the bags were made as theirs were."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from features.bags.bag import BagHeader
from features.encoders.device import resolve_device
from mil.data.cohort import Making, making_of
from mil.models.model import BagModel, load_model
from mil.models.scoring import Compute, Seen, autocast, score_each
from mil.ragged.packing import BagRows, pack
from mil.run.folder import RunFolder
from mil.targets.calibration import Calibration, calibration_of
from wsi.arrays import Floats
from wsi.errors import RequestError
from wsi.recipe import Recipe, canonical

NOT_FINITE = "the models' answer is not finite: expected features of the size that was trained on; extract it again"


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
    compute: Compute

    def logits(self, bags: Sequence[BagRows], *others: Sequence[BagRows]) -> Floats:
        """Return the logits (n, C) of bags: the mean over all models, uncalibrated; zeros for an empty bag.

        ``others``: the same slides' bags of the other encoders, where the run fuses them late or by folds.
        """
        return np.asarray(np.mean(self.of_each(bags, *others), axis=0))

    def of_each(self, bags: Sequence[BagRows], *others: Sequence[BagRows], seen: Seen | None = None) -> Floats:
        """Return the logits (M, n, C) of each model; bags as for `logits`; ``seen`` is shown rows of ``bags``."""
        views, by_fold = (bags, *others), self.run.fusion == "folds"
        view_M = np.array([(own.fold if by_fold else own.seed) % len(views) for own in self.members])
        found: dict[int, Floats] = {}
        for view in np.unique(view_M).tolist():
            asked = np.flatnonzero(view_M == view).tolist()
            scored = score_each(
                [self.members[i].model for i in asked], views[view], self.compute, None if view else seen
            )
            found |= dict(zip(asked, scored, strict=True))
        return np.stack([found[i] for i in range(len(self.members))])

    def told(self, logits_NC: Floats) -> Floats:
        """Return what a user is told of logits (n, C): calibrated probabilities, values or risks."""
        return np.asarray(self.run.predicts.told(logits_NC, self.calibration))

    def of_fold(self, fold: int) -> "Ensemble":
        """Return the models that have not seen the fold, calibrated as they were without it."""
        calibration = self.calibration
        if folds := self.run.read_json("calibration.json").get("folds"):
            calibration = calibration_of(folds[fold])
        chosen = tuple(member for member in self.members if member.fold == fold)
        return replace(self, members=chosen, calibration=calibration)

    @torch.inference_mode()
    def attention(self, bag: BagRows) -> Floats | None:
        """Return the mean attention (n,) over the models, summing to 1; None where the head has none."""
        packed = pack([bag], self.compute.device)
        maps = []
        for member in self.members:
            with autocast(self.compute):
                attention_N = member.model(packed.rows_ND, packed.offsets).attention_N
            if attention_N is None:
                return None
            maps.append(attention_N.double().cpu().numpy())
        return np.asarray(np.mean(maps, axis=0))


def load_ensemble(run: RunFolder, device: str = "auto", max_rows: int = 65_536) -> Ensemble:
    """Load every model of the run's head, to compute in the precision that they were trained in.

    Raises
    ------
    RequestError
        The run is not finished or its files are damaged.
    """
    recipe, on = run.recipe, str(resolve_device(device))
    calibration = _calibration(run)
    if int(recipe["folds"]) < 2 or run.models_per_fold < 1:
        raise RequestError(f"{run.path}: expected models of two folds or more in config.toml, found none: train again")
    members = tuple(
        Member(fold, seed, load_model(run.model(run.head, fold, seed), on)[0])
        for fold in range(int(recipe["folds"]))
        for seed in range(run.models_per_fold)
    )
    for own in members:
        told = own.model.spec.n_classes - own.model.spec.extra_classes
        if told != len(run.classes):
            raise RequestError(
                f"{run.model(run.head, own.fold, own.seed)}: expected a model of {len(run.classes)} outputs as in "
                f"config.toml, found one of {told}: copy the run again, or train it again"
            )
    return Ensemble(run, members, calibration, Compute(on, str(recipe["precision"]), max_rows))


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


def makings_of(run: RunFolder) -> list[Making]:
    """Return how the bags of each encoder of a run were made, in its order; an older run does not tell their scale."""
    config = run.config
    recipe = json.loads(config["about"]["bag_recipe"])
    bags = [{**config["recipe"]["bags"], "recipe": recipe}] if run.fusion == "none" else recipe["bags"]
    scales = [(float(own["mpp"]), float(own["tile_px"])) for own in config["about"].get("bag_scales", [])]
    told = [*scales, *[(0.0, 0.0)] * len(bags)]
    return [
        Making(str(own["encoder"]), own["recipe"], int(own["dim"]), *scale)
        for own, scale in zip(bags, told, strict=False)
    ]


def check_bags_fit(run: RunFolder, *sets: Mapping[str, BagHeader]) -> None:
    """Raise `RequestError` naming a bag that was not made as the run's were; the bags of each of its encoders."""
    wanted, source = makings_of(run), f"the run {run.path}"
    where = f"the bags of {source}"
    if run.fusion != "none":
        made, asked = ([canonical(_plain(own)) for own in one] for one in (map(making_of, sets), wanted))
        if made != asked and sorted(made) == sorted(asked):
            names = ", then ".join(own.encoder or "those without a name" for own in wanted)
            raise RequestError(f"the bags are those of {source}, but not in its order of encoders: give {names}")
        if len(made) != len(asked):
            raise RequestError(
                f"expected a folder of bags for each of the {len(asked)} encoders of {source}, in its order of "
                f"encoders; found {len(made)}"
            )
        where += ", in its order of encoders"
    for headers, making in zip(sets, wanted, strict=True):
        for header in headers.values():
            making.check(header, where)


def _plain(making: Making) -> Recipe:
    return {"encoder": making.encoder, "dim": making.dim, "recipe": making.recipe}
