"""Before the first tile: which bags are there, which are refused, which are claimed, and what is left to do."""

import resource
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from features.bags.bag import is_intact, is_our_bag, read_header
from features.encoders.spec import EncoderSpec
from features.extraction.ledger import Ledger
from features.extraction.options import ExtractOptions, folder_name
from features.extraction.parts import assemble, covered_rows, remove_parts, remove_unfinished, write_whole
from features.extraction.plan import Job, SlideJob, Target
from features.views import VIEWS
from wsi.errors import BagError, ClaimedError, ItemError, RequestError, StoreError
from wsi.files.claim import claim
from wsi.files.replace import refuse_foreign
from wsi.pages import plural
from wsi.progress.outcome import Progress, Status
from wsi.recipe import Recipe, recipe_hash, refuse_other_recipe
from wsi.store.tile_store import TileStore, find_stores

FILES_BESIDE_CLAIMS = 512
"""Open files for everything but the claims."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, and what was decided for all ranks."""

    options: ExtractOptions
    spec: EncoderSpec
    precision: str
    device_type: str

    def recipe(self, store: TileStore, spec: EncoderSpec) -> Recipe:
        """Return what shapes the bag of a store."""
        recipe = {"stage": "extract", "tiling": store.recipe, "encoder": spec.recipe(), "precision": self.precision}
        options = self.options
        recipe |= options.selection.recipe()
        if options.stain != "none":
            recipe["stain"] = options.stain
        if options.views != "none":
            recipe["views"] = {"kind": options.views, "kept": options.keep_views}
        if options.bag_dtype != "float16":
            recipe["bag_dtype"] = options.bag_dtype
        return recipe

    def targets(self, store: TileStore) -> tuple[Target, ...]:
        """Return the bags to be made of a store."""
        name = f"{store.image_id}.h5"
        if not self.options.separate:
            return (self._target(store, self.spec, self.options.out / name, 0),)
        targets, first = [], 0
        for spec in self.spec.members:
            targets.append(self._target(store, spec, self.options.out / folder_name(spec.name) / name, first))
            first += spec.dim
        return tuple(targets)

    def _target(self, store: TileStore, spec: EncoderSpec, path: Path, first: int) -> Target:
        columns = slice(first, first + spec.dim)
        return Target(path, spec.name, self.recipe(store, spec), self._provenance(store, spec), columns)

    def _provenance(self, store: TileStore, spec: EncoderSpec) -> dict[str, Any]:
        """Return where the bag of a store comes from."""
        off_recipe = self.options.off_recipe and spec.check_mpp(store.tile_px, store.mpp)
        return {
            "store_recipe_hash": store.recipe_hash,
            "encoder": spec.as_dict(),
            "precision": self.precision,
            "device": self.device_type,
            **({"compiled": True} if self.options.compiled else {}),
            **({} if self.options.channels_last else {"channels_last": False}),
            **({"off_recipe": off_recipe} if off_recipe else {}),
            "versions": {name: _version(name) for name in ("gigamil", "torch", "timm")},
        }


def prepare(request: Request, progress: Progress, claims: ExitStack) -> tuple[Job, Ledger]:
    """Look at every store and bag of the request; claim the bags to be made; return the job, and a ledger of the rest.

    Raises
    ------
    RequestError
        No store is found; or a bag was made with other settings, or by another program, and overwriting is not asked.
    """
    found = [_look_at(request, store) for store in find_stores(request.options.stores)]
    found.sort(key=lambda entry: (entry[0].tile_px, entry[0].image_id))
    slides = [slide for slide, _ in found]
    ledger = Ledger(slides, progress, request.spec.trained)
    if any(spec.mpps for spec in (request.spec, *request.spec.members)):
        _check_mpps(request, [TileStore(slide.store) for slide, reason in found if not reason])
    present = [_present(request, slide) if not reason else False for slide, reason in found]
    _allow_open_files(len(slides))
    folders = {target.path.parent for slide in slides for target in slide.targets}
    hidden = [path.name for folder in folders for path in folder.glob(".*")]
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
                for target in slide.targets:
                    claims.enter_context(claim(target.path))
                if left_over:
                    remove_unfinished(slide)
            except (ClaimedError, OSError) as error:
                ledger.failed(index, str(error), claimed=isinstance(error, ClaimedError))
    return settle(_job(request, slides), ledger), ledger


def _job(request: Request, slides: list[SlideJob]) -> Job:
    spec, options = request.spec, request.options
    return Job(
        slides=tuple(slides),
        batch_size=options.batch_size,
        dim=spec.dim,
        encoder=spec.name,
        weights_sha256=spec.weights_sha256,
        stain=options.stain,
        kept_views=len(VIEWS[options.views]) if options.keep_views else 1,
        views=options.views,
        precision=request.precision,
        device_type=request.device_type,
        compiled=options.compiled,
        channels_last=options.channels_last,
        bag_dtype=options.bag_dtype,
    )


def settle(job: Job, ledger: Ledger) -> Job:
    """Return the job less what is on the disk by now; a bag whose parts are all there is made of them."""
    slides = list(job.slides)
    for index, slide in enumerate(slides):
        if not ledger.is_open(index):
            slides[index] = replace(slide, wanted=False)
            continue
        slide = replace(slide, covered=covered_rows(slide, job))
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
    nowhere = Target(request.options.out / f"{image_id}.h5", request.spec.name, {}, {}, slice(0, 0))
    entry = SlideJob(image_id, store.path, (nowhere,), 0, 0, {}, wanted=False)
    try:
        entry = replace(entry, targets=request.targets(store), recipe=request.recipe(store, request.spec))
        if len(store.tiles_yx) != store.n_tiles:
            raise StoreError(f"{store.path}: expected {store.n_tiles} listed tiles, found {len(store.tiles_yx)}")
        chosen = request.options.selection.rows(store)
        n_tiles = store.n_tiles if chosen is None else len(chosen)
        return replace(entry, n_tiles=n_tiles, tile_px=store.tile_px, chosen=chosen, wanted=True), ""
    except (StoreError, OSError) as error:
        return entry, str(error)


def _check_mpps(request: Request, stores: list[TileStore]) -> None:
    """Refuse tiles of a um/px that the encoder was not made for."""
    told = [(store, why) for store in stores if (why := request.spec.check_mpp(store.tile_px, store.mpp))]
    if told and not request.options.off_recipe:
        store, why = told[0]
        more = f" (and {plural(len(told) - 1, 'more store')})" if len(told) > 1 else ""
        raise RequestError(f"{store.path}{more}: {why}")


def _present(request: Request, slide: SlideJob) -> bool:
    """Tell whether the bags are there and whole; refuse one that was made otherwise."""
    for target in slide.targets:
        if not target.path.exists():
            continue
        refuse_foreign(target.path, is_our_bag)
        with suppress(BagError):
            header = read_header(target.path)
            if header.recipe_hash != recipe_hash(target.recipe) and not request.options.overwrite:
                refuse_other_recipe(target.path, header.recipe, target.recipe)
    return _is_made(slide)


def _tidy(slide: SlideJob) -> None:
    """Remove what a run that was killed just after finishing the bags left beside them; another run's things stay."""
    with suppress(ClaimedError, OSError), ExitStack() as claims:
        for target in slide.targets:
            claims.enter_context(claim(target.path))
        remove_unfinished(slide)
        remove_parts(slide)


def _is_made(slide: SlideJob) -> bool:
    with suppress(BagError):
        return all(
            target.path.exists()
            and read_header(target.path).recipe_hash == recipe_hash(target.recipe)
            and is_intact(target.path)
            for target in slide.targets
        )
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
