"""From logits to probabilities that may be believed; `mil.evaluation.calibrate` fits the numbers."""

from dataclasses import asdict, dataclass

import numpy as np

from mil.targets.metrics import softmax
from wsi.arrays import Floats
from wsi.recipe import Json

LOCATED = "validation median"
"""Log risks, which have no zero of their own, less the median of those of the inner validation patients."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How logits become probabilities, or risks get a zero."""

    method: str = "none"
    temperature: float = 1.0
    shift: tuple[float, ...] = ()
    """Added to each class's logit after division by the temperature; empty: nothing."""
    floor: float = 0.0
    """Least probability of a class."""

    def probabilities(self, logits_NC: Floats) -> Floats:
        """Return probabilities (N, C); rows sum to 1."""
        scaled = np.asarray(logits_NC, np.float64) / self.temperature
        probs = softmax(scaled + np.array(self.shift) if self.shift else scaled)
        if not self.floor:
            return probs
        return np.asarray(self.floor + (1 - probs.shape[1] * self.floor) * probs)

    def moved(self, outputs_NC: Floats) -> Floats:
        """Return outputs (N, C) with the shift added."""
        outputs_NC = np.asarray(outputs_NC, np.float64)
        return outputs_NC + np.array(self.shift) if self.shift else outputs_NC

    def as_dict(self) -> Json:
        """Return JSON values."""
        return {**asdict(self), "shift": list(self.shift)}


def calibration_of(values: Json) -> Calibration:
    """Return what `Calibration.as_dict` told."""
    return Calibration(
        str(values["method"]),
        float(values["temperature"]),
        tuple(values.get("shift", ())),
        float(values.get("floor", 0)),
    )
