"""What models say of a slide's tiles, as layers of its page."""

import numpy as np

from mil.heatmaps.tile_scores import TileScores
from wsi.arrays import Floats
from wsi.recipe import Json
from wsi.store.tile_store import TileStore
from wsi.viewing.documents import Kind, layer

_LOWEST_FACTOR, _LEAST_HIGHEST = 0.25, 4.0
"""Of the slide's mean: tiles below look alike, and an even slide must not glow."""
_SATURATED = 0.98
"""Share of tiles whose push lies within the colours: a single tile must not make the others pale."""


def run_layers(scores: TileScores, store: TileStore, least_tissue: float) -> list[Json]:
    """Return the layers of a slide; the one that is shown first stands first.

    Tiles with less than ``least_tissue`` of tissue have no value; where no tile has so much, all have theirs.
    """
    enough_N = store.tissue[scores.store_rows_N] >= least_tissue
    shown_N = enough_N if enough_N.any() else np.ones_like(enough_N)
    left_out = "" if shown_N.all() else f" Tiles with less than {least_tissue:.0%} tissue are not coloured."

    def made(
        key: str, name: str, kind: Kind, values_N: Floats, how: str, window: tuple[float, float], **more: object
    ) -> Json:
        values = np.full(store.n_tiles, np.nan)
        values[scores.store_rows_N] = np.where(shown_N, values_N, np.nan)
        return layer(key, name, kind, values, how + left_out, window=window, **more)  # type: ignore[arg-type]

    found = []
    if scores.attends:
        models = f"the mean of {scores.models} models" if scores.models > 1 else "one model"
        highest = max(_LEAST_HIGHEST, float(scores.factor_N[shown_N].max()))
        window = (_LOWEST_FACTOR, float(2 ** np.ceil(np.log2(highest))))
        how = f"How many times the slide's mean attention a tile gets ({models})."
        found.append(made("factor", "Attention, times the mean", "factor", scores.factor_N, how, window, log=True))
        how = f"Rank of the attention among the slide's tiles, 0 to 1 ({models}); the order, not the amount."
        found.append(made("rank", "Attention, rank", "rank", scores.percentile_N, how, (0.0, 1.0)))
        how = f"Share of the slide's whole attention ({models})."
        window = (0.0, float(scores.attention_N[shown_N].max()))
        found.append(made("absolute", "Attention, share", "absolute", scores.attention_N, how, window))
    for place, output in enumerate(scores.outputs if scores.push_CN is not None else ()):
        push_N = scores.push_of(output)
        limit = float(np.quantile(np.abs(push_N[shown_N]), _SATURATED)) or 1.0
        more = {"class_name": output, "centre": 0.0}
        window = (-limit, limit)
        found.append(made(f"push_{place}", towards(output), "push", push_N, scores.push_how, window, **more))
    if scores.disagreement_N is not None:
        how = f"Standard deviation over {scores.models} models of a tile's attention, times the mean."
        window = (0.0, max(1.0, float(scores.disagreement_N[shown_N].max())))
        found.append(
            made("disagreement", "Disagreement of the models", "disagreement", scores.disagreement_N, how, window)
        )
    return found


def towards(output: str) -> str:
    """Return which way a push above 0 goes, for a reader."""
    return {"value": "Raises the value", "risk": "Raises the risk"}.get(output, f"Towards {output}")
