"""What `gigamil doctor` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi.options import Option, check


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Options of `mil.watching.doctor.command.doctor`."""

    folder: Annotated[Path, Option(short="-f")] = Path()
    """Where outputs are to go: its disk, and the locks there, are tried; what is written for it is removed again."""
    online: bool = False
    """Ask the Hugging Face hub, too: whether it answers, whether the token is good, which gated encoders it opens."""

    def __post_init__(self) -> None:
        check(self)
