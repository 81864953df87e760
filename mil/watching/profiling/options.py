"""What `gigamil profile` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from wsi.errors import RequestError
from wsi.options import Option, check

PROFILED = ("tile", "extract", "train", "heatmap", "page")
"""The verbs that it can run: those whose outputs all lie in one folder, which another can stand in for."""


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Options of `mil.watching.profiling.command.profile`."""

    words: Annotated[tuple[str, ...], Option(argument="VERB [ARGUMENTS]...")]
    """tile, extract, train, heatmap or page, and what it is told, as one would type it; its outputs are thrown away."""
    seconds: Annotated[float, Option(above=0)] = 20.0
    """How long it runs; less where it is through before."""
    trace: Annotated[Path | None, Option(short="-t")] = None
    """File of the trace, in speedscope's form [default: profile-VERB.speedscope.json]."""
    tool: Literal["own", "py-spy"] = "own"
    """own: samples of one process, which does everything; py-spy: of all processes, as they would run (an extra)."""
    scratch: Path | None = None
    """Folder for the outputs until they are removed: on the disk that is meant; else the system's temporary one."""

    def __post_init__(self) -> None:
        check(self)
        verb = self.words[0] if self.words else "none"
        if verb not in PROFILED:
            raise RequestError(f"{verb}: expected a verb that can be profiled: {', '.join(PROFILED)}")
        if self.scratch is not None and not self.scratch.is_dir():
            raise RequestError(f"--scratch {self.scratch}: expected a folder that exists")

    @property
    def trace_path(self) -> Path:
        """Where the trace goes."""
        return self.trace or Path(f"profile-{self.words[0]}.speedscope.json")
