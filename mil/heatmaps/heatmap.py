"""`gigamil heatmap`: where the model looked, as a picture over the slide and as a table.

Attention is averaged over the models of the run; for a slide that was in the training, over the models of its own test
fold, which never saw its patient. Frames: ``l0_`` level-0 pixels of the slide, ``tiles_yx`` tile row and column.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from features.bags.bag import BagHeader
from mil.data.cohort import read_headers
from mil.data.splits import Known, known_slides
from mil.evaluation.examples import of_interest
from mil.heatmaps.options import HeatmapOptions
from mil.heatmaps.overlay import SlidePicture, read_stamp, save_picture
from mil.heatmaps.tile_scores import tile_scores, top_tiles
from mil.models.ensemble import Ensemble, check_bags_fit, load_ensemble
from mil.run.checks import checked_table
from mil.run.folder import RunFolder
from wsi.cohort.manifest import check_id
from wsi.errors import GigamilError, RequestError, StoreError
from wsi.files.atomic import check_folder, write_text
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.options import stage
from wsi.outcome import Outcome, Progress, Silent, Status, Summary, failed
from wsi.recipe import recipe_hash
from wsi.store.tile_store import TileStore, find_stores

TOP_TILES = 8
STYLE = 2
"""Raised when the picture changes, so that older pictures are not taken for today's."""


@stage
def heatmap(options: HeatmapOptions, progress: Progress | None = None) -> Summary:
    """Draw the attention of a run on slides; a slide that fails is named and the others go on.

    Raises
    ------
    RequestError
        The run is not finished, its head has no attention, the bags were not made as the run's bags were, or a wanted
        slide has no bag.
    """
    start, progress = time.monotonic(), progress or Silent()
    check_folder(options.out)
    run = RunFolder(options.run)
    if run.fusion != "none":
        raise RequestError(f"{run.path} fuses bags of several encoders ({run.fusion}): heat maps are drawn of one's")
    headers, failures = read_headers(options.bags)
    stores = {store.image_id: store for store in find_stores(options.stores)}
    both = sorted(set(headers) & set(stores))
    wanted = list(dict.fromkeys(options.image_ids)) or (both if options.everything else _chosen(run, both))
    broken = {i: why for i, why in failures.items() if i in (options.image_ids or stores)}
    absent = [image_id for image_id in wanted if image_id not in headers and image_id not in broken]
    if absent or not (wanted or broken):
        raise RequestError(f"expected a bag and a store of each slide; no bag of {', '.join(absent) or 'any store'}")
    chosen = {image_id: headers[image_id] for image_id in wanted if image_id in headers}
    check_bags_fit(run, chosen)
    if len(wanted) < len(both) and not options.image_ids:
        progress.note(f"{len(wanted)} of {len(both)} slides, those of most interest: --all draws every one")
    with claim(options.out):
        progress.begin("heatmap", len(chosen), "slides")
        pairs = [(header, stores.get(image_id)) for image_id, header in chosen.items()]
        outcomes = [*_drawn(options, pairs, progress), *failed(broken)]
        progress.end()
    return Summary("heatmap", outcomes, time.monotonic() - start)


def _chosen(run: RunFolder, available: Sequence[str]) -> list[str]:
    """Return the slides of most interest, by what the run told of its own."""
    rows = [row for row in checked_table(run.path / "oof.csv", ("level",)) if row["level"] == "slide"]
    return of_interest(run.predicts, rows, run.classes, available)


Pair = tuple[BagHeader, TileStore | None]


def _drawn(options: HeatmapOptions, pairs: Sequence[Pair], progress: Progress) -> Iterator[Outcome]:
    """Draw the slides, here or in processes; give what became of each, in order."""
    painter = _Painter(options)
    workers = min(options.workers, len(pairs))
    if workers <= 1:
        for pair in pairs:
            yield painter(pair)
            progress.advance(1)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (options,)) as pool:
        for outcome in pool.map(_draw_in_worker, pairs):
            yield outcome
            progress.advance(1)


class _Painter:
    """The models of a run, loaded once for many slides."""

    def __init__(self, options: HeatmapOptions) -> None:
        self._options, run = options, RunFolder(options.run)
        self._ensemble, self._known = load_ensemble(run, options.device), known_slides(run.path)

    def __call__(self, pair: Pair) -> Outcome:
        """Draw one slide, unless its picture is there."""
        header, store = pair
        image_id = header.image_id
        try:
            if store is None:
                raise StoreError("no tile store of this slide was found")
            target = self._options.out / f"{check_id(image_id, str(header.path))}.png"
            stamp = _stamp(self._ensemble, header, store)
            if target.exists():
                if read_stamp(target) == stamp:
                    return Outcome(image_id, Status.SKIPPED)
                if not self._options.overwrite:
                    raise RequestError(f"{target} shows something else: choose another --out, or give --overwrite")
            picture = slide_picture(self._ensemble, header, store, self._known)
            write_text(target.with_suffix(".csv"), attention_table(picture))
            save_picture(picture, target, stamp)
            return Outcome(image_id, Status.DONE, facts={"tiles": header.n_tiles, "models": picture.models})
        except (GigamilError, OSError, KeyError, ValueError) as error:
            return Outcome(image_id, Status.FAILED, str(error))


_painters: list[_Painter] = []


def _begin_worker(options: HeatmapOptions) -> None:
    torch.set_num_threads(1)
    _painters.append(_Painter(options))


def _draw_in_worker(pair: Pair) -> Outcome:
    return _painters[0](pair)


def _stamp(ensemble: Ensemble, header: BagHeader, store: TileStore) -> str:
    """Return the hash of everything that shapes a picture."""
    config = ensemble.run.config
    made = {"run": config["recipe_hash"], "bag": header.recipe_hash, "tiles": header.n_tiles}
    return recipe_hash({**made, "store": store.recipe_hash, "image_id": header.image_id, "style": STYLE})


def slide_picture(ensemble: Ensemble, header: BagHeader, store: TileStore, known: Known) -> SlidePicture:
    """Compute what the picture of one slide shows.

    Raises
    ------
    BagError
        The bag has no tile, or its coordinates are not those of the store's tile list.
    RequestError
        The head has no attention.
    """
    scores = tile_scores(ensemble, header, store, known)
    if not scores.attends:
        raise RequestError(
            f"the run's head {ensemble.run.head} has no attention: train one that has, such as gated_abmil"
        )
    top = top_tiles(scores.attention_N, TOP_TILES)
    overview_HWC = store.overview(2048)
    return SlidePicture(
        image_id=header.image_id,
        classes=ensemble.run.classes,
        outputs_C=scores.outputs_C,
        shares=ensemble.run.predicts.words.told == "probabilities",
        label=scores.label,
        out_of_fold=scores.out_of_fold,
        models=scores.models,
        overview_HWC=overview_HWC,
        overview_mpp=float(store.mpp * store.shape_yx[1] / overview_HWC.shape[1]),
        tiles_yx=scores.tiles_yx,
        tile_share=store.tile_px / np.array(store.shape_yx, np.float64),
        attention_N=scores.attention_N,
        percentile_N=scores.percentile_N,
        top_N=top,
        top_tiles_KHWC=store.read_tiles(scores.store_rows_N[top]).transpose(0, 2, 3, 1),
        l0_yx=scores.l0_yx,
    )


def attention_table(picture: SlidePicture) -> str:
    """Return the attention as CSV: tile row and column, level-0 pixels (y, x), attention (sums to 1), percentile."""
    header = ["tile_row", "tile_column", "l0_y", "l0_x", "attention", "percentile"]
    columns = (picture.tiles_yx.tolist(), picture.l0_yx.tolist(), picture.attention_N, picture.percentile_N)
    rows = [
        [*tile, *place, f"{attention:.9g}", f"{rank:.6f}"]
        for tile, place, attention, rank in zip(*columns, strict=True)
    ]
    return csv_text([header, *rows])
