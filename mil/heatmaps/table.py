"""Tile scores as a table."""

import numpy as np

from mil.heatmaps.tile_scores import TileScores
from wsi.arrays import Floats
from wsi.files.csv_table import csv_text


def score_table(scores: TileScores) -> str:
    """Return the scores as CSV, a row for each tile.

    Columns: tile_row, tile_column, l0_y and l0_x (level-0 pixels of the slide), attention (sums to 1), percentile (0 to
    1), factor (times the slide's mean), tissue (share), disagreement (of the factor, over models, where there are
    several), and push_<output> where directions are told.
    """
    named: dict[str, tuple[Floats, str]] = {
        "attention": (scores.attention_N, ".9g"),
        "percentile": (scores.percentile_N, ".6f"),
        "factor": (scores.factor_N, ".6g"),
        "tissue": (np.asarray(scores.tissue_N, np.float64), ".4f"),
    }
    if scores.disagreement_N is not None:
        named["disagreement"] = scores.disagreement_N, ".6g"
    if scores.push_CN is not None:
        named |= {f"push_{name}": (own_N, ".6g") for name, own_N in zip(scores.outputs, scores.push_CN, strict=True)}
    columns = [[format(value, digits) for value in values.tolist()] for values, digits in named.values()]
    places = zip(*scores.tiles_yx.T.tolist(), *scores.l0_yx.T.tolist(), strict=True)
    rows = ([*place, *row] for place, row in zip(places, zip(*columns, strict=True), strict=True))
    return csv_text([["tile_row", "tile_column", "l0_y", "l0_x", *named], *rows])
