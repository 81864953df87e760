"""What is laid over a slide: a number for each tile, on a scale, in colours, with the tiles that stand out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mil.heatmaps.options import Shown
from mil.heatmaps.tile_scores import TileScores, top_tiles
from wsi.arrays import Bools, Floats, Ints
from wsi.errors import RequestError

LOWEST_FACTOR = 0.25
"""Tiles of a quarter of the mean and less look alike."""
LEAST_HIGHEST_FACTOR = 4.0
"""An even slide must not glow."""
_SATURATED = 0.98
"""Share of coloured tiles whose push lies within the scale: a single tile must not make the others pale."""
_LEAST_PUSH = 0.1
"""Of the largest push: tiles that push less do not stand out."""
TOP_TILES = 8
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """Colours over tissue; all tell their order apart for colour-blind readers, too."""

    colours: tuple[str, ...]
    """From low to high."""
    middle: float = 0.0
    """The place, 0 to 1, where nothing is to be seen."""

    def __call__(self, place: Floats) -> tuple[Floats, Floats]:
        """Return colours (..., 3), 0 to 255, and opacities (..., 1) of places (...), 0 to 1.

        The farther from the middle the more opaque: tissue that matters little stays visible as it is.
        """
        stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in self.colours], np.float64)
        at = np.linspace(0, 1, len(stops))
        colours = np.stack([np.interp(place, at, channel) for channel in stops.T], axis=-1)
        away = np.abs(place - self.middle) / max(self.middle, 1 - self.middle)
        strength = away if self.middle else away**2
        return colours, (0.12 + 0.6 * strength)[..., None]


ATTENTION = Palette(colours=("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"))
"""viridis."""
DIRECTION = Palette(colours=("#08519c", "#6baed6", "#f7f7f7", "#fd8d3c", "#a63603"), middle=0.5)
"""Blue away, orange towards."""
DISAGREEMENT = Palette(colours=("#fff7f3", "#fa9fb5", "#7a0177"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One map of N tiles."""

    title: str
    legend: str
    """What the numbers at the colours are."""
    palette: Palette
    place_N: Floats
    """Along the colours, 0 to 1; NaN where a tile is not coloured."""
    ticks: tuple[tuple[float, str], ...]
    """Places along the colours, and what they mean."""
    top_N: Ints
    """Positions of the tiles that stand out, the most first."""
    top_said: tuple[str, ...]
    """What is written above each."""
    gallery: str
    """What they are."""
    note: str = ""
    """A sentence beneath."""


def layers_of(scores: TileScores, shown: Shown) -> tuple[Layer, ...]:
    """Return the maps that are asked for; of a head without attention the directions alone.

    Raises
    ------
    RequestError
        There would be none, or a class is not one of the run's.
    """
    coloured_N = coloured(scores, shown.least_tissue)
    found = [attention_layer(scores, shown, coloured_N)] if scores.attends else []
    found += [push_layer(scores, name, coloured_N) for name in dict.fromkeys(shown.classes)]
    if shown.disagreement and scores.disagreement_N is not None:
        found.append(disagreement_layer(scores, scores.disagreement_N, coloured_N))
    if not found:
        raise RequestError(
            f"the run's head has no attention: give --class ({', '.join(scores.outputs)}) to see which way tiles push, "
            "or train a head that has, such as gated_abmil"
        )
    return tuple(found)


def coloured(scores: TileScores, least_tissue: float) -> Bools:
    """Return which tiles are coloured (N,); where none has so much tissue, all."""
    enough_N = scores.tissue_N >= least_tissue
    return enough_N if enough_N.any() else np.ones_like(enough_N)


def attention_layer(scores: TileScores, shown: Shown, coloured_N: Bools) -> Layer:
    """Return where the models look, on the scale asked for."""
    place_N, ticks, legend = _SCALES[shown.scale](scores, coloured_N)
    above = int((coloured_N & (scores.factor_N > 1)).sum())
    top_N = top_tiles(np.where(coloured_N, scores.attention_N, -1), min(TOP_TILES, max(above, 1)))
    hidden = float(scores.attention_N[~coloured_N].sum())
    note = ""
    if not coloured_N.all():
        note = f"Tiles with less than {shown.least_tissue:.0%} tissue are not coloured"
        note += f"; {hidden:.0%} of the attention lies on them." if hidden >= 0.005 else "."
    models = "the mean of the models" if scores.models > 1 else "one model"
    return Layer(
        title=f"Attention ({models})",
        legend=legend,
        palette=ATTENTION,
        place_N=np.where(coloured_N, place_N, np.nan),
        ticks=ticks,
        top_N=top_N,
        top_said=tuple(f"{times(scores.factor_N[i])}  {_where(scores, i)}" for i in top_N),
        gallery="Tiles with the highest attention, and how many times the slide's mean it is",
        note=note,
    )


def push_layer(scores: TileScores, output: str, coloured_N: Bools) -> Layer:
    """Return which way tiles push one output; 0 in the middle of the colours."""
    push_N = scores.push_of(output)
    limit = _round_up(float(np.quantile(np.abs(push_N[coloured_N]), _SATURATED)))
    towards, away = _ways(scores, output)
    size_N = np.where(coloured_N, np.abs(push_N), 0)
    top_N = top_tiles(size_N, min(TOP_TILES, int((size_N > _LEAST_PUSH * size_N.max()).sum())))
    ticks = [(0.5 + part / 2, _signed(part * limit)) for part in (-1, -0.5, 0, 0.5, 1)]
    return Layer(
        title=f"{towards[0].upper()}{towards[1:]} (orange), {away} (blue)",
        legend="push of\na tile",
        palette=DIRECTION,
        place_N=np.where(coloured_N, np.clip(0.5 + push_N / limit / 2, 0, 1), np.nan),
        ticks=tuple(ticks),
        top_N=top_N,
        top_said=tuple(f"{_signed(push_N[i])}  {_where(scores, i)}" for i in top_N),
        gallery=f"Tiles that push most: + {towards}, \N{MINUS SIGN} {away}",
        note=scores.push_how,
    )


def disagreement_layer(scores: TileScores, spread_N: Floats, coloured_N: Bools) -> Layer:
    """Return how far the models' factors are apart."""
    limit = max(1.0, _round_up(float(spread_N[coloured_N].max())))
    return Layer(
        title=f"Disagreement of the {scores.models} models",
        legend=f"standard\ndeviation of\nthe {TIMES} mean",
        palette=DISAGREEMENT,
        place_N=np.where(coloured_N, spread_N / limit, np.nan),
        ticks=tuple((part, f"{part * limit:g}") for part in (0, 0.5, 1)),
        top_N=np.zeros(0, np.int64),
        top_said=(),
        gallery="",
        note="Where it is high, what one model looks at is not what the others look at.",
    )


def times(factor: float) -> str:
    """Return a factor as text."""
    return f"{factor:.0f}{TIMES}" if factor >= 99.5 else f"{factor:.1f}{TIMES}"


_Scaled = tuple[Floats, tuple[tuple[float, str], ...], str]


def _by_factor(scores: TileScores, coloured_N: Bools) -> _Scaled:
    low = np.log2(LOWEST_FACTOR)
    highest = max(LEAST_HIGHEST_FACTOR, float(scores.factor_N[coloured_N].max()))
    high = float(np.ceil(np.log2(highest)))
    powers = np.arange(low, high + 1)
    powers = powers[:: int(np.ceil(len(powers) / 8))]
    named = [f"{2**power:g}{TIMES}" if power >= 0 else f"1/{2**-power:g}{TIMES}" for power in powers]
    ticks = [(float((power - low) / (high - low)), name) for power, name in zip(powers, named, strict=True)]
    place_N = (np.log2(np.maximum(scores.factor_N, LOWEST_FACTOR)) - low) / (high - low)
    return np.clip(place_N, 0, 1), tuple(ticks), "attention,\ntimes the\nslide's mean"


def _by_rank(scores: TileScores, coloured_N: Bools) -> _Scaled:
    ticks = tuple((percent / 100, f"{percent}") for percent in (0, 25, 50, 75, 100))
    return scores.percentile_N, ticks, "attention,\npercentile\nin this slide"


def _by_share(scores: TileScores, coloured_N: Bools) -> _Scaled:
    limit = _round_up(float(scores.attention_N[coloured_N].max()))
    ticks = tuple((part, f"{100 * part * limit:.3g} %") for part in (0, 0.5, 1))
    return np.clip(scores.attention_N / limit, 0, 1), ticks, "share of\nthe slide's\nattention"


_SCALES: dict[str, Callable[[TileScores, Bools], _Scaled]] = {
    "factor": _by_factor,
    "rank": _by_rank,
    "absolute": _by_share,
}


def _ways(scores: TileScores, output: str) -> tuple[str, str]:
    if output == "value":
        return "raises the value", "lowers it"
    if output == "risk":
        return "raises the risk", "lowers it"
    return f"towards {output}", "away from it"


def _signed(push: float) -> str:
    return f"{push:+.2g}".replace("-", "\N{MINUS SIGN}") if push else "0"


def _where(scores: TileScores, position: int) -> str:
    row, column = scores.tiles_yx[position]
    return f"row {row}, col {column}"


def _round_up(value: float) -> float:
    """Return the least of a few round numbers times a power of ten that is no less."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9)))
