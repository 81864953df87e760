"""Before the first tile: which bags are there, which are refused, which are claimed, and what is left to do."""

import resource
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from features.bag import is_intact, read_header
from features.encoder import EncoderSpec
from features.ledger import Ledger
from features.parts import assemble, covered_rows, remove_parts, remove_unfinished, write_whole
from features.plan import Job, SlideJob
from wsi.claim import claim
from wsi.errors import BagError, ClaimedError, ItemError, RequestError, StoreError
from wsi.outcome import Progress, Status
from wsi.recipe import Recipe, recipe_hash, refuse_other_recipe
from wsi.store import TileStore, find_stores

FILES_BESIDE_CLAIMS = 512
"""Open files for everything but the claims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `prepare` needs to know."""

    stores: tuple[Path, ...]
    out: Path
    batch_size: int
    overwrite: bool
    spec: EncoderSpec
    precision: str
    device_type: str

    def recipe(self, store: TileStore) -> Recipe:
        """Return what shapes the bag of a store."""
        encoder = self.spec.recipe()
        return {"stage": "extract", "tiling": store.recipe, "encoder": encoder, "precision": self.precision}

    def provenance(self, store: TileStore) -> dict[str, Any]:
        """Return where the bag of a store comes from."""
        return {
            "store_recipe_hash": store.recipe_hash,
            "encoder": self.spec.as_dict(),
            "precision": self.precision,
            "device": self.device_type,
            "versions": {name: _version(name) for name in ("gigamil", "torch", "timm")},
        }


def prepare(request: Request, progress: Progress, claims: ExitStack) -> tuple[Job, Ledger]:
    """Look at every store and bag of the request; claim the bags to be made; return the job, and a ledger of the rest.

    Raises
    ------
    RequestError
        No store is found; or a bag was made with other settings, or by another program, and overwriting is not asked.
    """
    found = [_look_at(request, store) for store in find_stores(request.stores)]
    found.sort(key=lambda entry: (entry[0].tile_px, entry[0].image_id))
    slides = [slide for slide, _ in found]
    ledger = Ledger(slides, progress, request.spec.trained)
    present = [_present(request, slide) if not reason else False for slide, reason in found]
    _allow_open_files(len(slides))
    hidden = [path.name for path in request.out.glob(".*")]
    for index, (slide, reason) in enumerate(found):
        left_over = any(name.startswith(f".{slide.bag.name}.") for name in hidden)
        if reason:
            ledger.failed(index, reason)
        elif present[index]:
            slides[index] = replace(slide, wanted=False)
            ledger.finished(index, Status.SKIPPED)
            if left_over:
                _tidy(slide)
        else:
            try:
                claims.enter_context(claim(slide.bag))
                if left_over:
                    remove_unfinished(slide)
            except (ClaimedError, OSError) as error:
                ledger.failed(index, str(error))
    spec = request.spec
    job = Job(tuple(slides), request.batch_size, spec.dim, spec.name, spec.weights_sha256)
    return settle(job, ledger), ledger


def settle(job: Job, ledger: Ledger) -> Job:
    """Return the job less what is on the disk by now; a bag whose parts are all there is made of them."""
    slides = list(job.slides)
    for index, slide in enumerate(slides):
        if not ledger.is_open(index):
            slides[index] = replace(slide, wanted=False)
            continue
        slide = replace(slide, covered=covered_rows(slide, job.dim))
        try:
            if _is_made(slide):
                ledger.finished(index)
            elif slide.n_tiles == 0:
                write_whole(job, slide, [])
                ledger.finished(index)
            elif slide.missing() == 0:
                assemble(job, slide)
                ledger.finished(index)
        except (ItemError, OSError) as error:
            ledger.failed(index, str(error))
        slides[index] = replace(slide, wanted=ledger.is_open(index))
    return replace(job, slides=tuple(slides))


def _look_at(request: Request, store: TileStore) -> tuple[SlideJob, str]:
    """Return the slide's entry, and why it cannot be used, or an empty text."""
    image_id = store.image_id
    entry = SlideJob(image_id, store.path, request.out / f"{image_id}.h5", 0, 0, {}, {}, wanted=False)
    try:
        entry = replace(entry, recipe=request.recipe(store), provenance=request.provenance(store))
        if len(store.tiles_yx) != store.n_tiles:
            raise StoreError(f"{store.path}: expected {store.n_tiles} listed tiles, found {len(store.tiles_yx)}")
        return replace(entry, n_tiles=store.n_tiles, tile_px=store.tile_px, wanted=True), ""
    except StoreError as error:
        return entry, str(error)


def _present(request: Request, slide: SlideJob) -> bool:
    """Tell whether the bag is there and whole; refuse one that was made otherwise."""
    if not slide.bag.exists():
        return False
    with suppress(BagError):
        header = read_header(slide.bag)
        if header.recipe_hash != recipe_hash(slide.recipe) and not request.overwrite:
            if not header.recipe:
                raise RequestError(
                    f"{slide.bag} was not made by gigamil extract: choose another --out, or --overwrite to replace it"
                )
            refuse_other_recipe(slide.bag, header.recipe, slide.recipe)
    return _is_made(slide)


def _tidy(slide: SlideJob) -> None:
    """Remove what a run that was killed just after finishing the bag left beside it; another run's things stay."""
    with suppress(ClaimedError, OSError), claim(slide.bag):
        remove_unfinished(slide)
        remove_parts(slide)


def _is_made(slide: SlideJob) -> bool:
    with suppress(BagError):
        return read_header(slide.bag).recipe_hash == recipe_hash(slide.recipe) and is_intact(slide.bag)
    return False


def _allow_open_files(claims: int) -> None:
    """Raise the soft limit of open files: each claim holds one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = claims + FILES_BESIDE_CLAIMS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            ceiling = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
