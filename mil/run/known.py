"""known.safetensors: what a run keeps of the slides that it was trained on, to tell what is unlike them.

Tensors, a row for each slide with tiles: ``means`` (S, D) float32, the mean of its features; ``mpp`` (S,) float64, the
um/px of its file; ``colour`` (S, 3) float64, the mean colour of its tissue in [0, 1]; ``tiles`` (S, 32, 9) float32, a
sketch of its tiles (`mil.data.same_tiles`), which earlier versions did not keep; NaN where not known. The
metadata's ``known`` is JSON: format, and for each slide image id, patient, center, and the hash of the bag's content.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.tensors import read_tensors
from mil.data.same_tiles import AXES
from mil.run.checks import damaged
from wsi.arrays import Floats
from wsi.errors import RequestError
from wsi.files.atomic import write_bytes
from wsi.files.documents import parse_json

FILE = "known.safetensors"
FORMAT = "gigamil-known-1"
KEPT_NOTHING = "an earlier version trained the run and kept nothing of its slides"
"""Why `read_known` returns None, for a person."""
KEY = "known"
"""Of the metadata: one, as their order in the file is not fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSlides:
    """Slides and what is known of them; the fields run in parallel."""

    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    centers: tuple[str, ...]
    """Empty where not known."""
    contents: tuple[str, ...]
    """Hash of features and coordinates of the bag; empty where not known."""
    means_SD: Floats
    mpp_S: Floats
    colour_SC: Floats
    tiles_SKA: Floats
    """Sketches; rows of NaN where a slide has fewer tiles. (S, 0, 9) where they were not kept."""

    def __len__(self) -> int:
        return len(self.image_ids)


def write_known(run: Path, known: KnownSlides) -> None:
    """Write the file of a run."""
    from safetensors.numpy import save

    rows = zip(known.image_ids, known.patient_ids, known.centers, known.contents, strict=True)
    tensors: dict[str, NDArray[Any]] = {
        "means": known.means_SD.astype(np.float32),
        "mpp": known.mpp_S.astype(np.float64),
        "colour": known.colour_SC.astype(np.float64),
        "tiles": known.tiles_SKA.astype(np.float32),
    }
    write_bytes(run / FILE, save(tensors, {KEY: json.dumps({"format": FORMAT, "slides": [list(row) for row in rows]})}))


def read_known(run: Path) -> KnownSlides | None:
    """Return what a run knows of its slides; None of a run of an earlier version, which kept nothing.

    Raises
    ------
    RequestError
        The file is damaged.
    """
    path = run / FILE
    if not path.exists():
        return None
    try:
        tensors, texts = read_tensors(path, RequestError)
        told: Any = parse_json(texts[KEY])
        rows = told["slides"]
        image_ids, patients, centers, contents = ([str(row[i]) for row in rows] for i in range(4))
        means, mpp, colour = (tensors[name].double().numpy() for name in ("means", "mpp", "colour"))
        tiles = tensors["tiles"].double().numpy() if "tiles" in tensors else np.zeros((len(rows), 0, AXES + 1))
        sizes = {len(means), len(mpp), len(colour), len(tiles)}
        shaped = means.ndim == 2 and tiles.ndim == 3 and tiles.shape[2] == AXES + 1
        if told["format"] != FORMAT or sizes != {len(rows)} or not shaped:
            raise ValueError(f"expected format {FORMAT} and a row for each slide")
        if not np.isfinite(means).all() or not rows:
            raise ValueError("expected finite features of one slide or more")
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise damaged(path, str(error)) from None
    return KnownSlides(
        image_ids=tuple(image_ids),
        patient_ids=tuple(patients),
        centers=tuple(centers),
        contents=tuple(contents),
        means_SD=means,
        mpp_S=mpp,
        colour_SC=colour,
        tiles_SKA=tiles,
    )
