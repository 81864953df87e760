"""What a prediction is asked for: slides or bags, sorted out, each of them of use."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from features.bags.bag import BagHeader, find_bags, read_header
from mil.inference.combine import is_run
from mil.inference.options import PredictOptions
from mil.models.ensemble import makings_of
from mil.run.folder import RunFolder
from wsi.errors import BagError, RequestError

_NO_SLIDES = frozenset({".csv", ".tsv", ".txt", ".xlsx", ".json", ".toml", ".html", ".md", ".zip", ".safetensors"})


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
