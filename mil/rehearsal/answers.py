"""What the models of one run say of bags; those of another precision, too, which `gigamil predict` would refuse."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from features.bags.bag import read_features
from mil.models.ensemble import load_ensemble
from mil.run.folder import RunFolder
from wsi.arrays import Floats


def answers(run: Path, folders: Sequence[Path]) -> dict[str, Floats]:
    """Return what is told of each slide that has a bag in every folder, by image id; the folders by encoder."""
    ensemble = load_ensemble(RunFolder(run))
    names = sorted(set.intersection(*({path.stem for path in folder.glob("*.h5")} for folder in folders)))
    found = {}
    for name in names:
        views = [read_features(folder / f"{name}.h5") for folder in folders]
        if ensemble.run.fusion == "concat":
            views = [np.concatenate(views, axis=1)]
        if all(len(view) for view in views):
            found[name] = ensemble.told(ensemble.logits(*([view] for view in views)))[0]
    return found
