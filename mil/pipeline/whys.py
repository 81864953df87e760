"""Why a store or a bag that is there would not be kept: the stages' own checks, asked without doing anything."""

from contextlib import suppress
from pathlib import Path

from features.bags.bag import is_intact, read_header
from features.extraction.options import ExtractOptions, options_of
from mil.pipeline.cohort.cohort_file import CohortFile
from wsi.cohort.slides import Job
from wsi.errors import BagError, GigamilError, RecipeMismatchError, StoreError
from wsi.progress.outcome import Status
from wsi.recipe import differences
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify_quickly
from wsi.tiling.engine import check_finished
from wsi.tiling.plan import make_plan

DAMAGED = "damaged"


def why_not_store(file: CohortFile, job: Job) -> str:
    """Return why the tiler would not skip a slide whose store is there; "" where it would.

    Of a slide that is gone, whether its store is whole.
    """
    try:
        if job.problem or not job.path.exists():
            found = verify_quickly(TileStore(file.store(job.image_id)))
            return f"{DAMAGED}: {found.reason}" if found.status is Status.FAILED else ""
        found_or_why = check_finished(make_plan(job, file.tile))
    except RecipeMismatchError as error:
        return f"other settings: {error}"
    except StoreError as error:
        return f"{DAMAGED}: {error}"
    except (GigamilError, OSError) as error:
        return f"would fail: {error}"
    return f"{DAMAGED}: {found_or_why}" if isinstance(found_or_why, str) else ""


def why_not_bag(options: ExtractOptions, bag: Path, store: Path) -> str:
    """Return why extraction would not keep a bag; "" where it would, as far as can be told without the encoder."""
    try:
        header = read_header(bag)
        if not header.recipe:
            return "not made by gigamil"
        found = options_of(header.recipe)
        wanted = {name: getattr(options, name) for name in found} | {"encoder": options.joined}
        if options.precision == "auto":
            wanted["precision"] = found["precision"]
        lines = differences(found, wanted)
        with suppress(StoreError):
            lines += differences({"tiling": header.recipe.get("tiling")}, {"tiling": TileStore(store).recipe})
        if lines:
            return f"other settings: {'; '.join(lines)}"
        return "" if is_intact(bag) else f"{DAMAGED}: its rows are not those that were written"
    except (BagError, OSError) as error:
        return f"{DAMAGED}: {error}"
