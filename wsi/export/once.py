"""What exports of a store's image share: whole or not at all, once per recipe, and never over what is not ours."""

import json
import time
from collections.abc import Callable, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, TypeVar

from wsi.errors import SlideError
from wsi.export.options import StoreExport
from wsi.files.atomic import replacing
from wsi.files.claim import claim
from wsi.files.regular import read_regular
from wsi.files.replace import Mark, refuse_input
from wsi.pixels.neutral_icc import neutral_profile
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import Recipe, refuse_other_recipe
from wsi.store.tile_store import TileStore

_Options = TypeVar("_Options", bound=StoreExport)


def profile_of(store: TileStore) -> bytes:
    """Return the ICC profile that tells the colours of the store's pixels, without its texts and dates.

    Nothing where the pixels are sRGB already, or where its colours cannot be kept without its texts.
    """
    if store.meta.get("icc", {}).get("applied"):
        return b""
    try:
        return neutral_profile(store.icc_profile)
    except SlideError:
        return b""


def _note(store: TileStore) -> str:
    left = store.icc_profile and not store.meta.get("icc", {}).get("applied") and not profile_of(store)
    return "its ICC profile stays behind: its colours cannot be kept without its texts" if left else ""


def export_once(
    options: _Options,
    recipe_of: Callable[[_Options, TileStore], Recipe],
    progress: Progress | None,
    refuse_other: Callable[[Path, Recipe], None],
    is_ours: Mark,
    write: Callable[[TileStore, Path, Recipe, Progress], dict[str, Any]],
) -> Summary:
    """Write the store's image, unless a finished export of the same recipe is there.

    Parameters
    ----------
    recipe_of
        What shapes the result.
    refuse_other
        Raises `RecipeMismatchError` where what is there was made by another recipe.
    is_ours
        How to tell that what is there may be replaced.
    write
        Writes the export to a path, and returns facts for the summary.
    """
    started = time.perf_counter()
    store = TileStore(options.store)
    recipe = recipe_of(options, store)
    refuse_input(options.out, [store.path] if isinstance(store.path, Path) else [])
    with claim(options.out):
        if options.out.exists() and not options.overwrite:
            refuse_other(options.out, recipe)
            done = Outcome(store.image_id, Status.SKIPPED)
        else:
            with replacing(options.out, is_ours) as partial:
                facts = write(store, partial, recipe, progress or Silent())
            done = Outcome(store.image_id, Status.DONE, _note(store), facts)
    return Summary("export", [done], time.perf_counter() - started)


def export_folder_once(
    options: _Options,
    recipe_of: Callable[[_Options, TileStore], Recipe],
    progress: Progress | None,
    document: str,
    keys: Sequence[str],
    write: Callable[[TileStore, Path, Recipe, Progress], dict[str, Any]],
) -> Summary:
    """Do what `export_once` does for a folder that holds its recipe in a JSON document, under keys within keys."""

    def found(out: Path) -> Recipe:
        try:
            told = json.loads(read_regular(out / document, 1 << 24))
            return dict(reduce(getitem, keys, told))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {"form": "not an export of ours"}

    def refuse_other(out: Path, recipe: Recipe) -> None:
        refuse_other_recipe(out, found(out), recipe)

    return export_once(options, recipe_of, progress, refuse_other, lambda out: "image_id" in found(out), write)
