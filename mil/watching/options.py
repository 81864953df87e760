"""What `gigamil status` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi.errors import RequestError
from wsi.options import Option, check


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics for Prometheus."""

    metrics: Annotated[int | None, Option(least=0, most=65535)] = None
    """Serve them at this port (0: a free one, which is printed), until all is done."""
    metrics_host: str = "127.0.0.1"
    """Address to serve them at; 0.0.0.0 shows them to the whole network."""
    metrics_file: Path | None = None
    """Write them into this file (*.prom), whole each time: for the textfile collector of node_exporter."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions(Metrics):
    """Options of `mil.watching.command.status`."""

    cohort: Annotated[Path, Option(argument="COHORT.toml")]
    """A cohort file; or an event log (GIGAMIL_EVENTS), or a folder with an events.jsonl."""
    follow: bool = False
    """Go on showing it until all is done, or until something failed and nobody works any more. Ctrl-C ends it."""
    every: Annotated[float, Option(above=0)] = 5.0
    """Seconds between two looks."""
    stuck_after: Annotated[float, Option(above=0)] = 900.0
    """Seconds without a sign after which what runs is called stuck."""

    def __post_init__(self) -> None:
        check(self)
        if self.metrics_host != "127.0.0.1" and self.metrics is None:
            raise RequestError("--metrics-host needs --metrics: the port to serve at")

    @property
    def goes_on(self) -> bool:
        """Whether it looks again and again."""
        return self.follow or self.metrics is not None
