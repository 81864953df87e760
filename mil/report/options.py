"""What reports and comparisons can be told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mil.options import Run
from wsi.errors import RequestError
from wsi.option_groups import Claims, Overwriting
from wsi.options import Option, check


def check_horizons(horizons: Sequence[float]) -> None:
    """Raise `RequestError` of a time that is none."""
    for at in horizons:
        if not 0 < at < float("inf"):
            raise RequestError(f"--horizons {at:g}: expected times above 0, in the unit of the manifest's")


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Run, Claims):
    """Options of `mil.report.report.report`."""

    run: Annotated[Path, Option(argument="RUN", remote="output")]
    """Run folder of `gigamil train`."""
    bags: tuple[Path, ...] = ()
    """Bags: with --stores, heat maps are drawn anew; otherwise those already in the run folder are shown."""
    stores: Annotated[tuple[Path, ...], Option(remote="streamed")] = ()
    """Tile stores, to draw heat maps anew."""
    pages: Path | None = None
    """Folder of `gigamil page` whose slides the table of cases links; otherwise `pages` in the run folder, if there."""

    annotations: Path | None = None
    """Folder of <image id>.geojson: tell, slide by slide, whether the attention lies in the drawn regions."""
    annotation_class: tuple[str, ...] = ()
    """Only regions of this class; otherwise all but those that QuPath ignores (*)."""
    operating: Annotated[tuple[str, ...], Option(commas=True)] = ("youden", "sensitivity=0.95", "specificity=0.95")
    """Cuts to judge answers by: youden, sensitivity=SHARE, specificity=SHARE, cost=NUMBER (a miss in false alarms)."""
    horizons: Annotated[tuple[float, ...], Option(commas=True)] = ()
    """Of survival: times to judge risks at; otherwise when a quarter, half and three quarters of the events were."""
    manifest: Annotated[Path | None, Option(short="-m")] = None
    """Cohort table: tell group by group of its further columns (sex, age, scanner, ...) how good the run is."""
    subgroups: Annotated[tuple[str, ...], Option(commas=True)] = ()
    """Only by these columns; otherwise by all that make groups. Groups of few are not judged."""
    pdf: bool = False
    """Print it, too, as report.pdf, by the Chromium or Google Chrome of this machine, or what CHROME names."""

    def __post_init__(self) -> None:
        check(self)
        self._check_rules()
        if self.annotations is not None and not (self.bags and self.stores):
            raise RequestError("--annotations: expected --bags and --stores beside it")
        if self.subgroups and self.manifest is None:
            raise RequestError("--subgroups: expected --manifest beside it")
        if self.annotation_class and self.annotations is None:
            raise RequestError("--annotation-class: expected --annotations beside it")

    def _check_rules(self) -> None:
        from mil.evaluation.decisions.rules import parse_rule

        for rule in self.operating:
            parse_rule(rule)
        check_horizons(self.horizons)


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Overwriting, Claims):
    """Options of `mil.report.compare.compare`."""

    runs: Annotated[tuple[Path, ...], Option(argument="RUN...")]
    """Finished runs, or folders of repeats of each (--repeats); differences are to the first."""
    out: Annotated[Path, Option(short="-o", remote="output")] = Path("compare")
    """Folder for the table (compare.csv, compare.json) and the page (compare.html)."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        check(self)
        if len(self.runs) < 2 or len({run.resolve() for run in self.runs}) < len(self.runs):
            raise RequestError(f"expected two or more different runs, found {', '.join(map(str, self.runs)) or 'none'}")
