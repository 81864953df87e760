"""Which other runs of the same patients and target stand beside a run: how often this cohort was looked at.

Whoever tries ten ways and tells of the best one tells of luck. What stands in the same folder can be counted; what was
deleted, or lies elsewhere, cannot.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from features.folds import splits_records
from mil.run.folder import RunFolder
from wsi.errors import GigamilError

ALIKE = 0.5
"""Share of the larger run's patients, with the same truth, from which on two runs are of one cohort."""
REPEATS = "repeats.json"


@dataclass(frozen=True, slots=True)
class Beside:
    """Runs of one cohort in one folder; the repeats of a run are one."""

    names: tuple[str, ...]
    """Of their folders, the run itself among them."""

    @property
    def looks(self) -> int:
        """Return how often the cohort was looked at."""
        return len(self.names)


def runs_beside(run: RunFolder) -> Beside:
    """Return the runs of the run's patients and target in its folder; itself where it knows of no other."""
    own = run.path.resolve()
    own = own.parent if is_repeat(own) else own
    mine = _patients(run)
    found = {own.name}
    for folder in _folders(own.parent):
        if folder.name != own.name and mine and _of_cohort(folder, mine, run):
            found.add(folder.name)
    return Beside(tuple(sorted(found)))


def is_repeat(path: Path) -> bool:
    """Tell whether a run is one of the repeats of a training."""
    return path.name.removeprefix("repeat").isdigit() and path.name.startswith("repeat") and (
        (path.parent / REPEATS).exists() or (path.parent / "repeat0" / "config.toml").exists()
    )  # fmt: skip


def _folders(parent: Path) -> Iterable[Path]:
    """Return what may be a run, or hold the repeats of one."""
    found = {config.parent for config in parent.glob("*/config.toml")}
    return sorted(found | {config.parent.parent for config in parent.glob("*/repeat0/config.toml")})


def _of_cohort(folder: Path, mine: frozenset[tuple[str, str]], run: RunFolder) -> bool:
    other = RunFolder(folder / "repeat0" if not (folder / "config.toml").exists() else folder)
    try:
        if other.predicts is not run.predicts or other.recipe.get("unit") != run.recipe.get("unit"):
            return False
        theirs = _patients(other)
    except (GigamilError, OSError):  # of another tool, damaged, or being written
        return False
    return len(mine & theirs) >= ALIKE * max(len(mine), len(theirs))


def _patients(run: RunFolder) -> frozenset[tuple[str, str]]:
    """Return the run's patients with what is true of them, as far as its splits.csv tells."""
    table = run.path / "splits.csv"
    if not table.exists():
        return frozenset()
    return frozenset((row["patient_id"], row.get("label", "")) for row in splits_records(table, "patient_id"))
