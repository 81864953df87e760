"""What a prediction is asked for: slides or bags, sorted out, each of them of use."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from features.bags.bag import BagHeader, find_bags, read_header
from mil.data.cohort import BagSet, Making, cohort_digest, scan_bags
from mil.data.several_encoders import scan
from mil.inference.combine import is_run
from mil.inference.options import PredictOptions
from mil.inference.slides import Budget, make_bags
from mil.models.ensemble import check_bags_fit, makings_of
from mil.run.folder import RunFolder
from wsi.cohort.manifest import ManifestRow, load_manifest
from wsi.cohort.slides import find_jobs
from wsi.errors import BagError, RequestError
from wsi.files.atomic import make_folder, write_text
from wsi.files.replace import remove
from wsi.progress.outcome import Progress
from wsi.recipe import Recipe

_NO_SLIDES = frozenset({".csv", ".tsv", ".txt", ".xlsx", ".json", ".toml", ".html", ".md", ".zip", ".safetensors"})

_WORK = ".gigamil-work"
"""Marks a folder of stores and bags that is deleted when the table is written."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one run is asked about."""

    run: RunFolder
    rows: tuple[ManifestRow, ...]
    sets: tuple[BagSet, ...]
    """The bags of each encoder."""

    def recipe(self) -> Recipe:
        """Return what shapes the run's answers."""
        first, *others = [cohort_digest(self.rows, bags.headers) for bags in self.sets]
        fused = {"other_encoders": others} if others else {}
        return {"run": self.run.config["recipe_hash"], "slides": len(self.rows), "cohort": first, **fused}


def sort_items(options: PredictOptions) -> tuple[tuple[Path, ...], tuple[Path, ...], tuple[Path, ...]]:
    """Return the runs that are named, the bags, and the slides; one of the last two is empty.

    Raises
    ------
    RequestError
        An item is a run, a table, neither slide nor bag; there are both bags and slides, or none.
    """
    first = () if options.run and not is_run(options.items[0]) else options.items[:1]
    items = options.items[len(first) :]
    if not items:
        raise RequestError("expected slides or bags after the run, found none")
    kinds = {item: _kind(item) for item in items}
    bags = tuple(item for item, kind in kinds.items() if kind == "bags")
    slides = tuple(item for item, kind in kinds.items() if kind == "slides")
    if bags and slides:
        raise RequestError(f"{slides[0]} is no bag (.h5) nor a folder of them, and {bags[0]} is: give slides or bags")
    if bags and (options.work is not None or options.time_budget_min is not None):
        raise RequestError("--work and --time-budget are for slides: bags need neither")
    return (*first, *options.run), bags, slides


def _kind(item: Path) -> str:
    if not item.exists():
        raise RequestError(f"{item} does not exist: expected slides or bags")
    if is_run(item):
        raise RequestError(f"{item} is a run, not slides or bags: to predict with several runs, give each by --run")
    if item.is_dir():
        if not any(item.iterdir()):
            raise RequestError(f"{item} is empty: expected a folder of slides or bags")
        return "bags" if any(item.glob("*.h5")) else "slides"
    if item.suffix.lower() in _NO_SLIDES:
        table = "; a table of the slides is given by --manifest" if item.suffix.lower() == ".csv" else ""
        raise RequestError(f"{item}: expected a slide or a bag (.h5), found a {item.suffix} file{table}")
    return "bags" if item.suffix == ".h5" else "slides"


def check_used(items: Sequence[Path], image_ids: Sequence[str]) -> None:
    """Raise `RequestError` naming an item that holds no bag of the slides: it would be ignored."""
    wanted = set(image_ids)
    for item in items:
        paths = find_bags([item])
        if not wanted & {path.stem for path in paths} and not wanted & {own.image_id for own in _headers(paths)}:
            raise RequestError(
                f"{item} holds no bag of a slide of the manifest: leave it out, or give its own manifest"
            )


def bags_of(run: RunFolder, items: Sequence[Path]) -> tuple[Path, ...]:
    """Return those items whose bags were made as the run's were, in the run's order of encoders; all, where none fits.

    So runs of different encoders can be asked together.
    """
    headers = {item: next(_headers(find_bags([item])), None) for item in items}
    chosen: list[Path] = []
    for making in makings_of(run):
        wanted = (making.encoder, making.dim)
        fits = [item for item, own in headers.items() if own and (own.encoder, own.dim) == wanted]
        fits = [item for item in fits if item not in chosen]
        if not fits:
            return tuple(items)
        chosen += fits if run.fusion == "none" else fits[:1]
    return tuple(chosen)


def _headers(paths: Sequence[Path]) -> Iterator[BagHeader]:
    for path in paths:
        with suppress(BagError):
            yield read_header(path)


def given_bags(runs: Sequence[RunFolder], options: PredictOptions, bags: Sequence[Path]) -> list[Asked]:
    """Return the slides to predict, and for each run the bags of each encoder."""
    own = [tuple(bags) if len(runs) == 1 else bags_of(run, bags) for run in runs]
    unused = [str(path) for path in bags if not any(path in paths for paths in own)]
    if unused:
        raise RequestError(f"{unused[0]}: its bags are of an encoder that no run was trained on: leave it out")
    if options.manifest is not None:
        rows = _unlabelled(options.manifest)
        check_used(bags, [row.image_id for row in rows])
    else:
        first = own[0] if runs[0].fusion == "none" else own[0][:1]
        rows = tuple(row_of(path.stem) for path in find_bags(first))
    return [_scanned(run, rows, paths) for run, paths in zip(runs, own, strict=True)]


def _scanned(run: RunFolder, rows: tuple[ManifestRow, ...], paths: Sequence[Path]) -> Asked:
    sets = scan(paths, [row.image_id for row in rows], run.fusion)
    check_bags_fit(run, *(own.headers for own in sets))
    return Asked(run, rows, sets)


def made_bags(
    runs: Sequence[RunFolder],
    options: PredictOptions,
    slides: tuple[Path, ...],
    start: float,
    held: ExitStack,
    progress: Progress,
) -> list[Asked]:
    """Return the slides to predict, and their bags, made here: once for all runs whose bags were made alike."""
    jobs = find_jobs(slides, options.manifest)
    rows = _unlabelled(options.manifest) if options.manifest else tuple(row_of(job.image_id) for job in jobs)
    kinds = [run.config["about"]["bag_recipe"] for run in runs]
    firsts = dict(zip(reversed(kinds), reversed(runs), strict=True))
    work = options.work or held.enter_context(_work_beside(options.out))
    budget = None if options.time_budget_min is None else Budget(options.time_budget_min / len(firsts), start)
    made: dict[str, BagSet] = {}
    for number, kind in enumerate(dict.fromkeys(kinds)):
        folder = work if len(firsts) == 1 else work / f"encoder{number}"
        found = make_bags(firsts[kind], options, jobs, folder, budget, progress, overwrite=options.overwrite)
        bags = scan_bags(found.bags, [row.image_id for row in rows]) if found.bags else BagSet({}, {}, Making())
        check_bags_fit(firsts[kind], bags.headers)
        making = replace(bags.making, dim=int(firsts[kind].recipe["bags"]["dim"]))
        made[kind] = BagSet(bags.headers, bags.failures | found.failures, making)
        budget = None if budget is None else replace(budget, started=time.monotonic())
    return [Asked(run, rows, (made[kind],)) for run, kind in zip(runs, kinds, strict=True)]


@contextmanager
def _work_beside(out: Path) -> Iterator[Path]:
    """Give a hidden folder beside the table, deleted at the end; one that a killed run left is gone on with.

    The caller holds the claim on ``out``.
    """
    folder = out.with_name(f".{out.name}.work")
    make_folder(out.parent)
    if folder.exists() and not (folder / _WORK).is_file():
        raise RequestError(f"{folder} is there and was not made by this command: move it away, or give --work")
    write_text(folder / _WORK, "")
    try:
        yield folder
    finally:
        with suppress(OSError):
            remove(folder)


def _unlabelled(manifest: Path) -> tuple[ManifestRow, ...]:
    """Return the slides of the manifest; labels play no part and are dropped."""
    return tuple(replace(row, label=None) for row in load_manifest(manifest))


def row_of(image_id: str) -> ManifestRow:
    """Return a slide's row where there is no manifest: the patient is its id without a number after an underscore."""
    return ManifestRow(image_id, re.sub(r"_\d+$", "", image_id))
