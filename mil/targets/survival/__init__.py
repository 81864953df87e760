"""Time to an event that not everybody was followed to: the target, its metrics, and what is said at horizons."""

from mil.targets.survival.target import SurvivalTarget, parse_survival

__all__ = ["SurvivalTarget", "parse_survival"]
