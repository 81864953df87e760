"""What planning can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from features.option_groups import Precision
from mil.options import ByRules, Head
from wsi.errors import RequestError
from wsi.option_groups import Above0, Count, FromZero, Manifest, Reading, WantedMpp, Workers
from wsi.options import Option, at_least, check


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Without a COHORT.toml."""

    target_mpp: Annotated[WantedMpp, Option(name="mpp")] = 0.5
    """um/px of the tiles."""
    tile_px: Annotated[int, Option(least=32, most=4096)] = 256
    """Side of a tile."""
    codec: Literal["auto", "jpeg", "zstd"] = "auto"
    """Of the stores."""
    encoder: str = ""
    """Encoder of an extraction; none: tiling alone is planned."""
    batch_size: Count = 64
    """Tiles that go through the encoder together."""
    heads: Annotated[tuple[Head, ...], Option(commas=True)] = ()
    """Heads of a training; none: none is planned."""
    folds: Annotated[int, at_least(2)] = 5
    """Folds of the cross-validation."""
    seeds: Count = 1
    """Models per fold."""
    epochs: Count = 60
    """Most epochs per model."""
    patience: Count = 15
    """Epochs without a better validation loss before training stops."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Stages, ByRules, Reading, Manifest, Workers, Precision):
    """What `mil.planning.plan.plan` looks at."""

    what: Annotated[tuple[Path, ...], Option(argument="COHORT.toml|SLIDES...")]
    """A cohort's file, or slides and folders of slides."""
    folder: Path | None = None
    """Where stores, bags and runs are, or will be, and the estimate is kept; of a COHORT.toml its own."""
    calibrated: Annotated[Path | None, Option(name="as")] = None
    """Plan for the machine on which --calibrate wrote this file; nothing is measured here."""
    calibrate: Path | None = None
    """Write what was measured here into this file."""
    price: FromZero = 0.0
    """Of an hour of the machine, in any currency."""
    seconds: Above0 = 20.0
    """Seconds that measuring each stage may take, about; more make the estimate better."""
    strict: bool = False
    """Exit with 1 where a slide cannot be read, or memory or disk do not suffice."""

    def __post_init__(self) -> None:
        check(self)
        if not self.what:
            raise RequestError("nothing to plan: expected a COHORT.toml, or slides and folders of slides")
        if self.calibrated is not None and self.calibrate is not None:
            raise RequestError(
                "--as and --calibrate exclude each other: what was measured elsewhere, or measuring here"
            )
        if self.auto and self.cohort is None and self.manifest is None:
            raise RequestError("--auto: expected --manifest beside it, which tells patients and classes; found none")
        if self.cohort is not None and len(self.what) > 1:
            raise RequestError(f"{self.cohort}: expected one COHORT.toml by itself, found {len(self.what)} paths")

    @property
    def cohort(self) -> Path | None:
        """The cohort's file, where one is planned."""
        return next((path for path in self.what if path.suffix.lower() == ".toml"), None)
