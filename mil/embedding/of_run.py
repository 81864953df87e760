"""A run's own embedding: what the last layers of its models see of a slide, beside each other.

Models of different folds have spaces of their own: their vectors are not averaged but stand one after another, fold by
fold and seed by seed. Whose slides the models have seen travels with the vectors.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from features.bags.bag import BagHeader
from features.bags.rows import StoredRows
from features.encoders.lineage import Lineage, patient_sha256, splits_hash
from features.slide_encoders.spec import SlideSpec
from mil.data.duplicates import OTHERS
from mil.data.splits import known_slides, read_column
from mil.inference.retrieval import check_point, point_of
from mil.models.ensemble import check_bags_fit, load_ensemble
from mil.models.model import BagModel
from mil.run.folder import RunFolder
from wsi.arrays import Floats
from wsi.errors import BagError, RequestError
from wsi.files.regular import file_sha256

if TYPE_CHECKING:
    from mil.models.ensemble import Ensemble

NO_FOLD = -1
"""``fold`` of a lineage of models that together have seen every fold."""


def is_run(path: Path) -> bool:
    """Tell whether a path is a run's folder, finished or not."""
    return (path / "config.toml").is_file()


class RunEmbedding:
    """All models of a run's head, or those that have not seen one fold, as a slide encoder.

    Raises
    ------
    RequestError
        The run is not finished, fuses encoders, has no such fold, does not tell whom it has seen, or its head makes no
        single point of a bag.
    """

    def __init__(self, path: Path, fold: int | None) -> None:
        self._run = run = RunFolder(path)
        check_point(run.head)
        if run.fusion != "none":
            raise RequestError(
                f"--encoder {path}: expected a run on the bags of one encoder, found --fusion {run.fusion}"
            )
        if fold is not None and fold >= int(run.recipe["folds"]):
            raise RequestError(f"--fold {fold}: {path} has folds 0 to {int(run.recipe['folds']) - 1}")
        if not (path / "splits.csv").is_file():
            raise RequestError(
                f"--encoder {path}: expected its splits.csv, which tells whom its models have seen, found none: "
                "embed with the run as it was trained"
            )
        ensemble = load_ensemble(run, "cpu")
        self._ensemble: Ensemble = ensemble if fold is None else ensemble.of_fold(fold)
        self._device = torch.device("cpu")
        self._width = sum(width_of(own.model) for own in self._ensemble.members)
        self.spec = self._spec(fold)

    def _spec(self, fold: int | None) -> SlideSpec:
        run, members = self._run, self._ensemble.members
        models = [run.model(run.head, own.fold, own.seed) / "weights.safetensors" for own in members]
        which = "" if fold is None else f" that have not seen fold {fold}"
        return SlideSpec(
            name=f"run-{run.config['recipe_hash'][:12]}",
            trained=True,
            licence="",
            description=f"what the last layers of {len(members)} {run.head} models{which} see, one after another",
            made_of={
                "run": run.config["recipe_hash"],
                "fold": fold,
                "models_sha256": [file_sha256(own) for own in models],
            },
            lineage=lineage_of_run(run, fold),
        )

    def check(self, header: BagHeader, *, off_recipe: bool) -> None:
        """Refuse a bag that was not made as the run's were."""
        self.spec.check(header, off_recipe=off_recipe)
        check_bags_fit(self._run, {header.image_id: header})

    def to(self, device: torch.device) -> None:
        """Move the models to the device."""
        self._device = device
        for member in self._ensemble.members:
            member.model.to(device)

    def encode(self, header: BagHeader) -> Floats:
        rows = StoredRows(header)
        found = np.concatenate([point_of(own.model, rows, self._device) for own in self._ensemble.members])
        if not np.isfinite(found).all():
            raise BagError(f"{header.path}: the run's models make points of it that are not finite: extract it again")
        return found

    def width(self, tiles_dim: int) -> int:
        return self._width


def width_of(model: BagModel) -> int:
    """Return the length of a model's points, as one of a bag of one row tells it."""
    return len(point_of(model, np.zeros((1, model.spec.dim), np.float32)))


def lineage_of_run(run: RunFolder, fold: int | None) -> Lineage:
    """Return whom the models of a run have seen: all its patients, or all but those of one fold."""
    known, others = known_slides(run.path), run.path / OTHERS
    patients = {known.patients[i] for i, own in known.folds.items() if own != fold}
    if others.is_file():
        patients |= set(read_column(others, "patient_id").values())
    return Lineage(
        recipe_hash=str(run.config["recipe_hash"]),
        splits_hash=splits_hash({known.patients[i]: own for i, own in known.folds.items()}),
        fold=NO_FOLD if fold is None else fold,
        n_folds=int(run.recipe["folds"]),
        classes=run.classes,
        patients_sha256=tuple(sorted(patient_sha256(own) for own in patients)),
    )
