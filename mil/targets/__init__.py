"""What a model can be asked for: each target is one file; a new one is a line in `TARGETS`."""

from mil.targets.base import Target
from mil.targets.classes import ClassTarget
from mil.targets.labels import LabelsTarget
from mil.targets.survival import SurvivalTarget
from mil.targets.value import ValueTarget
from wsi.recipe import Recipe

__all__ = ["TARGETS", "ClassTarget", "LabelsTarget", "SurvivalTarget", "Target", "ValueTarget", "target_of"]

TARGETS: dict[str, type[Target]] = {own.kind: own for own in (ClassTarget, LabelsTarget, ValueTarget, SurvivalTarget)}
"""By the name in options, recipes and stored models."""


def target_of(recipe: Recipe) -> type[Target]:
    """Return what a run of this recipe predicts."""
    return TARGETS[str(recipe.get("target", ClassTarget.kind))]
