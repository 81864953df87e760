"""What an evaluation on another cohort can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mil.inference.options import SlideOptions
from wsi.errors import RequestError
from wsi.option_groups import Claims, Columns, Overwriting
from wsi.options import Option, check


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(SlideOptions, Columns, Overwriting, Claims):
    """Options of `mil.external.evaluate.evaluate`."""

    run: Annotated[Path, Option(argument="RUN")]
    """Run folder of `gigamil train`."""
    items: Annotated[tuple[Path, ...], Option(argument="SLIDES...")]
    """Slides or bags (.h5) of the other cohort, or folders of either."""
    manifest: Annotated[Path, Option(short="-m")]
    """Its table (CSV) with labels, in the form of the one that was trained on."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """Folder to write: report.html, checklists.html, scores.csv, evaluation.json."""
    stores: Annotated[tuple[Path, ...], Option(remote="streamed")] = ()
    """Tile stores of its slides: to compare the stain with that of the training."""
    overlap: Literal["refuse", "leave-out"] = "refuse"
    """Of patients whom the run was trained on, known by id, picture or features: refuse all, or leave them out."""
    subgroups: Annotated[tuple[str, ...], Option(commas=True)] = ()
    """Further columns of the table by which groups are judged; otherwise all that make groups."""
    operating: Annotated[tuple[str, ...], Option(commas=True)] = ("youden", "sensitivity=0.95", "specificity=0.95")
    """Cuts, chosen on the run's own patients: youden, sensitivity=SHARE, specificity=SHARE, cost=NUMBER."""
    horizons: Annotated[tuple[float, ...], Option(commas=True)] = ()
    """Of survival: times to judge risks at; otherwise when a quarter, half and three quarters of the events were."""

    def __post_init__(self) -> None:
        from mil.evaluation.decisions.rules import parse_rule
        from mil.report.options import check_horizons

        check(self)
        for rule in self.operating:
            parse_rule(rule)
        check_horizons(self.horizons)
        if self.out.suffix == ".csv" or (self.out / "config.toml").exists():
            raise RequestError(f"--out {self.out}: expected a folder for the evaluation, found a table or a run")
        if not self.items:
            raise RequestError("expected slides or bags, found none")
