"""The parts of a bundle, made one from the other: shared stores and bags first, then what is drawn from them."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from features.bags.bag import BagHeader
from mil.run.folder import RunFolder
from mil.sharing.annotations import SharedAnnotations
from mil.sharing.bags import share_bag
from mil.sharing.options import Form, ShareOptions
from mil.sharing.run import predictions_table, share_run
from mil.sharing.table import Centers
from wsi.errors import RequestError, StoreError
from wsi.files.atomic import write_text
from wsi.files.replace import discard
from wsi.progress.outcome import Progress, Status, Summary
from wsi.sharing.ids import NewIds
from wsi.sharing.store import keyed, share_store
from wsi.store.tile_store import TileStore

_OF_STORES = frozenset({"stores", "ome-tiff", "pages", "heatmaps"})


class Bundle:
    """A bundle that is being written.

    Parameters
    ----------
    folder
        Of the bundle, unfinished by its name.
    forms
        What goes into it. What another part needs and does not go lies in ``.work`` until the end.
    ids
        Old to new.
    center
        Gives a center its number.
    options
        What was asked.
    """

    def __init__(
        self, folder: Path, forms: Sequence[Form], ids: NewIds, center: Centers, options: ShareOptions
    ) -> None:
        self._folder, self._forms, self._ids, self._options = folder, set(forms), ids, options
        self._center = center
        self._work = folder / ".work"
        self._secret = secrets.token_bytes(32)
        drawn = options.annotations if "annotations" in forms else None
        self._annotations = SharedAnnotations(drawn, texts=options.keep_texts) if drawn is not None else None
        folder.mkdir()

    def _place(self, form: Form) -> Path:
        """Return the folder of stores or bags: in the bundle, or beside it while it is made."""
        return (self._folder if form in self._forms else self._work) / form

    def _store(self, image_id: str) -> Path:
        return self._place("stores") / f"{self._ids.slides[image_id]}.zarr"

    def _bag(self, image_id: str) -> Path:
        return self._place("bags") / f"{self._ids.slides[image_id]}.h5"

    def add(self, image_id: str, store: TileStore | None, bag: BagHeader | None, progress: Progress) -> str:
        """Write what is shared of one slide; return what a person should look at.

        Raises
        ------
        GigamilError
            The store, the bag or the annotations are damaged or missing.
        """
        new, note, picture = self._ids.slides[image_id], "", ""
        if self._forms & _OF_STORES:
            if store is None:
                raise StoreError("no tile store of this slide was found")
            icc = not self._options.no_icc
            facts = share_store(store, self._store(image_id), new, self._secret, icc=icc, progress=progress)
            shared = TileStore(self._store(image_id))
            picture = shared.overview_sha256()
            if facts["inked_tiles"]:
                note = f"{facts['inked_tiles']} of its tiles show ink: look whether something is written there"
            if "ome-tiff" in self._forms:
                self._export(shared, new, progress)
        if bag is not None:
            told = str(bag.provenance.get("overview_sha256") or "")
            share_bag(bag, self._bag(image_id), new, self._ids, picture or (told and keyed(self._secret, told)))
        if self._annotations is not None:
            self._annotations.write(image_id, self._folder / "annotations" / f"{new}.geojson")
        return note

    def _export(self, store: TileStore, new: str, progress: Progress) -> None:
        from wsi.export.ome_tiff import export_ome_tiff
        from wsi.export.options import OmeTiffOptions

        target = self._folder / "ome-tiff" / f"{new}.ome.tiff"
        export_ome_tiff(OmeTiffOptions(store=store.path, out=target), progress)

    def drop(self, image_id: str) -> None:
        """Remove what was written of a slide that failed."""
        new = self._ids.slides[image_id]
        names = (f"ome-tiff/{new}.ome.tiff", f"annotations/{new}.geojson")
        for path in (self._store(image_id), self._bag(image_id), *(self._folder / name for name in names)):
            discard(path)

    def finish(self, run: RunFolder | None, progress: Progress) -> None:
        """Write what is made of all slides together."""
        if run is not None:
            self._of_run(run, progress)
        elif "pages" in self._forms:
            self._pages(None, progress)
        discard(self._work)

    def _of_run(self, run: RunFolder, progress: Progress) -> None:
        if "predictions" in self._forms:
            truth = "label" in self._options.keep
            write_text(self._folder / "predictions.csv", predictions_table(run, self._ids, truth=truth))
        if self._forms & {"pages", "heatmaps"}:
            shared = share_run(run, self._work / "run", self._ids, self._center)
            if "heatmaps" in self._forms:
                self._heatmaps(shared, progress)
            if "pages" in self._forms:
                self._pages(shared.path, progress)

    def _heatmaps(self, run: RunFolder, progress: Progress) -> None:
        from mil.heatmaps.heatmap import heatmap
        from mil.heatmaps.options import HeatmapOptions

        stores, bags = (self._place("stores"),), (self._place("bags"),)
        out = self._folder / "heatmaps"
        _whole(heatmap(HeatmapOptions(run=run.path, bags=bags, stores=stores, out=out, everything=True), progress))

    def _pages(self, run: Path | None, progress: Progress) -> None:
        from mil.viewing.options import PageOptions
        from mil.viewing.page import page

        items = (self._place("stores"),) if run is None else (run, self._place("stores"))
        bags = self._place("bags")
        laid_over = (bags,) if run is not None and bags.is_dir() else ()
        _whole(page(PageOptions(items=items, bags=laid_over, out=self._folder / "pages"), progress))


def _whole(summary: Summary) -> None:
    """Raise `RequestError` where an item of a stage failed: its reason names the new ids alone."""
    for outcome in summary.ended(Status.FAILED):
        raise RequestError(f"{summary.stage} of {outcome.item_id}: {outcome.reason}")
