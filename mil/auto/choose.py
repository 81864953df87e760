"""From a cohort's fingerprint to the options of its training: what is given stays, the rules choose the rest."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mil.auto.fingerprint import Fingerprint, fingerprint_of
from mil.auto.rules import RULES, VERSION, rule_for
from mil.training.options import TrainOptions
from wsi.recipe import Json

GIVEN = "as it was given"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided of one option."""

    option: str
    """Field of `TrainOptions`."""
    value: Any
    usual: Any
    """What it would be without --auto."""
    given: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A training for a cohort."""

    options: TrainOptions
    """Nothing is left to be chosen."""
    cohort: Fingerprint
    choices: tuple[Choice, ...]

    @property
    def note(self) -> str:
        """Return what was chosen, in a line for a person."""
        told = [f"{own.option.replace('_', '-')} {own.value}" for own in self.choices if not own.given]
        return f"--auto: {', '.join(told)}" if told else "--auto chose nothing: all that it could choose was given"

    def about(self) -> Json:
        """Return what the run keeps of it."""
        return {
            "rules": VERSION,
            "cohort": self.cohort.as_dict(),
            "choices": [asdict(own) for own in self.choices],
        }


def planned(options: TrainOptions, cohort: Fingerprint | None = None) -> Planned:
    """Return the training that the rules make of these options for their cohort.

    What is not at its default counts as given, and what ``fixed`` names.

    Raises
    ------
    RequestError
        The manifest, the bags or the splits do not fit each other, or the given options what is chosen.
    """
    cohort = cohort or fingerprint_of(options)
    usual = {name: TrainOptions.__dataclass_fields__[name].default for name in _names()}
    given = {name: getattr(options, name) for name in _names() if _is_given(options, name, usual[name])}
    values, choices = dict(given), []
    for name, default in usual.items():
        rule = rule_for(name, cohort)
        if name not in given:
            values[name] = rule.value(cohort, values)
        reason = GIVEN if name in given else rule.why.format(**cohort.as_dict())
        choices.append(Choice(name, values[name], default, name in given, reason))
    return Planned(replace(options, auto=False, fixed=(), **values), cohort, tuple(choices))


def _names() -> Sequence[str]:
    """Return the options that rules choose, in the order of the table: later ones may follow from earlier ones."""
    return list(dict.fromkeys(rule.option for rule in RULES))


def _is_given(options: TrainOptions, name: str, usual: Any) -> bool:
    return name in options.fixed or getattr(options, name) != usual
