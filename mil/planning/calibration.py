"""What one unit costs on a machine, as it was measured there: a file that another machine can plan with.

Only facts that do not depend on the cohort's size stand here. `mil.planning.tiling`, `extraction` and `training`
multiply them by what the headers tell.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from features.extraction.options import ExtractOptions
from mil.accounting.ranges import Range
from mil.planning.machine import Machine
from mil.training.options import TrainOptions
from wsi.errors import RequestError
from wsi.files.atomic import write_text
from wsi.files.documents import parse_json, read_document

FORMAT = "gigamil-calibration/1"


class _Told:
    """A cost as JSON values, and made of them."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)  # type: ignore[call-overload]  # each is a dataclass

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """Return the cost of JSON values; `KeyError`, `TypeError` or `ValueError` where they are none."""
        names = {own.name: own.type for own in fields(cls)}  # type: ignore[arg-type]
        values = {name: told[name] for name in names}
        return cls(**{name: Range.of(v) if isinstance(v, Mapping) else v for name, v in values.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class TilingCost(_Told):
    """Of slides of one kind; a second is one of a single worker that has a processor to itself."""

    kind: str
    slides: int
    """That were looked at."""
    slide_seconds: Range
    """Header, tissue, finish: what no second worker helps with."""
    area_seconds: Range
    """For each Mpx of the slide's level 0."""
    tile_seconds: Range
    """For each stored tile."""
    stored_share: Range
    """Stored tiles by tiles of the whole grid."""
    listed_share: Range
    """Listed tiles by tiles of the whole grid: those that are encoded."""
    tile_bytes: Range
    """On disk, for each stored tile, its part of all levels included."""
    overview_bytes: Range
    """On disk, for each pixel of the overview: overview, mask, metadata."""
    worker_bytes: float
    """Resident memory of a worker at its most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCost(_Told):
    """Of one encoder at one precision on one device."""

    key: str
    precision: str
    device: str
    """cpu or cuda."""
    dim: int
    start_seconds: float
    """From the command to the first batch: imports, weights, device."""
    tile_seconds: Range
    """For each tile and view, of all lanes together."""
    lanes: int
    """That worked side by side while it was measured."""
    cpu_tile_seconds: float
    """Processor time for each tile and view."""
    read_seconds: float
    """For each tile, reading it from a store by one thread."""
    base_bytes: float
    """Resident memory with the encoder loaded."""
    lane_bytes: float
    """More of it for each tile of a batch, and each lane."""
    gpu_base_bytes: float
    gpu_tile_bytes: float
    """GPU memory with the encoder loaded, and for each tile of a batch."""
    tile_px: int
    measured: bool = True
    """False: by the number of its operations and what this device does of another encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCost(_Told):
    """Of one head at one width of features on one device."""

    key: str
    bag_seconds: Range
    """For each bag of an epoch, trained on, whatever its size."""
    row_seconds: Range
    """For each row of those."""
    scored_share: float
    """Time of scoring a bag by that of training on it."""
    row_bytes: float
    """Memory for each row of a step beside the features' own: on the GPU where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Everything measured on one machine."""

    machine: Machine
    tiling: dict[str, TilingCost] = field(default_factory=dict)
    encoders: dict[str, EncoderCost] = field(default_factory=dict)
    heads: dict[str, HeadCost] = field(default_factory=dict)
    fixed: dict[str, float] = field(default_factory=dict)
    """Seconds and bytes that each run of a stage takes whatever its size: ``tile_seconds``, ``tile_bytes`` (of the
    process that leads the workers), ``worker_start_seconds``, ``worker_bytes`` (of one that has done nothing yet),
    ``start_seconds`` (of a training: what extraction imports, too), ``first_seconds`` (more, of the first training of a
    process), ``train_seconds`` (of each), ``slide_seconds`` (of each slide: evaluation, report), ``epoch_seconds`` (of
    each model beside its bags), ``train_bytes``, ``run_bytes``, ``model_bytes``."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        groups = {name: {key: own.as_dict() for key, own in getattr(self, name).items()} for name in _COSTS}
        told = {"format": FORMAT, "measured": time.strftime("%Y-%m-%d"), "machine": self.machine.as_dict()}
        return told | groups | {"fixed": self.fixed}

    def joined(self, other: "Calibration") -> "Calibration":
        """Return the two as one; what the other has is taken."""
        both = {name: {**getattr(self, name), **getattr(other, name)} for name in (*_COSTS, "fixed")}
        return Calibration(machine=other.machine, **both)


def encoder_key(options: ExtractOptions, tile_px: int) -> str:
    """Return under what an encoder's cost stands: what is asked, which each machine answers in its own way."""
    asked = [own for own in (options.precision, options.device) if own != "auto"]
    asked += ["compiled"] * options.compiled + ["crop"] * options.crop
    return ", ".join([options.joined, f"tiles of {tile_px} px", *asked])


def head_key(options: TrainOptions, head: str, dim: int) -> str:
    """Return under what a head's cost stands."""
    asked = [own for own in (options.precision, options.device, options.optimizer) if own not in ("auto", "adamw")]
    return ", ".join([head, f"{dim} features", f"{options.hidden} and {options.attention} wide", *asked])


_COSTS: dict[str, type[_Told]] = {"tiling": TilingCost, "encoders": EncoderCost, "heads": HeadCost}


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write the file, whole or not at all."""
    write_text(path, json.dumps(calibration.as_dict(), indent=1) + "\n")


def read_calibration(path: Path) -> Calibration:
    """Return what a file holds.

    Raises
    ------
    RequestError
        It is no calibration.
    """
    text = read_document(path, RequestError)
    try:
        told = parse_json(text, finite=True)
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']}")
        groups = {name: {key: kind.of(own) for key, own in told[name].items()} for name, kind in _COSTS.items()}
        fixed = {name: float(value) for name, value in told["fixed"].items()}
        return Calibration(machine=Machine(**told["machine"]), fixed=fixed, **groups)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(
            f"{path}: expected a calibration that `gigamil plan --calibrate FILE` wrote ({FORMAT}), found another file "
            f"({type(error).__name__}: {error})"
        ) from None
