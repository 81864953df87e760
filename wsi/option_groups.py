"""Options that several verbs share, and kinds of numbers: each is told once, with its bounds and its meaning."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from wsi.options import NAMES, NO_LOCK, Option, at_least

Count = Annotated[int, at_least(1)]
Above0 = Annotated[float, Option(above=0)]
FromZero = Annotated[float, at_least(0)]
BelowOne = Annotated[float, Option(least=0, below=1)]
Factor = Annotated[float, Option(above=0, most=1)]
Between = Annotated[float, Option(above=0, below=1)]
WantedMpp = Annotated[float, Option(least=0.05, most=20, expected="0.05 to 20 um/px")]
PossibleMpp = Annotated[float, Option(least=0.05, most=100, expected="0.05 to 100 um/px")]


@dataclass(frozen=True, kw_only=True)
class Overwriting:
    """What is written."""

    overwrite: bool = False
    """Replace results that were made with other settings."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What is written."""

    no_lock: Annotated[bool, Option(environment=NO_LOCK)] = False
    """Do without file locks, where the disk has none: only one run may write there."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The cohort table."""

    columns: Annotated[str | None, Option(environment=NAMES, check="wsi.cohort.manifest:parse_columns")] = None
    """The table's names of columns: image_id=slide_id,label=Diagnosis."""


@dataclass(frozen=True, kw_only=True)
class Manifest(Columns):
    """The cohort table."""

    manifest: Annotated[Path | None, Option(short="-m")] = None
    """Cohort table (CSV) in the STRIP AI form; only its slides are taken."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How slides are read."""

    assume_mpp: PossibleMpp | None = None
    """um/px of slides that do not say it, or say nonsense."""
    reader: Annotated[
        Literal["tiff", "ndpi", "mirax", "dicom", "czi", "vsi", "ome-zarr", "openslide"] | None,
        Option(plugins="gigamil.readers"),
    ] = None
    """Force this reader, or another package's."""
    scene: Annotated[int | None, at_least(0)] = None
    """Of files with several scans: which, from 0, as `gigamil info` lists them; otherwise the largest."""


@dataclass(frozen=True, kw_only=True)
class Stalls:
    """Processes."""

    stall: FromZero = 600.0
    """Seconds without any progress after which a read or a process is given up, and its work done anew; 0: never."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Processes."""

    workers: Annotated[int | None, Option(short="-w", least=0)] = None
    """Worker processes, side by side; otherwise one per usable CPU; 0: none, everything runs in this process."""
