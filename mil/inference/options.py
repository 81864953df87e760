"""What can be asked of a finished run."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from features.option_groups import Device, Weights
from mil.options import Combination, Run
from wsi.errors import RequestError
from wsi.option_groups import Above0, Between, Claims, Count, Manifest, Overwriting, PossibleMpp, Workers
from wsi.options import Option, check

BY_CENTER = "by-center"
"""In place of shares: each center's own."""


def _check_name(out: Path, ending: str) -> None:
    if out.suffix != ending:
        raise RequestError(f"--out {out}: expected a name that ends in {ending}")


@dataclass(frozen=True, kw_only=True)
class SlideOptions(Weights, Workers, Device):
    """How new slides become bags."""

    assume_mpp: PossibleMpp | None = None
    """um/px of slides that do not say it."""
    on_damage: Literal["fail", "skip"] = "fail"
    """fail: a slide with pixels that cannot be decoded fails; skip: damaged tiles are left out."""
    work: Annotated[Path | None, Option(remote="local")] = None
    """Keep stores and bags of the slides here, and use what is there; otherwise in a temporary folder beside --out."""
    time_budget_min: Annotated[Above0 | None, Option(name="time-budget", expected="minutes above 0")] = None
    """Minutes for the slides; those that are not done stand at equal probabilities, and are named."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions(SlideOptions, Manifest, Overwriting, Claims):
    """Options of `mil.inference.predict.predict`."""

    items: Annotated[tuple[Path, ...], Option(argument="[RUN] SLIDES...")]
    """Run folder of `gigamil train`, unless --run names it; slides or bags (.h5), or folders of either."""
    run: tuple[Path, ...] = ()
    """A run; several are combined. Or a folder of `gigamil compare`, which stands for its runs."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """Table to write: patient_id, then one column per class. <name>.json beside it says how it was made."""
    combine: Combination = "mean"
    """How several runs are combined, as `gigamil compare` has them."""
    prevalence: Annotated[tuple[str, ...], Option(commas=True)] = ()
    """Shares of the classes where the patients come from, CLASS=SHARE,...: for probabilities there; otherwise equal.

    by-center: those of the run's own patients of the same center (center_id of the manifest)."""

    def __post_init__(self) -> None:
        check(self)
        _ = self.shares
        _check_name(self.out, ".csv")
        if not self.items:
            raise RequestError("expected slides or bags, found none")

    @property
    def by_center(self) -> bool:
        """Return whether each center's own prevalence is asked for."""
        return self.prevalence == (BY_CENTER,)

    @property
    def shares(self) -> dict[str, float]:
        """Return the prevalence of the classes that it tells; `RequestError` where it cannot be read."""
        found = {}
        for text in () if self.by_center else self.prevalence:
            name, sign, share = text.rpartition("=")
            try:
                found[name] = float(share)
            except ValueError:
                sign = ""
            if not sign or not name:
                raise RequestError(f"--prevalence {text}: expected CLASS=SHARE, such as LAA=0.2, or by-center")
        return found


@dataclass(frozen=True, kw_only=True)
class SimilarOptions(Run, Device, Overwriting, Claims):
    """Options of `mil.inference.similar.similar`."""

    bags: Annotated[tuple[Path, ...], Option(argument="BAGS...")]
    """Bags (.h5) of the slides to look up, or folders of them."""
    known: tuple[Path, ...]
    """The bags that the run was trained on, or those among them that may be found."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """Table to write; what it means stands beside it as JSON."""
    most: Count = 5
    """Cases told for each slide, and neighbours that say how familiar it is."""
    refused: Between = 0.05
    """Share of known slides that may be called unknown."""

    def __post_init__(self) -> None:
        check(self)
        _check_name(self.out, ".csv")


@dataclass(frozen=True, kw_only=True)
class RunForms:
    """Of a run."""

    onnx: bool = False
    """Its models as ONNX."""
    torch_export: bool = False
    """Its models as torch.export files."""
    int8: bool = False
    """As ONNX with 8-bit weights, quantised on the fly (dynamic); wants --bags."""
    prune: Between | None = None
    """Share of each layer's weights that are set to 0, the smallest ones; wants --bags."""
    bags: tuple[Path, ...] = ()
    """The bags that the run was trained on: AUC, time and size before and after. With --geojson: of the slides."""


@dataclass(frozen=True, kw_only=True)
class RunExportOptions(RunForms, Overwriting, Claims):
    """Options of `mil.inference.portable.export.export_run`."""

    run: Path
    """Run folder of `gigamil train`."""
    out: Annotated[Path, Option(remote="output")]
    """Folder to write."""

    def __post_init__(self) -> None:
        check(self)
        if not self.forms:
            raise RequestError("nothing to export: give --onnx, --torch-export, --int8, --prune or --geojson")
        if (self.int8 or self.prune is not None) and not self.bags:
            raise RequestError("--int8 and --prune want --bags, those of the run, to measure what is lost")
        wanted = ["onnx", "onnxscript", "onnxruntime"] * (self.onnx or self.int8)
        missing = [name for name in wanted if importlib.util.find_spec(name) is None]
        if missing:
            raise RequestError(f"{', '.join(missing)}: not installed; pip install 'gigamil[export]'")

    @property
    def forms(self) -> tuple[str, ...]:
        """Return the names of the forms asked for."""
        asked = {"onnx": self.onnx, "torch_export": self.torch_export, "int8": self.int8, "pruned": self.prune}
        return tuple(name for name, wanted in asked.items() if wanted)
