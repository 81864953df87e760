"""Everything that is measured for a plan, each part in a process of its own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from features.extraction.options import ExtractOptions
from mil.accounting.ranges import Range
from mil.planning.calibration import Calibration, EncoderCost, encoder_key
from mil.planning.headers import SlideFacts
from mil.planning.machine import this_machine
from mil.planning.trials.apart import apart
from mil.training.options import TrainOptions
from wsi.errors import RequestError
from wsi.progress.outcome import Progress
from wsi.tiling.options import TileOptions


class Measuring:
    """Measures on this machine.

    Parameters
    ----------
    scratch
        A folder on the disk that will be written to.
    seconds
        That each part may take, about.
    progress
        Told of each part.
    """

    def __init__(self, scratch: Path, seconds: float, progress: Progress) -> None:
        self._scratch, self._seconds, self._progress = scratch, seconds, progress
        self._stores: list[Path] = []
        self._machine = this_machine()
        self._parts = 0
        self.loads: dict[str, float] = {}
        """By which measuring each stage was slower than on an idle machine."""

    def tiling(self, slides: Sequence[SlideFacts], options: TileOptions) -> tuple[Calibration, dict[str, str]]:
        """Tile parts of slides; return the costs, and why slides failed that no header told of."""
        from mil.planning.trials.tiling import costs_of

        self._progress.note("plan: parts of some slides are tiled, to measure")
        told = (slides, options, self._scratch / "stores", self._seconds)
        trial = apart("mil.planning.trials.tiling:try_tiling", *told)
        self._stores += [sample.store for sample in trial.samples if sample.store is not None]
        self.loads["tile"] = trial.load
        return Calibration(machine=self._machine, tiling=costs_of(trial.samples), fixed=trial.fixed), trial.failures

    def encoder(self, options: ExtractOptions, stores: Sequence[Path], tile_px: int) -> Calibration:
        """Encode some tiles: of stores that are there, else of those that were made for measuring."""
        self._progress.note(f"plan: {options.joined} encodes some tiles, to measure")
        own = self._some(stores)
        trial = apart("mil.planning.trials.encoder:try_encoder", options, own, tile_px, self._seconds)
        self._machine, self.loads["extract"] = trial.machine, trial.load
        return Calibration(machine=self._machine, encoders={trial.cost.key: trial.cost})

    def heads(
        self, trainings: Sequence[TrainOptions], sizes: Sequence[int], dim: int, stores: Sequence[Path]
    ) -> Calibration:
        """Train on bags that are made up; ``stores``: those that are there."""
        self._progress.note("plan: heads train for a few epochs, to measure")
        self._parts, own = self._parts + 1, self._some(stores)
        scratch = self._scratch / f"training-{self._parts}"
        trial = apart("mil.planning.trials.heads:try_heads", trainings, sizes, dim, scratch, self._seconds, own)
        self.loads["train"] = trial.load
        costs = {cost.key: cost for cost in trial.costs}
        return Calibration(machine=self._machine, heads=costs, fixed=trial.fixed)

    def _some(self, stores: Sequence[Path]) -> list[Path]:
        """Return stores to measure with: of those that are there, else of those that were made for measuring."""
        return [*stores, *self._stores][:8]


def known_encoder(calibration: Calibration, options: ExtractOptions, tile_px: int) -> EncoderCost:
    """Return an encoder's cost; of one that was not measured, by operations that it takes beside one that was.

    Raises
    ------
    RequestError
        It can be had neither way.
    """
    key = encoder_key(options, tile_px)
    if key in calibration.encoders:
        return calibration.encoders[key]
    told = f"{calibration.machine.name}: {options.joined} was not measured there"
    others = [own for own in calibration.encoders.values() if "texture" not in own.key]
    if not others:
        raise RequestError(
            f"{told}, nor another network: run gigamil plan --encoder {options.joined} --calibrate there"
        )
    names = [options.joined, *(own.key.partition(",")[0] for own in others)]
    operations = apart("mil.planning.trials.encoder:operations_of_all", names)
    known = [(own, count) for own, count in zip(others, operations[1:], strict=True) if count]
    if not operations[0] or not known:
        raise RequestError(f"{told}, and its operations cannot be counted")
    nearest, count = min(known, key=lambda pair: abs(pair[1] / operations[0] - 1))
    factor = operations[0] / count
    return replace(
        nearest,
        key=key,
        dim=apart("mil.planning.trials.encoder:width_of", options.joined),
        tile_seconds=Range.about(nearest.tile_seconds.expected * factor, 0.5),
        cpu_tile_seconds=nearest.cpu_tile_seconds * (factor if nearest.device == "cpu" else 1.0),
        gpu_base_bytes=nearest.gpu_base_bytes * factor,
        measured=False,
    )
