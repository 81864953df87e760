"""Which of a slide's tiles are encoded: all, or the best of them by a score of the store, or some at random."""

from dataclasses import dataclass

import numpy as np

from wsi.arrays import Ints
from wsi.errors import RequestError, StoreError
from wsi.recipe import Recipe
from wsi.scores.completed import completed_score
from wsi.store.tile_store import TileStore

SELECTIONS = ("all", "darkness", "tissue", "texture", "random")


@dataclass(frozen=True, slots=True)
class Selection:
    """How tiles are chosen."""

    by: str = "all"
    """``darkness``, ``tissue`` (share of the tile), ``texture``: the highest; ``random``; ``all``."""
    tiles: int = 0
    """At most so many of each slide."""
    seed: int = 0
    """For ``random``."""

    def __post_init__(self) -> None:
        if self.by not in SELECTIONS:
            raise RequestError(f"--select {self.by}: expected one of {', '.join(SELECTIONS)}")
        if (self.by == "all") != (self.tiles == 0) or self.tiles < 0 or self.seed < 0:
            raise RequestError(
                f"--select {self.by} with --tiles-per-slide {self.tiles}: expected a number above 0 with "
                f"{', '.join(SELECTIONS[1:])}, and none with all"
            )

    def recipe(self) -> Recipe:
        """Return what shapes the bags; nothing where all tiles are taken."""
        if self.by == "all":
            return {}
        seed = {"seed": self.seed} if self.by == "random" else {}
        return {"select": {"by": self.by, "tiles": self.tiles, **seed}}

    def rows(self, store: TileStore) -> Ints | None:
        """Return the chosen rows of the store's tile list, ascending; None for all.

        The choice depends on the slide's own tiles, its id and the seed alone. Of equal scores the earlier tile goes
        first.

        Raises
        ------
        StoreError
            The store lacks the score, and its tiles' pixels do not tell it; or tiles cannot be read.
        """
        if self.by == "all" or store.n_tiles <= self.tiles:
            return None
        if self.by == "random":
            rng = np.random.default_rng([self.seed, *store.image_id.encode()])
            return np.sort(rng.choice(store.n_tiles, self.tiles, replace=False)).astype(np.int64)
        scores = store.tissue if self.by == "tissue" else completed_score(store, self.by)
        if scores is None or np.isnan(scores).any():
            raise StoreError(f"{store.path}: --select {self.by} needs that score of every tile: tile the slide again")
        best = np.argsort(-scores, kind="stable")[: self.tiles]
        return np.sort(best).astype(np.int64)
