"""Slides or stores behind URLs: each slide is fetched, tiled in scratch as a local one is, and its store published.

A few slides are under way at once: one is fetched while another is tiled and a third published.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from wsi.cohort.remote_slides import RemoteSlides
from wsi.cohort.slides import Job, find_jobs
from wsi.errors import GigamilError
from wsi.files.regular import file_sha256
from wsi.files.replace import discard
from wsi.progress.outcome import Outcome, Progress, Status
from wsi.remote.claim import Held, claim_remotely
from wsi.remote.items import as_record, made_once
from wsi.remote.place import Place
from wsi.remote.published import Record, files_of, publish, read_record, write_record
from wsi.remote.scratch import Scratch, scratch_items, scratch_of
from wsi.remote.staged import done_already, fetch_earlier, replayed
from wsi.store.layout import SUFFIX
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify_quickly
from wsi.tiling.options import TileOptions
from wsi.urls import url_of


@dataclass(frozen=True, slots=True)
class RemoteTiling:
    """One request that names URLs."""

    options: TileOptions
    """With this machine's paths."""
    wanted: TileOptions
    """As it was given."""
    slides: RemoteSlides
    scratch: Scratch

    def run(self, jobs: list[Job], tile: Callable[[list[Job]], list[Outcome]], progress: Progress) -> list[Outcome]:
        """Tile the jobs; return their outcomes in the jobs' order.

        ``tile`` tiles slides of this machine into stores of this machine, and is called from several threads.
        """

        def one(job: Job) -> Outcome:
            return self._one(job, tile)

        outcomes = made_once(one, jobs, lambda job: job.image_id, scratch_items(), progress.note)
        self.scratch.keep = any(outcome.status is Status.FAILED for outcome in outcomes)
        return self.scratch.told_of(outcomes)

    @property
    def _place(self) -> Place:
        """The folder of the stores; also of a folder of this machine, where only the request is kept of a store."""
        return Place(url_of(self.wanted.out) or f"file://{self.wanted.out}")

    def _one(self, job: Job, tile: Callable[[list[Job]], list[Outcome]]) -> Outcome:
        if job.problem:
            return tile([job])[0]
        name = f"{job.image_id}{SUFFIX}"
        with ExitStack() as stack:
            held = stack.enter_context(claim_remotely(self._place, name)) if url_of(self.wanted.out) else None
            request = self._request(job)
            if record := self._done(name, request):
                return replayed(record)[0]
            stack.callback(self.slides.drop, job.path)
            self.slides.fetch(job.path)
            if held:
                fetch_earlier(held.place, name, self.options.out)
            (outcome,) = tile([job])
            if outcome.status is not Status.FAILED:
                self._keep(held, name, request, outcome)
            return outcome

    def _done(self, name: str, request: str) -> Record | None:
        """Return the record of a store that the same request made of the same slide, if it is there and whole."""
        if url_of(self.wanted.out):
            return done_already(self._place, name, request)
        record, store = read_record(self._place, name), self.options.out / name
        if record is None or record.request != request or not store.exists():
            return None
        try:
            return None if verify_quickly(TileStore(store)).status is Status.FAILED else record
        except GigamilError:
            return None

    def _keep(self, held: Held | None, name: str, request: str, outcome: Outcome) -> None:
        """Publish a store and remove it here; of a store of this machine, note the request that made it."""
        told = [as_record(outcome)]
        if held is None:
            write_record(self._place, name, Record(True, request, {}, told))
            return
        publish(self.options.out, files_of(self.options.out, name), held, request, told)
        discard(self.options.out / name)

    def _request(self, job: Job) -> str:
        own = self.options
        asked = own.recipe() | {
            "assume_mpp": own.assume_mpp, "reader": own.reader, "scene": own.scene, "on_damage": own.on_damage,
            "icc": own.icc, "roi": _content(own.roi), "mpp": job.mpp, "slide": self.slides.identity(job.path),
            "version": version("gigamil"), "stage": "tile",
        }  # fmt: skip
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _content(roi: Path | None) -> list[str]:
    """Return hashes of the files of regions; none where none are given."""
    if roi is None:
        return []
    files = sorted(own for own in roi.rglob("*") if own.is_file()) if roi.is_dir() else [roi]
    return [f"{own.name} {file_sha256(own)}" for own in files]


@contextmanager
def located(options: TileOptions) -> Iterator[tuple[TileOptions, list[Job], RemoteTiling | None]]:
    """Give the options with this machine's paths, the jobs, and who fetches and publishes; None where no URL is named.

    Raises as `wsi.cohort.slides.find_jobs` does.
    """
    named = any(map(url_of, (*options.slides, options.out)))
    jobs = [] if named else find_jobs(options.slides, options.manifest)
    if not named and not any(url_of(job.path) for job in jobs):
        yield options, jobs, None
        return
    with scratch_of("tile", options.out, *([] if url_of(options.out) else options.slides)) as scratch:
        slides = RemoteSlides(scratch)
        out = scratch.path(url_of(options.out)) if url_of(options.out) else options.out
        own = replace(options, slides=slides.local(options.slides), out=out)
        found = find_jobs(own.slides, own.manifest)
        paths = slides.local([job.path for job in found])
        jobs = [replace(job, path=path) for job, path in zip(found, paths, strict=True)]
        with scratch.telling():
            yield own, jobs, RemoteTiling(own, options, slides, scratch)
