"""What is in a slide file, which um/px is believed and why, and what tiling it would do and cost."""

from collections.abc import Sequence
from typing import Any

from rich.filesize import decimal

from wsi.cohort.slides import Job, find_jobs
from wsi.errors import SlideError
from wsi.machine.cpu import usable_cpus
from wsi.options import stage
from wsi.pages import plural
from wsi.pixels.icc import describe_profile
from wsi.progress.outcome import Progress
from wsi.qc.options import InfoOptions
from wsi.qc.pixel_check import check_pixels
from wsi.readers.protocol import Slide
from wsi.readers.resolution import resolve_mpp
from wsi.slide import open_slide
from wsi.store.grid import Grid
from wsi.tiling.scaling import choose_scaling

UNKNOWN = "unknown"
DISK = {"zstd": 2.5, "jpeg": 0.5}
"""Bytes a pixel of stained tissue by codec, in the middle of what was measured (docs/BENCHMARKS.md)."""


@stage
def describe_all(options: InfoOptions, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Describe each slide as a row of short texts.

    A slide that fails has ``failed`` True and its reason in ``notes``; one whose um/px differs from that of most slides
    has ``odd`` True.
    """
    rows = [describe(job, options, progress) for job in find_jobs(options.slides, options.manifest)]
    odd = {name for group in count_resolutions(rows) if group["odd"] for name in group["images"]}
    return [row | {"odd": row["image_id"] in odd} for row in rows]


def describe(job: Job, options: InfoOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Describe one slide; see `describe_all`."""
    row = dict.fromkeys(("size", "levels", "reader", "reader_because", "mpp", "mpp_source", "tiling", "notes"), "")
    facts: dict[str, Any] = row | {"image_id": job.image_id, "failed": True}
    if job.problem:
        return facts | {"notes": job.problem}
    notes: list[str] = []
    try:
        threads = usable_cpus() if options.verify else 1
        with open_slide(job.path, options.reader, threads=threads, scene=options.scene) as slide:
            notes += [*slide.notes, *_scenes(slide), *_icc(slide)]
            facts |= _of_file(slide)
            if options.verify:
                check = check_pixels(slide, progress)
                facts["damaged"] = len(check.damaged)
                notes.append(str(check))
            facts |= _of_tiling(slide, job, options, notes)
    except SlideError as error:
        return facts | {"notes": "; ".join([*notes, str(error)])}
    except OSError as error:
        return facts | {"notes": "; ".join([*notes, f"reading failed: {error.strerror or error}"])}
    return facts | {"notes": "; ".join(notes), "failed": bool(facts.get("damaged") or slide.missing)}


def _scenes(slide: Slide) -> list[str]:
    """List the scenes of a slide with several; their names are for the screen alone."""
    listed = (f"{s.index} {s.name!r} {s.shape.x} x {s.shape.y}" for s in slide.scenes)
    return [f"scenes: {', '.join(listed)}"] if len(slide.scenes) > 1 else []


def _icc(slide: Slide) -> list[str]:
    if not slide.icc:
        return []
    return [f"ICC profile: {describe_profile(slide.icc)} ({len(slide.icc):,} bytes), kept; --icc srgb applies it"]


def _of_file(slide: Slide) -> dict[str, str]:
    height, width = slide.levels[0].shape
    return {
        "size": f"{width} x {height}",
        "levels": ", ".join(f"{level.downsample:g}" for level in slide.levels),
        "reader": f"{slide.reader} ({slide.format})",
        "reader_because": slide.chosen_because,
    }


def _of_tiling(slide: Slide, job: Job, options: InfoOptions, notes: list[str]) -> dict[str, str]:
    resolution = resolve_mpp(
        slide.mpp_claims,
        objective_power=slide.objective_power,
        manifest_mpp=job.mpp,
        assume_mpp=options.assume_mpp,
    )
    notes += resolution.rejected
    facts = {"mpp": f"{resolution.mpp:.4g}", "mpp_source": resolution.source}
    try:
        scaling = choose_scaling(slide.levels, resolution.mpp, options.target_mpp)
    except SlideError as error:
        # The slide itself is in order: what is wanted of it is not to be had.
        return facts | {"tiling": f"refused: {error}"}
    tiles, pixels = Grid(scaling.shape, 256).tiles, scaling.shape.y * scaling.shape.x
    disk = " or ".join(f"{decimal(round(own * pixels))} with --codec {codec}" for codec, own in DISK.items())
    facts["tiling"] = (
        f"level {scaling.level} averaged by {scaling.factor:.4g} to {scaling.mpp:.4g} um/px: "
        f"{plural(tiles.y * tiles.x, 'tile')} of 256 px before the tissue mask; {disk} on disk, were all of it tissue"
    )
    return facts


def count_resolutions(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count slides by um/px (to two digits) and by where it comes from, commonest first.

    Returns
    -------
    list
        Dicts of ``mpp``, ``source`` (texts), ``images`` (ids) and ``odd``: True for every group less than half as large
        as the commonest, and for slides whose um/px is unknown beside others whose um/px is known.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        key = (f"{float(row['mpp']):.2g}", row["mpp_source"]) if row["mpp"] else (UNKNOWN, "")
        groups.setdefault(key, []).append(row["image_id"])
    most = max((len(images) for (mpp, _), images in groups.items() if mpp != UNKNOWN), default=0)
    counted: list[dict[str, Any]] = [
        {
            "mpp": mpp,
            "source": source,
            "images": images,
            "odd": bool(most) and (mpp == UNKNOWN or 2 * len(images) < most),
        }
        for (mpp, source), images in groups.items()
    ]
    return sorted(counted, key=lambda group: -len(group["images"]))
