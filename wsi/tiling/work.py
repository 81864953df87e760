"""The work folder inside an unfinished store: what the tasks of one slide leave for each other, every file of it.

recipe.json                   what the store is made by, so that only that is taken up again
overview-<row>-<column>.npz   a part of the overview, and its damage
tissue.npz, tissue.json       mask, and what is known of each tile of the grid; facts for the store's metadata
receipt-<row>-<column>.json   what a region's task did: its last word
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.errors import StoreError
from wsi.files.atomic import replacing, write_text
from wsi.files.replace import discard, remove
from wsi.progress.step_times import StepTimes
from wsi.recipe import Recipe, canonical
from wsi.store.grid import Grid
from wsi.store.layout import shard_path, write_image_arrays
from wsi.store.metadata import is_our_partial
from wsi.store.shards import ShardFile, ShardWriter
from wsi.units import YX


@dataclass(slots=True)
class Receipt:
    """What a region's task did; small, and kept in the work folder so that a resumed run knows it, too."""

    region: YX
    n_tiles: int = 0
    bytes_written: int = 0
    shards: list[int] = field(default_factory=list)
    """Levels of which a shard was written: a level may end before the region's tiles, or hold none of them."""
    kept: list[int] = field(default_factory=list)
    """Places of the stored tiles in the level-0 shard."""
    damaged: list[tuple[int, int]] = field(default_factory=list)
    """Tiles (row, column) that hold pixels that could not be decoded."""
    scored: list[tuple[int, int]] = field(default_factory=list)
    """Tiles (row, column) whose pixels were scored, in the order of `scores`."""
    scores: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by step, as `wsi.progress.step_times` counts it."""

    def wrote(self, shards: Mapping[int, ShardWriter]) -> None:
        """Note the shards that were written, by level."""
        self.bytes_written += sum(shard.size for shard in shards.values())
        self.shards += [level for level, shard in shards.items() if shard.size]
        if 0 in shards:
            self.kept = shards[0].kept
            self.n_tiles = len(self.kept)

    def score(self, tile: tuple[int, int], scores: dict[str, float]) -> None:
        """Note the scores of a tile's pixels."""
        self.scored.append(tile)
        for name, value in scores.items():
            self.scores.setdefault(name, []).append(round(value, 6))

    def damage(self, tile: tuple[int, int]) -> None:
        """Note a damaged tile, once."""
        if tile not in self.damaged:
            self.damaged.append(tile)


@dataclass(frozen=True, slots=True)
class Work:
    """The work folder of one slide."""

    store: Path
    """The unfinished store."""
    grid: Grid

    @property
    def folder(self) -> Path:
        """Gone when the store is finished."""
        return self.store / ".work"

    def start(self, recipe: Recipe, codecs: tuple[str, ...]) -> None:
        """Make the unfinished store, or take up one that an earlier run with the same recipe left."""
        marker, wanted = self.folder / "recipe.json", canonical(recipe)
        if marker.is_file() and marker.read_text("utf-8") == wanted:
            return
        remove(self.store, is_our_partial)
        self.folder.mkdir(parents=True)  # the mark, before anything else
        write_image_arrays(self.store, self.grid, codecs)
        write_text(marker, wanted)

    def end(self) -> None:
        """Remove the folder."""
        discard(self.folder)

    def _part(self, place: YX) -> Path:
        return self.folder / f"overview-{place.y}-{place.x}.npz"

    def has_part(self, place: YX) -> bool:
        """Tell whether a part of the overview is made: a band's, or a region's where the slide is decoded once."""
        return self._part(place).is_file()

    def write_part(self, place: YX, rgb: RGB, damaged: NDArray[np.uint8]) -> None:
        """Keep a part of the overview: uint8 (h, w, 3), and its damage, uint8 (h, w)."""
        _write_arrays(self._part(place), {"rgb": rgb, "damaged": damaged})

    def overview(self, shape: YX, parts: YX) -> tuple[RGB, NDArray[np.uint8]]:
        """Return the whole overview, uint8 (h, w, 3), and its damage, uint8 (h, w), out of its parts."""
        rgb, damaged = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
        y = 0
        for row in range(parts.y):
            x = 0
            for column in range(parts.x):
                with np.load(self._part(YX(row, column))) as part:
                    lost = part["damaged"]  # each look reads the file
                    height, width = lost.shape
                    rgb[y : y + height, x : x + width] = part["rgb"]
                    damaged[y : y + height, x : x + width] = lost
                x += width
            y += height
        return rgb, damaged

    def write_tissue(self, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
        """Keep what was found on the overview."""
        _write_arrays(self.folder / "tissue.npz", arrays)
        write_text(self.folder / "tissue.json", json.dumps(facts))

    def tissue(self, *names: str) -> dict[str, NDArray[Any]]:
        """Return what was found on the overview, all of it or the arrays that are named.

        ``mask``; ``fractions``, ``wanted``, ``listed`` and ``score_<name>`` of every tile of the grid.
        """
        with np.load(self.folder / "tissue.npz") as file:
            return {name: file[name] for name in names or file.files}

    def tissue_facts(self) -> dict[str, Any]:
        """Return what is told of the tissue in the store's metadata."""
        facts: dict[str, Any] = json.loads((self.folder / "tissue.json").read_text("utf-8"))
        return facts

    def _receipt(self, region: YX) -> Path:
        return self.folder / f"receipt-{region.y}-{region.x}.json"

    def write_receipt(self, receipt: Receipt, times: StepTimes) -> None:
        """Keep a region's receipt and add the times to it: the last thing that its task does."""
        for step, seconds in times.seconds.items():
            receipt.seconds[step] = receipt.seconds.get(step, 0.0) + seconds
        write_text(self._receipt(receipt.region), json.dumps(asdict(receipt)))

    def forget(self, region: YX) -> None:
        """Remove a region's receipt: a run that is killed from here on makes the region anew."""
        discard(self._receipt(region))

    def receipt(self, region: YX) -> Receipt | None:
        """Return the receipt of a region that is finished and whose shards are intact, else None."""
        try:
            stored = json.loads(self._receipt(region).read_text("utf-8"))
            receipt = Receipt(YX(*stored.pop("region")), **stored)
            receipt.damaged = [(row, column) for row, column in receipt.damaged]
            receipt.scored = [(row, column) for row, column in receipt.scored]
            for level in receipt.shards:
                ShardFile(shard_path(self.store, level, *region), self.grid.shard_tiles(level) ** 2)
        except (StoreError, FileNotFoundError, ValueError, TypeError):
            return None
        return receipt


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle
