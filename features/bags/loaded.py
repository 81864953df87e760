"""A bag read whole: its features, where they come from on the slide, and what the file says of itself."""

from pathlib import Path
from typing import NamedTuple

from features.bags.bag import BagHeader, feature_rows, read_coords, read_header
from wsi.arrays import Features, Ints


class Bag(NamedTuple):
    """One slide's features; ``features_ND, l0_yx, header = read_bag(path)`` takes it apart."""

    features_ND: Features
    """(N, D) float16 or float32, one row a tile; memory-mapped where the file allows."""
    l0_yx: Ints
    """(N, 2) int64, the tiles' top-left corners (y, x) in level-0 pixels of the slide."""
    header: BagHeader
    """Image id, encoder, um/px, recipe, provenance."""


def read_bag(path: Path | str, l0_mpp: float | None = None) -> Bag:
    """Read a bag of ours, or of CLAM, TRIDENT or STAMP; its content is checked against what was written.

    Parameters
    ----------
    path
        The bag's file (``*.h5``).
    l0_mpp
        um/px of the slide's level 0: needed where the file gives micrometres (STAMP's do), and only there.

    Returns
    -------
    features (N, D), coordinates (N, 2) int64 as (y, x) level-0 pixels, and the header

    Raises
    ------
    BagError
        The file is missing, damaged or no bag, a feature is not finite, or ``l0_mpp`` is needed.
    """
    path = Path(path)
    header = read_header(path)
    return Bag(feature_rows(path), read_coords(path, l0_mpp), header)
