"""What is written of each slide by a run: models loaded once, what is there skipped or refused, a failure one line."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from features.bags.bag import BagHeader
from mil.data.splits import known_slides
from mil.heatmaps.options import GeojsonOptions, HeatmapOptions
from mil.heatmaps.slides import Pair
from mil.models.ensemble import load_ensemble
from mil.run.folder import RunFolder
from wsi.cohort.manifest import check_id
from wsi.errors import GigamilError, StoreError
from wsi.progress.outcome import Outcome, Status
from wsi.recipe import Recipe, recipe_hash
from wsi.store.tile_store import TileStore

Options = TypeVar("Options", HeatmapOptions, GeojsonOptions)


class EachSlide(ABC, Generic[Options]):
    """Writes a file for each slide into the folder ``options.out``."""

    suffix: ClassVar[str]
    """Of the file that is named by the slide's id."""

    def __init__(self, options: Options) -> None:
        self.options: Options = options
        run = RunFolder(options.run)
        self.ensemble, self.known = load_ensemble(run, options.device), known_slides(run.path)

    def __call__(self, pair: Pair) -> Outcome:
        """Write one slide, unless it is there."""
        header, store = pair
        image_id = header.image_id
        try:
            if store is None:
                raise StoreError("no tile store of this slide was found")
            target = self.options.out / f"{check_id(image_id, str(header.path))}{self.suffix}"
            stamp = self._stamp(header, store)
            if self.is_there(target, stamp):
                return Outcome(image_id, Status.SKIPPED)
            return self.write(header, store, target, stamp)
        except (GigamilError, OSError, KeyError, ValueError) as error:
            return Outcome(image_id, Status.FAILED, str(error))

    def _stamp(self, header: BagHeader, store: TileStore) -> str:
        """Return the hash of everything that shapes the file."""
        made = {"run": self.ensemble.run.config["recipe_hash"], "bag": header.recipe_hash, "tiles": header.n_tiles}
        return recipe_hash({**made, **self.asked(), "store": store.recipe_hash, "image_id": header.image_id})

    @abstractmethod
    def asked(self) -> Recipe:
        """Return what of the options shapes the file, and the form that it has."""

    @abstractmethod
    def is_there(self, target: Path, stamp: str) -> bool:
        """Tell whether all that is asked for is there; raise `RequestError` where something else is."""

    @abstractmethod
    def write(self, header: BagHeader, store: TileStore, target: Path, stamp: str) -> Outcome:
        """Write it, and say what was done."""
