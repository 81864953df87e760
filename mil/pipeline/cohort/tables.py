"""The tables of COHORT.toml: which there are, which keys of a verb stand in them, the values as the verb wants them."""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from features.extraction.options import ExtractOptions
from mil.heatmaps.options import HeatmapOptions
from mil.inference.options import PredictOptions, SlideOptions
from mil.report.options import ReportOptions
from mil.training.options import TrainOptions
from mil.viewing.options import PageOptions
from wsi.errors import RequestError
from wsi.files.documents import read_toml
from wsi.option_files import nearest, table_values
from wsi.option_groups import Columns
from wsi.options import Option, check, specs
from wsi.tiling.options import TileOptions

VERBS: dict[str, type] = {
    "tile": TileOptions,
    "extract": ExtractOptions,
    "train": TrainOptions,
    "predict": PredictOptions,
    "heatmap": HeatmapOptions,
    "page": PageOptions,
    "report": ReportOptions,
}
"""Tables that hold a verb's options; the last four in the order of making: a report links the pages."""
AFTER = ("predict", "heatmap", "page", "report")
GRID, EXPERIMENTS = "grid", "experiments"
_FREE = ("slurm", "rehearse")
"""Tables whose keys other verbs know."""
_OF_SLIDES = {own.name for own in fields(SlideOptions)} - {"device"}
"""Options of predict that say how slides become bags: as the cohort's do."""
_PLACED = {
    "tile": {"slides", "manifest", "columns", "out"},
    "extract": {"stores", "out", "concat"},
    "train": {"bags", "stores", "manifest", "columns", "out"},
    "predict": {"items", "run", "out", "columns", "combine"} | _OF_SLIDES,
    "heatmap": {"run", "bags", "stores", "out"},
    "page": {"items", "stores", "bags", "out", "dry_run"},
    "report": {"run", "bags", "stores", "pages"},
}
"""Fields that the file's folder and its first lines decide."""
_TOLD = {"overwrite", "no_lock"}
"""Fields that are told when `gigamil run` is given: they are for one time."""
_SEVERAL = {"train": {"repeats"}}
"""Fields that would make several runs of one experiment."""
LEFT_OUT = {verb: fields | _TOLD | _SEVERAL.get(verb, set()) for verb, fields in _PLACED.items()}
"""Fields of each verb that do not stand in its table."""
_MOST_NAME = 100
Values = dict[str, Any]
_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class Cohort(Columns):
    """The cohort."""

    name: str = ""
    """What it is called; otherwise as the file is."""
    folder: Path | None = None
    """Everything is made in it; otherwise a folder named as the file, beside it."""
    slides: tuple[Path, ...]
    """Slide files, and folders in which slides are found."""
    manifest: Path
    """Cohort table (CSV) with labels; only its slides are taken."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class PredictTable:
    """Beside the options of predict."""

    slides: tuple[Path, ...] = ()
    """New slides; otherwise those of the manifest here, among the file's slides."""


@dataclass(frozen=True, kw_only=True)
class AfterTable:
    """Beside the options of predict, heatmap, page and report."""

    experiments: Annotated[tuple[str, ...], Option()] = ("best",)
    """Of which experiments: best, all, or names."""


@dataclass(frozen=True)
class CohortTables:
    """A file's tables as they stand there."""

    path: Path
    found: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "CohortTables":
        """Read a file; `RequestError` where a table or key is none of ours, or is of another kind."""
        found, keys = read_toml(path), [spec.key for spec in specs(Cohort)]
        tables = [*VERBS, GRID, EXPERIMENTS, *_FREE]
        for key, value in found.items():
            if key not in (*keys, *tables):
                told = f"[{key}] is no table" if isinstance(value, dict | list) else f"{key} is no key"
                raise RequestError(f"{path}: {told} of a cohort file{nearest(key, [*keys, *tables])}")
            if key in tables and not _is_kind(key, value):
                wanted = "tables [[experiments]]" if key == EXPERIMENTS else f"a table [{key}]"
                raise RequestError(f"{path}: {key}: expected {wanted}, found {_shown(value)}")
        return cls(path, found)

    def cohort(self) -> Cohort:
        """Return what stands before the tables."""
        keys = {spec.key for spec in specs(Cohort)}
        own = {key: value for key, value in self.found.items() if key in keys}
        values = table_values(Cohort, own, self.path.parent, "a cohort file", str(self.path))
        absent = [
            spec.key for spec in specs(Cohort) if spec.field in ("slides", "manifest") and not values.get(spec.field)
        ]
        if absent:
            raise RequestError(f"{self.path}: expected {' and '.join(absent)} before the first table, found none")
        return Cohort(**values)

    def of(self, verb: str) -> Values | None:
        """Return a verb's options by field, None where the file has no such table."""
        table = self.found.get(verb)
        return None if table is None else self.values(verb, table, f"[{verb}]")

    def values(self, verb: str, table: Mapping[str, Any], title: str) -> Values:
        """Return the options of a verb that stand in a table, by field."""
        options, where = VERBS[verb], f"{self.path}, {title}"
        fields = {spec.key: spec.field for spec in specs(options)} | {spec.field: spec.field for spec in specs(options)}
        for key in table:
            field = fields.get(key.replace("-", "_"))
            if field in _PLACED[verb]:
                raise RequestError(f"{where}: {key}: leave it out: {_decides(field)}")
            if field in _SEVERAL.get(verb, ()):
                raise RequestError(
                    f"{where}: {key}: leave it out: a list of seeds in [{GRID}] makes an experiment of each"
                )
            if field in _TOLD:
                raise RequestError(
                    f"{where}: {key}: leave it out, and give --{field.replace('_', '-')} to `gigamil run`"
                )
        return table_values(options, table, self.path.parent, verb, where)

    def free(self, name: str) -> Mapping[str, Any]:
        """Return a table whose keys another verb knows; empty where there is none."""
        return dict(self.found.get(name, {}))

    def make(self, title: str, kind: Callable[..., _Made], **values: Any) -> _Made:
        """Return options made of values; what they say of each other begins with file and table."""
        with said_of(f"{self.path}, {title}"):
            return kind(**values)


@contextmanager
def said_of(where: str) -> Any:
    """Begin every `RequestError` with the place that it speaks of."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def _is_kind(key: str, value: Any) -> bool:
    if key == EXPERIMENTS:
        return isinstance(value, list) and all(isinstance(own, dict) for own in value)
    return isinstance(value, dict)


def _decides(field: str) -> str:
    if field in ("slides", "manifest", "columns"):
        return f"{field} stands before the first table, for all stages"
    if field == "concat":
        return "of encoders joined by +, the features stand side by side in one bag"
    if field in _OF_SLIDES:
        return "[tile] and [extract] hold for the slides to predict, too"
    return "the cohort's folder decides it"


def _shown(value: Any) -> str:
    return "a list" if isinstance(value, list) else "a table" if isinstance(value, dict) else repr(value)
