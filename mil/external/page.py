"""The page of an evaluation on another cohort: the run's report, with what sets the cohort apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mil.checklists.known import Elsewhere as Judgement
from mil.checklists.known import Known
from mil.checklists.page import checklists_page, checklists_table, flowing
from mil.data.flow import Flow
from mil.evaluation.decisions.rules import Rule, parse_rule
from mil.evaluation.refusal.conformal import ALPHAS
from mil.evaluation.subgroups import Column
from mil.external.scoring import Elsewhere
from mil.report.by_target.measured import measured
from mil.report.by_target.shown import Shown
from mil.report.decisions.decided import Decided, decided, subgrouped
from mil.report.report import page
from mil.report.spread.elsewhere import told_elsewhere
from mil.run.evidence import Evidence
from mil.run.record import read_record
from wsi.recipe import Json


@dataclass(frozen=True, kw_only=True)
class External:
    """What the template ``external.html`` shows beside what every report does."""

    found: Elsewhere
    name: str
    """Of the cohort."""
    overlap: Sequence[str]
    """Who was left out, one line for each way."""
    flow: Flow
    """Who of its table was judged, and why others were not."""
    shift: Json
    recalibration: Sequence[Json]
    operating: Sequence[str]
    horizons: Sequence[float] = ()
    """Of survival, where asked for."""
    own: Evidence
    """The run's evidence of its own patients."""
    beside: Sequence[str] = ()
    """The other evaluations of this cohort in the same folder."""
    columns: Sequence[Column]
    """Of the manifest, by which patients are grouped; for those who count."""

    @cached_property
    def decided(self) -> Decided:
        """Return what can be decided, by what was chosen on the run's own patients."""
        answered, by_run = self.found.answered, self.found.by_run
        sets = {alpha: by_run.sets(answered.told_PC, alpha) for alpha in ALPHAS} if answered.truth.groups else {}
        return decided(
            answered,
            by_run.chosen([parse_rule(text) for text in self.operating]),
            sets,
            chosen_on="on the run's own patients, out of fold, and applied to these as it was",
            prevalence="among the run's own patients",
            set_by="the run's own patients, out of fold",
            grouped=subgrouped(
                answered,
                self.found.patients.blind_PC[self.found.evidence.scored_P],
                by_run.chosen([Rule("youden")])[0][1],
                self.columns,
            ),
        )

    def known(self, own: Evidence) -> Known:
        """Return what is known of the evaluation; ``own``: the run's evidence of its own patients."""
        elsewhere = Judgement(self.shift, self.recalibration, self.overlap, own.own)
        return Known(
            self.found.evidence,
            read_record(own.run.path),
            self.flow,
            self.decided.told,
            elsewhere=elsewhere,
            spread=self.spread,
        )

    @cached_property
    def by_target(self) -> Shown | None:
        """Return what the target has beside the metrics of all, by what the run's own patients gave."""
        return measured(self.found.evidence, self.own, self.horizons)

    @cached_property
    def spread(self) -> Json:
        """Return how far the first number would move, with what."""
        found = self.found
        return told_elsewhere(found.evidence, self.own, found.told_FPC, found.patients.blind_PC, self.beside)

    def told(self) -> Json:
        """Return the numbers, for evaluation.json."""
        evidence = self.found.evidence
        noted = {*evidence.metrics["warnings"], *evidence.unused()}
        return {
            "metric": evidence.truth.shown[0],
            "verdict": evidence.verdict(self.spread),
            "warnings": [line for line in evidence.warnings() if line not in noted],
            "unit": evidence.run.unit,
            "flow": self.flow.as_dict(),
            "metrics": evidence.metrics,
            "spread": self.spread,
            "decisions": self.decided.told,
            **({} if self.by_target is None else {"by_target": self.by_target.told}),
            "left_out": list(self.overlap),
            "shift": self.shift,
            "recalibration_in_the_large": list(self.recalibration),
        }


def external_pages(own: Evidence, external: External) -> tuple[str, str, str]:
    """Return report.html, checklists.html and checklists.csv; ``own``: the run's evidence of its own patients."""
    flow = flowing(external.known(own))
    text = page(
        external.found.evidence,
        decided=external.decided,
        by_target=external.by_target,
        template="mil/external/external.html",
        spread=external.spread,
        flow=flow,
        external=external,
        within=external.own,
    )
    return text, checklists_page(flow, external.name), checklists_table(flow)
