"""What a run, or its evaluation on another cohort, knows of itself: what the items of a checklist are answered from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mil.checklists.use import FoldUse, use_of_folds
from mil.data.flow import Flow
from mil.run.checks import run_json
from mil.run.evidence import Evidence
from mil.run.folder import NESTED
from mil.run.record import Record
from wsi.recipe import Json


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run tells of an item."""

    text: str
    where: str
    """In which of its files or sections it stands: nothing is told that stands nowhere."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """An evaluation on another cohort, beside the run."""

    shift: Json
    """Against the training's cohort; empty where nothing can be compared."""
    recalibration: Sequence[Json]
    overlap: Sequence[str]
    """Who was left out as known to the run, one line for each way."""
    own: Json
    """The metrics of the run's own head on its own patients."""


@dataclass(frozen=True)
class Known:
    """All of it."""

    evidence: Evidence
    record: Record
    flow: Flow | None
    """Of the patients of ``evidence``; None where an earlier version did not keep it."""
    decided: Json = field(default_factory=dict)
    """What decisions.json holds."""
    regions: bool = False
    """Whether the attention was compared with drawn regions."""
    elsewhere: Elsewhere | None = None
    spread: Json = field(default_factory=dict)
    """What spread.json holds, or of an evaluation its ``spread``; empty where it was not measured."""

    @cached_property
    def recipe(self) -> Json:
        """The run's recipe."""
        found: Json = self.evidence.config["recipe"]
        return found

    @cached_property
    def bags(self) -> Json:
        """The recipe of the bags; empty for bags of other tools."""
        import json

        found: Json = json.loads(self.evidence.config["about"]["bag_recipe"])
        return found

    @property
    def tiling(self) -> Json:
        """The recipe of the tiles; empty where the bags do not tell it."""
        found = self.bags.get("tiling")
        return found if isinstance(found, dict) else {}

    @cached_property
    def use(self) -> list[FoldUse]:
        """Who trained, chose the epoch and was tested, fold by fold; nothing of another cohort."""
        return [] if self.elsewhere else use_of_folds(self.evidence)

    @cached_property
    def nested(self) -> Json:
        """What nested.json of the run holds; empty where no head was chosen on inner folds."""
        path = self.evidence.run.path / NESTED
        found: Json = run_json(path) if self.recipe.get("nested") and path.exists() else {}
        return found

    @property
    def unit(self) -> str:
        """What is judged."""
        return self.evidence.run.unit

    @property
    def config(self) -> str:
        """Where the recipe stands."""
        return self.of_run("config.toml")

    def of_run(self, name: str) -> str:
        """Return the name of a file of the run, told apart from the evaluation's."""
        return f"{name} of the run" if self.elsewhere else name

    def metrics(self, key: str) -> str:
        """Return where a field of the metrics stands."""
        return f"evaluation.json: metrics.{key}" if self.elsewhere else f"metrics.json: {key}"

    def decisions(self, key: str) -> str:
        """Return where a field of the decisions stands."""
        return f"evaluation.json: decisions.{key}" if self.elsewhere else f"decisions.json: {key}"

    def uncertainties(self, key: str) -> str:
        """Return where a field of the uncertainties stands."""
        return f"evaluation.json: spread.{key}" if self.elsewhere else f"spread.json: {key}"

    @property
    def scores(self) -> str:
        """The table of what is told."""
        return "scores.csv" if self.elsewhere else "oof.csv"

    @property
    def flow_at(self) -> str:
        """Where the flow of the patients stands."""
        if self.flow is None:
            return self.scores
        return "evaluation.json: flow; report.html" if self.elsewhere else "record.json: flow; report.html"
