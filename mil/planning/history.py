"""What earlier trainings in a folder tell: how many epochs models are trained for."""

import json
from pathlib import Path


def epochs_before(folder: Path | None) -> float:
    """Return the mean number of epochs of the finished models below a folder; 0 where there are none."""
    if folder is None or not folder.is_dir():
        return 0.0
    found = []
    for pattern in ("run/**/model.json", "runs/**/model.json"):
        for path in folder.glob(pattern):
            try:
                found.append(int(json.loads(path.read_text("utf-8"))["epochs_run"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return sum(found) / len(found) if found else 0.0
