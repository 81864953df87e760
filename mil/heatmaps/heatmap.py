"""`gigamil heatmap`: where the model looked and which way tiles push, as a picture over the slide and as a table."""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from features.bags.bag import BagHeader
from mil.data.splits import Known
from mil.evaluation.examples import of_interest
from mil.heads import has_attention
from mil.heatmaps.each_slide import EachSlide
from mil.heatmaps.layers import layers_of
from mil.heatmaps.options import HeatmapOptions, Shown
from mil.heatmaps.picture import SlidePicture, picture_of, read_stamp, save_picture
from mil.heatmaps.scores_zarr import is_scores_zarr, scores_zarr_stamp, write_scores_zarr
from mil.heatmaps.slides import Pair, find_slides
from mil.heatmaps.table import score_table
from mil.heatmaps.tile_scores import tile_scores
from mil.models.ensemble import Ensemble
from mil.run.checks import checked_table
from mil.run.folder import RunFolder
from wsi.errors import RequestError
from wsi.files.atomic import check_folder, replacing, write_text
from wsi.files.claim import claim
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary, failed
from wsi.recipe import Recipe
from wsi.store.tile_store import TileStore

STYLE = 3
"""Raised when the picture changes, so that older pictures are not taken for today's."""
ZARR = ".scores.zarr"


@stage
def heatmap(options: HeatmapOptions, progress: Progress | None = None) -> Summary:
    """Draw the attention of a run on slides; a slide that fails is named and the others go on.

    Raises
    ------
    RequestError
        The run is not finished, its head has no attention and no class is asked for, the bags were not made as the
        run's bags were, a wanted slide has no bag, or a class is none of the run's.
    """
    start, progress = time.monotonic(), progress or Silent()
    check_folder(options.out)
    run = RunFolder(options.run)
    check_shown(run, options)
    slides = find_slides(
        run, options.bags, options.stores, options.image_ids, None if options.everything else partial(_chosen, run)
    )
    _check_apart(options, slides.stores)
    if len(slides.pairs) < slides.both and not options.image_ids:
        progress.note(f"{len(slides.pairs)} of {slides.both} slides, those of most interest: --all draws every one")
    if options.everything and slides.left_out:
        progress.note(slides.left_out)
    with claim(options.out):
        progress.begin("heatmap", len(slides.pairs), "slides")
        outcomes = [*_drawn(options, slides.pairs, progress), *failed(slides.broken)]
        progress.end()
    return Summary("heatmap", outcomes, time.monotonic() - start)


def _check_apart(options: HeatmapOptions, stores: Iterable[TileStore]) -> None:
    """Raise `RequestError` where images of scores would lie among tile stores, whose folder would then hold others."""
    folders = {store.path.parent.resolve() for store in stores if isinstance(store.path, Path)}
    if options.ome_zarr and options.out.resolve() in folders:
        raise RequestError(f"--out {options.out} is the folder of the tile stores: choose another for --ome-zarr")


def _chosen(run: RunFolder, available: Sequence[str]) -> list[str]:
    """Return the slides of most interest, by what the run told of its own."""
    rows = [row for row in checked_table(run.path / "oof.csv", ("level",)) if row["level"] == "slide"]
    return of_interest(run.predicts, rows, run.classes, available)


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


class _Painter(EachSlide[HeatmapOptions]):
    """Draws the pictures, and writes what stands beside them."""

    suffix = ".png"

    def asked(self) -> Recipe:
        own = self.options
        asked = {"scale": own.scale, "least_tissue": own.least_tissue, "classes": list(own.classes)}
        return asked | {"disagreement": own.disagreement, "style": STYLE}

    def is_there(self, target: Path, stamp: str) -> bool:
        """Tell whether all that is asked for is there; raise `RequestError` where something else is."""
        found = {target: read_stamp(target) if target.exists() else None}
        if self.options.ome_zarr:
            image = target.with_suffix(ZARR)
            found[image] = scores_zarr_stamp(image) if image.exists() else None
        other = next((path for path, own in found.items() if path.exists() and own != stamp), None)
        if other is not None and not self.options.overwrite:
            raise RequestError(f"{other} shows something else: choose another --out, or give --overwrite")
        return all(own == stamp for own in found.values())

    def write(self, header: BagHeader, store: TileStore, target: Path, stamp: str) -> Outcome:
        """Write table, image and picture; the picture, which vouches for them, last."""
        scores = tile_scores(self.ensemble, header, store, self.known)
        layers = layers_of(scores, self.options)
        write_text(target.with_suffix(".csv"), score_table(scores))
        if self.options.ome_zarr:
            with replacing(target.with_suffix(ZARR), is_scores_zarr) as folder:
                write_scores_zarr(folder, scores, store, stamp)
        save_picture(picture_of(scores, layers, store, shares=_shares(self.ensemble)), target, stamp)
        return Outcome(header.image_id, Status.DONE, facts={"tiles": header.n_tiles, "models": scores.models})


_painters: list[_Painter] = []


def _begin_worker(options: HeatmapOptions) -> None:
    torch.set_num_threads(1)
    _painters.append(_Painter(options))


def _draw_in_worker(pair: Pair) -> Outcome:
    return _painters[0](pair)


def check_shown(run: RunFolder, shown: Shown) -> None:
    """Raise `RequestError` where the run has no such class, or there would be nothing to draw."""
    unknown = [name for name in shown.classes if name not in run.classes]
    if unknown:
        raise RequestError(f"--class {unknown[0]}: expected one of {', '.join(run.classes)}, as {run.path} tells them")
    if not has_attention(run.head) and not shown.classes:
        raise RequestError(
            f"the run's head {run.head} has no attention: give --class ({', '.join(run.classes)}) to see which way "
            "tiles push, or train a head that has, such as gated_abmil"
        )


def slide_picture(
    ensemble: Ensemble, header: BagHeader, store: TileStore, known: Known, shown: Shown | None = None
) -> SlidePicture:
    """Compute what the picture of one slide shows.

    Raises
    ------
    BagError
        The bag has no tile, or its coordinates are not those of the store's tile list.
    RequestError
        As `heatmap`.
    """
    shown = shown or Shown()
    check_shown(ensemble.run, shown)
    scores = tile_scores(ensemble, header, store, known)
    return picture_of(scores, layers_of(scores, shown), store, shares=_shares(ensemble))


def _shares(ensemble: Ensemble) -> bool:
    return ensemble.run.predicts.words.told == "probabilities"
