"""What is in a slide file, which um/px is believed and why, and what tiling it would do and cost."""

from pathlib import Path
from typing import Any

from wsi.cohort import Job, find_jobs
from wsi.errors import SlideError
from wsi.grid import Grid
from wsi.resolution import resolve_mpp
from wsi.scaling import choose_scaling
from wsi.slide import open_slide


def describe_all(
    slides: tuple[Path, ...],
    manifest: Path | None = None,
    *,
    target_mpp: float = 0.5,
    assume_mpp: float | None = None,
    reader: str | None = None,
) -> list[dict[str, Any]]:
    """Describe each slide as a row of short texts; one that fails has ``failed`` True and its reason in ``notes``."""
    return [
        describe(job, target_mpp=target_mpp, assume_mpp=assume_mpp, reader=reader)
        for job in find_jobs(slides, manifest)
    ]


def describe(job: Job, *, target_mpp: float, assume_mpp: float | None, reader: str | None) -> dict[str, Any]:
    """Describe one slide; see `describe_all`."""
    row = dict.fromkeys(("size", "levels", "reader", "reader_because", "mpp", "mpp_source", "tiling", "notes"), "")
    facts: dict[str, Any] = row | {"image_id": job.image_id, "failed": True}
    try:
        slide = open_slide(job.path, reader)
    except SlideError as error:
        return facts | {"notes": str(error)}
    try:
        height, width = slide.levels[0].shape
        facts |= {
            "size": f"{width} x {height}",
            "levels": ", ".join(f"{level.downsample:g}" for level in slide.levels),
            "reader": f"{slide.reader} ({slide.format})",
            "reader_because": slide.chosen_because,
            "notes": "; ".join([*slide.notes]),
        }
        resolution = resolve_mpp(
            slide.mpp_claims, objective_power=slide.objective_power, manifest_mpp=job.mpp, assume_mpp=assume_mpp
        )
        facts |= {
            "mpp": f"{resolution.mpp:.4g}",
            "mpp_source": resolution.source,
            "notes": "; ".join([*slide.notes, *resolution.rejected]),
        }
        scaling = choose_scaling(slide.levels, resolution.mpp, target_mpp)
        tiles = Grid(scaling.shape, 256).tiles
        facts["tiling"] = (
            f"level {scaling.level} averaged by {scaling.factor:.4g} to {scaling.mpp:.4g} um/px: "
            f"{tiles.y * tiles.x:,} tiles of 256 px before the tissue mask"
        )
    except SlideError as error:
        return facts | {"notes": "; ".join([*slide.notes, str(error)])}
    finally:
        slide.close()
    return facts | {"failed": False}
