"""`gigamil embed`: one vector for each slide, as a bag of one row.

The bag's recipe is that of the tiles' bag with ``slide_encoder`` added; its one row has the coordinates (0, 0), and
um/px and size of the tiles stay told. Store, picture and the tile encoder's lineage stand in its provenance as they
stood in the tiles' bag, so that what is refused of tiles (a picture under two names, a patient whom an encoder has
seen) is refused of vectors. A bag without tiles becomes one without rows.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from features.bags.bag import BagFacts, BagHeader, content_sha256, is_intact, is_our_bag, read_header, write_bag
from features.slide_encoders.registry import build_slide_encoder
from features.slide_encoders.spec import KEY, SlideEncoder, about, full_name
from mil.data.cohort import read_headers
from mil.embedding.of_run import RunEmbedding, is_run
from mil.embedding.options import EmbedOptions
from wsi.errors import BagError, ClaimedError, RequestError
from wsi.files.atomic import make_folder
from wsi.files.claim import claim
from wsi.files.replace import refuse_foreign, refuse_input
from wsi.options import stage
from wsi.progress.outcome import CLAIMED, Outcome, Progress, Silent, Status, Summary, failed
from wsi.recipe import Recipe, recipe_hash, refuse_other_recipe

OF_TILES = "tiles_content_sha256"
"""In the provenance: the content of the bag that the vector was made of."""


@stage
def embed(options: EmbedOptions, progress: Progress | None = None) -> Summary:
    """Write one vector for each bag of tiles; a bag that is damaged fails, and is named.

    Raises
    ------
    RequestError
        The slide encoder is unknown or cannot be had, a bag was not made for it, or another file is in a bag's place.
    RecipeMismatchError
        A bag of one row was made with other settings, and ``overwrite`` is not given.
    """
    start, progress = time.perf_counter(), progress or Silent()
    encoder = _encoder(options)
    headers, failures = read_headers(options.bags)
    for header in headers.values():
        encoder.check(header, off_recipe=options.off_recipe)
    targets = {image_id: options.out / f"{image_id}.h5" for image_id in headers}
    refuse_input(options.out, options.bags)
    present = {image_id: _is_there(encoder, headers[image_id], path, options) for image_id, path in targets.items()}
    make_folder(options.out)
    if encoder.spec.caution:
        progress.note(encoder.spec.caution)
    _to_device(encoder, options, any(not own for own in present.values()))
    progress.begin("embed", len(headers), "slides")
    outcomes = []
    for image_id, header in headers.items():
        skipped = Outcome(image_id, Status.SKIPPED)
        outcomes.append(skipped if present[image_id] else _embedded(encoder, header, targets[image_id]))
        progress.advance(1)
    progress.end()
    return Summary("embed", [*outcomes, *failed(failures)], time.perf_counter() - start)


def _encoder(options: EmbedOptions) -> SlideEncoder:
    path = Path(options.encoder)
    if not is_run(path):
        if options.fold is not None:
            raise RequestError("--fold is for the folder of a run (--encoder RUN): leave it out")
        return build_slide_encoder(options.encoder, options.start())
    if options.weights is not None or options.random_weights is not None:
        raise RequestError(f"--encoder {path} is a run, which has weights: leave --weights and --random-weights out")
    return RunEmbedding(path, options.fold)


def _to_device(encoder: SlideEncoder, options: EmbedOptions, wanted: bool) -> None:
    if wanted and encoder.spec.trained:
        from features.encoders.device import resolve_device

        encoder.to(resolve_device(options.device))


def recipe_of(encoder: SlideEncoder, header: BagHeader) -> Recipe:
    """Return what shapes the vector of a bag."""
    return {**header.recipe, KEY: encoder.spec.recipe()}


def _is_there(encoder: SlideEncoder, header: BagHeader, target: Path, options: EmbedOptions) -> bool:
    """Tell whether the vector is there, whole and of this bag; refuse one that was made otherwise."""
    if not target.exists():
        return False
    refuse_foreign(target, is_our_bag)
    recipe = recipe_of(encoder, header)
    with suppress(BagError):
        found = read_header(target)
        if found.recipe_hash != recipe_hash(recipe) and not options.overwrite:
            refuse_other_recipe(target, found.recipe, recipe)
        same = found.provenance.get(OF_TILES) == content_sha256(header)
        return found.recipe_hash == recipe_hash(recipe) and same and is_intact(target)
    return False


def _embedded(encoder: SlideEncoder, header: BagHeader, target: Path) -> Outcome:
    try:
        with claim(target):
            dim = encoder.width(header.dim)
            vectors = encoder.encode(header)[None] if header.n_tiles else np.empty((0, dim))
            rows = np.asarray(vectors, np.float32)
            write_bag(target, [rows], np.zeros((len(rows), 2), np.int64), _facts(encoder, header, dim), "float32")
    except ClaimedError as error:
        return Outcome(header.image_id, Status.FAILED, str(error), {CLAIMED: True})
    except (BagError, OSError) as error:
        return Outcome(header.image_id, Status.FAILED, str(error))
    return Outcome(header.image_id, Status.DONE, facts={"dim": dim, "tiles": header.n_tiles})


def _facts(encoder: SlideEncoder, header: BagHeader, dim: int) -> BagFacts:
    provenance: Mapping[str, Any] = header.provenance
    tile_px = round(header.tile_px) if header.tile_px else None
    return BagFacts(
        image_id=header.image_id,
        encoder=full_name(encoder.spec, header),
        recipe=recipe_of(encoder, header),
        provenance={
            **provenance,
            "encoder": about(encoder.spec, header, dim),
            OF_TILES: content_sha256(header),
            "tiles": header.n_tiles,
        },
        tile_px=tile_px,
        l0_px_per_px=header.tile_px_l0 / tile_px if tile_px and header.tile_px_l0 else None,
        level0_shape_yx=header.level0_shape_yx,
        mpp=header.mpp,
    )
