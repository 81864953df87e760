"""COHORT.toml: one file that says what is to become of a cohort, read strictly; and where each thing of it lies.

Its tables hold the verbs' own options (`mil.pipeline.cohort.tables`), its experiments are those of
`mil.pipeline.cohort.grid`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.encoders.registry import check_encoder_name
from features.extraction.options import ExtractOptions, folder_name
from mil.pipeline.cohort.grid import Beneath, Experiment, encoders_of, experiments_of
from mil.pipeline.cohort.tables import AFTER, VERBS, AfterTable, Cohort, CohortTables, PredictTable, Values, said_of
from wsi.errors import RequestError
from wsi.files.regular import file_sha256
from wsi.option_files import nearest, table_values
from wsi.recipe import recipe_hash
from wsi.store.layout import SUFFIX
from wsi.tiling.options import TileOptions
from wsi.urls import url_of

__all__ = ["ALL", "BEST", "CohortFile", "Experiment", "read_cohort_file"]

BEST, ALL = "best", "all"
_OF_WEIGHTS = ("weights", "random_weights")
"""Of [extract]: not for `texture` where it stands beside encoders that have learned."""


@dataclass(frozen=True, kw_only=True)
class CohortFile:
    """What is to become of a cohort; every path is absolute."""

    path: Path
    name: str
    folder: Path
    """Everything that is made lies in it."""
    slides: tuple[Path, ...]
    manifest: Path
    tile: TileOptions
    new: TileOptions | None
    """The slides that only [predict] names, tiled alike; None where it names none."""
    extract: tuple[ExtractOptions, ...]
    """One for each encoder."""
    experiments: tuple[Experiment, ...]
    after: Mapping[str, Mapping[str, Any]]
    """Options by field of predict, heatmap, page and report, as far as they are wanted, in that order."""
    chosen: Mapping[str, tuple[str, ...]]
    """Of each of these: names of experiments, or ``best``, or ``all``."""
    slurm: Mapping[str, Any]
    rehearse: Mapping[str, Any]

    @property
    def stores(self) -> Path:
        """Folder of the tile stores."""
        return self.folder / "stores"

    def store(self, image_id: str) -> Path:
        """Return the path of a slide's tile store."""
        return self.stores / f"{image_id}{SUFFIX}"

    def bags(self, encoder: str) -> Path:
        """Return the folder of an encoder's bags."""
        return self.folder / "bags" / folder_name(encoder)

    def run_folder(self, experiment: str) -> Path:
        """Return the run folder of an experiment."""
        return self.folder / "runs" / experiment

    @property
    def tilings(self) -> tuple[TileOptions, ...]:
        """What is tiled, all alike: the cohort, slides that experiments only train on, those that [predict] names."""
        others = dict.fromkeys(own.options.other for own in self.experiments if own.options.other)
        return (
            self.tile,
            *(replace(self.tile, manifest=other) for other in others),
            *([] if self.new is None else [self.new]),
        )

    @property
    def content_hash(self) -> str:
        """Hash of what shapes any result: places, machines and comments apart. What a rehearsal was of."""
        experiments = {own.name: own.recipe for own in self.experiments}
        return recipe_hash({"slides": [path.name for path in self.slides], "experiments": experiments})


def read_cohort_file(path: Path) -> CohortFile:
    """Read and check a cohort file.

    Raises
    ------
    RequestError
        Unknown, missing, or what the verb itself says of the value: file, table and key in one line.
    """
    path = path.absolute()
    tables = CohortTables.read(path)
    cohort = tables.cohort()
    folder = cohort.folder or path.with_suffix("")
    for key, own in (("folder", folder), ("manifest", cohort.manifest)):
        if url_of(own):
            raise RequestError(
                f"{path}: {key} {own}: expected one of this machine, or of a disk that all machines share (the table "
                "of experiments wants locks): slides may be URLs"
            )
    if folder == path:
        raise RequestError(f"{path}: folder: expected one, for the file's name has no ending that could be left out")
    tile = tables.make(
        "[tile]",
        TileOptions,
        slides=cohort.slides,
        manifest=cohort.manifest,
        columns=cohort.columns,
        out=folder / "stores",
        **(tables.of("tile") or {}),
    )
    extract = _extractions(tables, folder)
    beneath = Beneath(
        folder=folder,
        manifest=cohort.manifest,
        columns=cohort.columns,
        train=tables.of("train") or {},
        extract={options.joined: options for options in extract},
        below={"tile": _tiling_recipe(tile), "manifest": _manifest_hash(path, cohort)},
    )
    experiments = experiments_of(tables, beneath)
    after, chosen, new = _after(tables, tile, {own.name for own in experiments})
    if new is not None and new.manifest is None and any(len(own.encoders) > 1 for own in experiments):
        raise RequestError(
            f"{path}, [predict]: expected a manifest of the new slides beside fused encoders, found none"
        )
    return CohortFile(
        path=path,
        name=cohort.name or path.stem,
        folder=folder,
        slides=cohort.slides,
        manifest=cohort.manifest,
        tile=tile,
        new=new,
        extract=extract,
        experiments=experiments,
        after=after,
        chosen=chosen,
        slurm=tables.free("slurm"),
        rehearse=tables.free("rehearse"),
    )


def _manifest_hash(path: Path, cohort: Cohort) -> str:
    with said_of(f"{path}, manifest"):
        try:
            return recipe_hash({"sha256": file_sha256(cohort.manifest), "columns": cohort.columns})
        except OSError as error:
            raise RequestError(f"{cohort.manifest}: cannot be read: {error.strerror}") from None


def _extractions(tables: CohortTables, folder: Path) -> tuple[ExtractOptions, ...]:
    """Return the options of extraction for each encoder."""
    table = {key: value for key, value in tables.found.get("extract", {}).items() if key != "encoder"}
    own, encoders = tables.values("extract", table, "[extract]"), encoders_of(tables)
    learned = [name for name in encoders if name != "texture"] or encoders
    with said_of(f"{tables.path}, [extract]"):  # told before slides are tiled for hours
        for encoder in encoders:
            check_encoder_name(encoder)
        weights = own.get("weights")
        if weights is not None and len(learned) > 1:
            raise RequestError(f"--weights {weights}: expected one encoder with it, found {', '.join(learned)}")
        if weights is not None and not url_of(weights) and not weights.exists():
            raise RequestError(f"--weights {weights} does not exist: expected a file of weights")
    return tuple(
        tables.make(
            "[extract]",
            ExtractOptions,
            stores=(folder / "stores",),
            out=folder / "bags" / folder_name(encoder),
            encoder=encoder,
            **{key: value for key, value in own.items() if encoder in learned or key not in _OF_WEIGHTS},
        )
        for encoder in encoders
    )


def _tiling_recipe(tile: TileOptions) -> dict[str, Any]:
    told = {name: getattr(tile, name) for name in ("assume_mpp", "reader", "scene", "icc", "on_damage")}
    return tile.recipe() | told | ({"roi": str(tile.roi)} if tile.roi else {})


def _after(
    tables: CohortTables, tile: TileOptions, names: set[str]
) -> tuple[dict[str, Values], dict[str, tuple[str, ...]], TileOptions | None]:
    """Return what is made of trained runs, of which runs, and what is tiled for it."""
    after, chosen, new = dict[str, Values](), dict[str, tuple[str, ...]](), None
    for verb in AFTER:
        table = dict(tables.found.get(verb, {}))
        if verb not in tables.found:
            continue
        where, folder = f"{tables.path}, [{verb}]", tables.path.parent
        picked = {key: table.pop(key) for key in ("experiments",) if key in table}
        chosen[verb] = AfterTable(**table_values(AfterTable, picked, folder, verb, where)).experiments
        for name in chosen[verb]:
            if name not in (names | {BEST, ALL}) or (name in (BEST, ALL) and len(chosen[verb]) > 1):
                told = nearest(name, [*names, BEST, ALL])
                raise RequestError(f"{where}: experiments {name}: expected best, all, or names of experiments{told}")
        if verb == "predict":
            slides = {key: table.pop(key) for key in ("slides",) if key in table}
            own = PredictTable(**table_values(PredictTable, slides, folder, verb, where)).slides
            after[verb] = tables.values(verb, table, f"[{verb}]")
            new = _new_slides(tables, tile, own, after[verb])
        else:
            after[verb] = tables.values(verb, table, f"[{verb}]")
        _try(tables, verb, after[verb])
    return after, chosen, new


def _new_slides(tables: CohortTables, tile: TileOptions, slides: tuple[Path, ...], predict: Values) -> TileOptions:
    """Return how the slides to predict are tiled: as the cohort is."""
    manifest = predict.get("manifest")
    if manifest is None and not slides:
        raise RequestError(f"{tables.path}, [predict]: expected slides or a manifest of new patients, found neither")
    with said_of(f"{tables.path}, [predict]"):
        return replace(tile, slides=slides or tile.slides, manifest=manifest)


def _try(tables: CohortTables, verb: str, values: Values) -> None:
    """Make the options of a run that is not there yet: what they say of each other is said at once."""
    here = Path("run")
    places: dict[str, dict[str, Any]] = {
        "predict": {"items": (here,), "run": (here,), "out": Path("predictions.csv")},
        "heatmap": {"run": here, "bags": (here,), "stores": (here,), "out": here},
        "page": {"items": (here,)},
        "report": {"run": here, "bags": (here,), "stores": (here,)},
    }
    tables.make(f"[{verb}]", VERBS[verb], **places[verb], **values)
