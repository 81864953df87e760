"""What a decision is made of: yes-or-no questions that probabilities answer, and the prevalence they stand for.

Probabilities of classes are told for equal class priors. What they are where the classes are as frequent as somewhere
follows from Bayes' rule; the density ratio of the classes, which the features show, stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wsi.arrays import Bools, Floats
from wsi.errors import RequestError

TOLERANCE = 1e-6
"""By which shares may miss a sum of 1."""


@dataclass(frozen=True, slots=True)
class Question:
    """Does the patient have it? The arrays have a row for each patient."""

    name: str
    """Of what is asked."""
    known_P: Bools
    """Of whom the answer is known."""
    positive_P: Bools
    """Who has it; False where unknown."""
    told_P: Floats
    """The probability as it is told: for equal class priors, where classes are predicted."""
    real_P: Floats
    """The probability where it is as frequent as among those it was learnt from."""

    @property
    def balanced(self) -> bool:
        """Return whether what is told stands for another prevalence than the cohort's."""
        return self.told_P is not self.real_P


def at_prevalence(probs_NC: Floats, prevalence_C: Floats) -> Floats:
    """Return probabilities (N, C) for classes of this prevalence, (C,) or (N, C) row by row, from those for equal ones.

    Source: Saerens, Latinne and Decaestecker, Neural Computation 2002, equation 2.4.
    """
    weighed_NC = np.asarray(probs_NC, np.float64) * prevalence_C
    return np.asarray(weighed_NC / weighed_NC.sum(axis=1, keepdims=True))


def parse_prevalence(told: Mapping[str, float], classes: Sequence[str], source: str = "--prevalence") -> Floats:
    """Return the share (C,) of each class; of two classes one may be left out.

    Raises
    ------
    RequestError
        A class is not among the run's or is missing, a share is not between 0 and 1, or they do not sum to 1.
    """
    unknown = [name for name in told if name not in classes]
    if unknown:
        raise RequestError(f"{source} {unknown[0]}: expected classes of the run, {', '.join(classes)}")
    wrong = next((name for name, share in told.items() if not 0 < share < 1), None)
    if wrong is not None:
        raise RequestError(f"{source} {wrong}={told[wrong]:g}: expected a share above 0 and below 1")
    missing = [name for name in classes if name not in told]
    if len(missing) > 1:
        raise RequestError(f"{source}: expected the share of all classes but one, found none of {', '.join(missing)}")
    rest = 1 - sum(told.values())
    shares = {**told, **dict.fromkeys(missing, rest)}
    if (missing and rest <= TOLERANCE) or (not missing and abs(rest) > TOLERANCE):
        raise RequestError(f"{source}: expected shares that sum to 1, found {1 - rest:g}")
    found_C = np.array([shares[name] for name in classes])
    return np.asarray(found_C / found_C.sum())
