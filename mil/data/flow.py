"""Who of a cohort's table took part, and why the others did not: the flow of patients that reviewers ask for.

TRIPOD+AI, item 20a; CLAIM 2024, item 35. A patient has left when the last of the slides has.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from wsi.cohort.manifest import ManifestRow

NO_BAG = "no bag was found of the slide"
DAMAGED = "the bag is damaged or cannot be read"
NO_TILES = "no tile of the slide shows tissue"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Slides that do not take part, for one reason."""

    why: str
    slides: int
    patients: int
    """Who have no slide left after it."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"why": self.why, "slides": self.slides, "patients": self.patients}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """Return what `as_dict` gave."""
        return cls(str(told["why"]), int(told["slides"]), int(told["patients"]))


@dataclass(frozen=True, slots=True)
class Flow:
    """From the table to those who are judged, step by step."""

    slides: int
    """In the table."""
    patients: int
    left_out: tuple[LeftOut, ...] = ()
    """In the order in which they left."""
    unjudged: tuple[LeftOut, ...] = ()
    """In the cohort, and of no use to a model."""
    trained_only: LeftOut | None = None
    """Of a second table: trained on, never tested."""

    @classmethod
    def of(cls, rows: Sequence[ManifestRow]) -> Self:
        """Return the flow of a table of which everybody takes part."""
        return cls(len(rows), len({row.patient_id for row in rows}))

    def leaving(self, why: str, rows: Sequence[ManifestRow]) -> Self:
        """Return the flow after a step that leaves these rows of those who were there."""
        gone = LeftOut(why, self.slides_left - len(rows), self.patients_left - len({row.patient_id for row in rows}))
        return self if not gone.slides else replace(self, left_out=(*self.left_out, gone))

    def training_only(self, rows: Sequence[ManifestRow]) -> Self:
        """Return the flow with the slides of a second table, which are trained on and never tested."""
        only = LeftOut("", len(rows), len({row.patient_id for row in rows}))
        return replace(self, trained_only=only) if rows else self

    def with_unjudged(
        self, image_ids: Sequence[str], patient_ids: Sequence[str], usable: Collection[str], damaged: Collection[str]
    ) -> Self:
        """Return the flow with those in the cohort of whom there is nothing to look at.

        ``usable``, ``damaged``: image ids. A patient counts where no slide is usable: under damage, if any is damaged.
        """
        owner = dict(zip(image_ids, patient_ids, strict=True))
        blind = set(patient_ids) - {owner[i] for i in usable}
        hurt = {owner[i] for i in damaged} & blind
        found = [
            LeftOut(DAMAGED, len(damaged), len(hurt)),
            LeftOut(NO_TILES, len(image_ids) - len(usable) - len(damaged), len(blind - hurt)),
        ]
        return replace(self, unjudged=tuple(own for own in found if own.slides))

    @property
    def slides_left(self) -> int:
        """Return how many slides are in the cohort."""
        return self.slides - sum(own.slides for own in self.left_out)

    @property
    def patients_left(self) -> int:
        """Return how many patients are in the cohort."""
        return self.patients - sum(own.patients for own in self.left_out)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "slides": self.slides,
            "patients": self.patients,
            "left_out": _dicts(self.left_out),
            "unjudged": _dicts(self.unjudged),
            "trained_only": None if self.trained_only is None else self.trained_only.as_dict(),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """Return what `as_dict` gave; `ValueError`, `KeyError` or `TypeError` where it is something else."""
        only = told["trained_only"]
        return cls(
            int(told["slides"]),
            int(told["patients"]),
            tuple(map(LeftOut.of, told["left_out"])),
            tuple(map(LeftOut.of, told["unjudged"])),
            None if only is None else LeftOut.of(only),
        )


def _dicts(steps: Iterable[LeftOut]) -> list[dict[str, Any]]:
    return [own.as_dict() for own in steps]
