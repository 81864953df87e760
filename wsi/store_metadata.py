"""What a tile store says of itself, read from its zarr.json and checked once, at the door."""

import json
import os
from pathlib import Path


def is_our_store(path: Path) -> bool:
    """Tell whether a folder is a tile store that this package wrote, finished or not: it says by which recipe."""
    try:
        own = json.loads((path / "zarr.json").read_text("utf-8"))["attributes"]["gigamil"]
        return isinstance(own["recipe"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def is_our_partial(path: Path) -> bool:
    """Tell whether a folder is a tile store that a run of ours did not finish; an empty one counts, too."""
    if path.is_symlink() or not path.is_dir():
        return False
    return (path / ".work").is_dir() or is_our_store(path) or not os.listdir(path)
