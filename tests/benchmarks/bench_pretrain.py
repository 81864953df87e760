"""Pretraining on formulas: images made alone, a network trained alone on one batch in memory, and both, in images/s.

Run: ``python tests/benchmarks/bench_pretrain.py [--network resnet18] [--size 96] [--formula stained ...]``. A minute on
a CPU. *Both* runs the verb's own loop; the limit is what the slower of the two alone would leave of it where they take
turns on one device, 1 / (1 / made + 1 / trained). On a CPU seconds are processor seconds of all threads.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from features.distributed import Place
from features.encoders.device import reproducible_arithmetic, resolve_device, resolve_precision
from features.encoders.registry import build_encoder
from features.encoders.timm_encoder import TimmEncoder
from features.learning.batches import PieceRequest, requests
from features.learning.ranks import Setting
from features.pretrain.cohort import gather
from features.pretrain.loop import Trainer
from features.pretrain.model import build_objective, views_of
from features.pretrain.options import PretrainOptions
from features.pretrain.sources import FormulaImages, Part
from wsi.arrays import Ints
from wsi.progress.outcome import Silent

CLASSES = 100
UNCOUNTED = 2
"""Steps before the clock counts."""


@dataclass(frozen=True)
class Rates:
    """Images per second."""

    formula: str
    made: float
    trained: float
    both: float

    @property
    def limit(self) -> float:
        """What taking turns would leave, if nothing else took time."""
        return 1 / (1 / self.made + 1 / self.trained)


@dataclass
class Clocked:
    """A source that notes when it is asked for the next part; ``again``: gives its first part again and again."""

    source: FormulaImages
    device: torch.device
    again: bool
    unit: str = "images"
    n_sampled: int = 1
    times: list[float] = field(default_factory=list)

    def parts(self, epoch: int, wanted: Iterator[PieceRequest], n_steps: int, threads: int) -> Iterator[Part]:
        """Yield the parts of an epoch."""
        if not self.again:
            for part in self.source.parts(epoch, wanted, n_steps, threads):
                yield part
                self.times.append(now(self.device))
            return
        first = next(wanted)
        made = next(self.source.parts(epoch, iter([first]), n_steps, threads))
        for request in [first, *wanted]:
            yield replace(made, request=request)
            self.times.append(now(self.device))

    def sampled(self, rows: Ints) -> Tensor:
        """Return the sample that is looked at after an epoch."""
        return self.source.sampled(rows)


def now(device: torch.device) -> float:
    """Return seconds: of the clock on a GPU, of all this process's threads on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def rates(options: PretrainOptions) -> Rates:
    """Measure one family, in a folder of its own."""
    device, encoder = resolve_device(options.device), build_encoder(options.encoder, options.start())
    assert isinstance(encoder, TimmEncoder)
    precision = resolve_precision(options.precision, device, encoder.spec)
    setting = Setting(Place(), device, precision, encoder.spec, save=False)
    steps = options.images_per_epoch // options.batch_size
    source = FormulaImages(options, options.images_per_epoch, views_of(options, "classes", encoder), device)
    wanted = requests(options.images_per_epoch, steps, 0, range(1), 1, mixup=False)
    found = [_rate([now(device) for _ in source.parts(0, wanted, steps, 1)], options)]
    for again in (True, False):
        objective = build_objective(options, "classes", encoder, views_of(options, "classes", encoder), setting)
        clocked = Clocked(source, device, again)
        cohort = gather(options, encoder, precision)
        with reproducible_arithmetic():
            Trainer(options, cohort, objective, clocked, None, setting, Silent()).run()
        found.append(_rate(clocked.times, options))
    return Rates(options.formula, *found)


def _rate(times: list[float], options: PretrainOptions) -> float:
    counted = times[UNCOUNTED - 1 :]
    return options.batch_size * (len(counted) - 1) / (counted[-1] - counted[0])


def asked(formula: str, network: str, size: int, batch: int, steps: int, device: str, out: Path) -> PretrainOptions:
    """Return what is measured: one epoch of so many steps."""
    return PretrainOptions(
        source=(Path("formula"),), formula=formula, classes=CLASSES, instances=-(-batch * steps // CLASSES),
        images_per_epoch=batch * steps, network=network, size=size, batch_size=batch, epochs=1, device=device,
        out=out / f"{formula}.safetensors",
    )  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formula", nargs="+", default=["fractaldb", "rcdb", "deadleaves", "stained"])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    table = Table("formula", "made alone", "trained alone", "both", "of the limit", title=f"images/s, {given.network}")
    with tempfile.TemporaryDirectory() as folder:
        for name in given.formula:
            own = rates(
                asked(name, given.network, given.size, given.batch_size, given.steps, given.device, Path(folder))
            )
            table.add_row(
                name, f"{own.made:.0f}", f"{own.trained:.0f}", f"{own.both:.0f}", f"{own.both / own.limit:.2f}"
            )
    Console().print(table)


if __name__ == "__main__":
    main()
