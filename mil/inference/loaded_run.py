"""A finished run, loaded to be asked: probabilities and attention of bags, in memory or by path."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from features.bags.bag import BagHeader, find_bags, read_header
from features.bags.loaded import Bag
from mil.data.cohort import Cohort, load_rows
from mil.data.splits import known_slides
from mil.heatmaps.heatmap import slide_picture
from mil.heatmaps.picture import draw
from mil.heatmaps.tile_scores import TileScores, tile_scores
from mil.inference.judge import judge
from mil.models.ensemble import Ensemble, check_bags_fit, load_ensemble, makings_of
from mil.ragged.packing import Rows
from mil.run.folder import RunFolder
from wsi.arrays import Floats
from wsi.errors import RequestError
from wsi.progress.outcome import Silent
from wsi.store.tile_store import TileStore

if TYPE_CHECKING:
    from pandas import DataFrame
    from PIL.Image import Image

Asked = Bag | Path | str | Rows
"""A bag: as `features.read_bag` gives it, by path, or its features (n, D) alone."""
Several = list[Bag] | list[Path] | list[str] | list[Rows] | list[Asked]


@dataclass(frozen=True, slots=True)
class _Known:
    """One bag, ready to be asked about."""

    rows: Rows
    header: BagHeader | None
    """None for features alone."""


class LoadedRun:
    """The models of a finished run, in memory.

    Parameters
    ----------
    ensemble
        Every model of the run's head: `mil.models.ensemble.load_ensemble`.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble, self._run = ensemble, ensemble.run
        self._trained_on = known_slides(self.path)

    def __repr__(self) -> str:
        return f"LoadedRun({str(self.path)!r}, {self._run.head}, {', '.join(self.classes)})"

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._run.path

    @property
    def classes(self) -> tuple[str, ...]:
        """What is told, by name: the classes or labels, ``value``, or ``risk``."""
        return self._run.classes

    @property
    def recipe(self) -> dict[str, Any]:
        """What the run was made by: every option that shaped it, and what it was applied to."""
        return dict(self._run.recipe)

    @property
    def metrics(self) -> dict[str, Any]:
        """What was measured of the run out of fold: ``metrics.json``."""
        return self._run.read_json("metrics.json")

    @overload
    def predict(self, bags: Asked) -> dict[str, float]: ...

    @overload
    def predict(self, bags: Several, patients: Sequence[str] | None = None) -> "DataFrame": ...

    def predict(self, bags: Asked | Several, patients: Sequence[str] | None = None) -> "dict[str, float] | DataFrame":
        """Return what all models of the run say of bags, calibrated: the numbers that ``gigamil predict`` writes.

        Slides that were trained on are known to most of the models: their honest predictions stand in ``oof.csv``.

        Parameters
        ----------
        bags
            One bag, or a list of them: `features.Bag`, the path of a bag, or features (n, D). In a list, a folder
            stands for its bags.
        patients
            Of a list: whose slide each bag is. A patient's slides are judged together, as the run was told to.

        Returns
        -------
        Of one bag its probabilities, 0 to 1, by class name (of other targets a value, or a log risk). Of a list a
        table with a column for each class and a row for each bag, by image id, or for each patient, in the order in
        which they come. A bag without tiles, of which nothing is known, stands at what is best said of anybody.

        Raises
        ------
        BagError
            A bag is missing or damaged.
        RequestError
            A bag was not made as the run's were, or ``patients`` do not go with the bags.
        """
        from pandas import DataFrame

        if not isinstance(bags, list):
            (values,) = self._told([self._known(bags)], ["0"]).values()
            return dict(zip(self.classes, values.tolist(), strict=True))
        known = [self._known(own) for given in bags for own in _bags_in(given)]
        if patients is not None and len(patients) != len(known):
            raise RequestError(f"patients: expected one for each of {len(known)} bags, found {len(patients)}")
        if patients is not None and self._run.recipe.get("unit") == "slide":
            raise RequestError(f"{self.path} judges each slide by itself: leave patients out")
        names = [own.header.image_id if own.header else str(number) for number, own in enumerate(known)]
        keys = [str(number) for number in range(len(known))] if patients is None else [str(own) for own in patients]
        told = self._told(known, keys)
        index = names if patients is None else list(told)
        table = DataFrame(np.array(list(told.values())).reshape(-1, len(self.classes)), index, self.classes)
        return table.rename_axis(index="image_id" if patients is None else "patient_id")

    def attention(self, bag: Asked) -> Floats:
        """Return where the models look, (n,) float64 of a sum of 1, one number for each row of the bag.

        It is the mean over the models; of a slide that was in the training over those alone that have not seen it.

        Raises
        ------
        RequestError
            The run's head has no attention, or the bag was not made as the run's were.
        BagError
            The bag is missing, damaged or has no tiles.
        """
        known = self._known(bag)
        fold = self._trained_on.folds.get(known.header.image_id) if known.header else None
        models = self._ensemble if fold is None else self._ensemble.of_fold(fold)
        attention_N = models.attention(known.rows)
        if attention_N is None:
            raise RequestError(f"the run's head {self._run.head} has no attention: train one that has")
        return attention_N

    def heatmap(self, bag: Bag | Path | str, store: TileStore | Path | str) -> "Image":
        """Return the picture that ``gigamil heatmap`` draws of a slide: overview, attention, the tiles looked at most.

        Raises
        ------
        RequestError, BagError, StoreError
            As `attention`; or bag and store are not of one slide.
        """
        return draw(slide_picture(self._ensemble, *self._slide(bag, store), self._trained_on))

    def tile_scores(self, bag: Bag | Path | str, store: TileStore | Path | str) -> TileScores:
        """Return what is said of each tile of a slide: attention, its rank, which way the tile pushes each output.

        Raises
        ------
        RequestError, BagError, StoreError
            The bag was not made as the run's were, or is missing, damaged or empty; or bag and store are not of one
            slide.
        """
        return tile_scores(self._ensemble, *self._slide(bag, store), self._trained_on)

    def _slide(self, bag: Bag | Path | str, store: TileStore | Path | str) -> tuple[BagHeader, TileStore]:
        header = bag.header if isinstance(bag, Bag) else read_header(Path(bag))
        self._check_fit(header)
        return header, store if isinstance(store, TileStore) else TileStore(store)

    def _told(self, known: Sequence[_Known], patients: Sequence[str]) -> dict[str, Floats]:
        """Return what is said of each patient, in the order in which they come."""
        ids = tuple(str(number) for number in range(len(known)))
        cohort = Cohort(
            image_ids=ids,
            patient_ids=tuple(patients),
            center_ids=(None,) * len(known),
            target=self._run.predicts.of_cells([{}] * len(known), self.classes),
            bags=tuple(own.rows for own in known),
        )
        judged = judge(self._ensemble, (cohort,), Silent())
        found = dict(zip(judged.patients, judged.values_PC, strict=True))
        return {patient: found[patient] for patient in dict.fromkeys(patients)}

    def _known(self, bag: Asked) -> _Known:
        if isinstance(bag, Path | str):
            header = read_header(Path(bag))
            self._check_fit(header)
            return _Known(load_rows(header), header)
        if isinstance(bag, Bag):
            self._check_fit(bag.header)
            return _Known(bag.features_ND, bag.header)
        self._check_one_encoder()
        dim = makings_of(self._run)[0].dim
        rows = np.asarray(bag)
        if rows.ndim != 2 or rows.shape[1] != dim or rows.dtype.kind != "f" or not np.isfinite(rows).all():
            raise RequestError(f"features: expected finite floats (n, {dim}), found {rows.dtype} {rows.shape}")
        return _Known(rows, None)

    def _check_fit(self, header: BagHeader) -> None:
        self._check_one_encoder()
        check_bags_fit(self._run, {header.image_id: header})

    def _check_one_encoder(self) -> None:
        if self._run.fusion != "none":
            raise RequestError(
                f"{self.path} fuses bags of several encoders ({self._run.fusion}): ask it by mil.predict, with a "
                "folder of bags for each"
            )


def _bags_in(bag: Asked) -> Sequence[Asked]:
    return find_bags([Path(bag)]) if isinstance(bag, Path | str) else [bag]


def load_run(path: Path | str, device: str = "auto") -> LoadedRun:
    """Load every model of a finished run: ``load_run("run").predict("bags/049194_0.h5")``.

    Parameters
    ----------
    path
        The run's folder.
    device
        ``cpu``, ``cuda``, ``cuda:<n>``; ``auto``: a GPU where there is one.

    Raises
    ------
    RequestError
        There is no run, it is not finished, or a file of it is damaged.
    """
    run = RunFolder(Path(path))
    _ = run.config  # no run at all is told before an unfinished one
    run.read_json("metrics.json")
    return LoadedRun(load_ensemble(run, device))
