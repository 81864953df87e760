"""The options of the tiling stage."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from wsi.errors import RequestError
from wsi.option_groups import Claims, Manifest, Overwriting, Reading, Stalls, WantedMpp, Workers
from wsi.options import Option, check
from wsi.urls import url_of

if TYPE_CHECKING:
    from wsi.scores.drop import Rule

AREA, DCT = "area", "dct"
"""How pixels are made smaller."""
NATIVE = "native"
HALVES, SOURCE = "halves", "source"
"""Which levels a store has below its level 0."""
_TILE_PX = f"an even number from 32 to 4096, or {NATIVE}"


@dataclass(frozen=True, kw_only=True)
class _Tissue:
    """Which tiles are kept."""

    min_tissue: Annotated[float, Option(least=0, most=1)] = 0.1
    """Least share of tissue of a listed tile; tiles with any tissue at all are stored."""
    keep_background: Annotated[bool, Option(formerly=("--background",))] = False
    """Store the tiles without tissue, too."""
    roi: Path | None = None
    """Regions drawn by hand: a GeoJSON (.gz), a PNG or an OME-Zarr label, or a folder with one for each image id."""
    roi_mode: Literal["and", "replace"] = "and"
    """and: tissue inside the regions; replace: all of the regions, tissue or not."""
    roi_class: tuple[str, ...] = ()
    """Of a GeoJSON, only regions of this class; otherwise all but those that QuPath ignores (*)."""
    fill_holes: bool = False
    """Fill the holes of the tissue, and of the regions."""
    drop: Annotated[tuple[str, ...], Option(check="wsi.scores.drop:parse_rules")] = ()
    """A rule by which tiles are left out of the list, such as 'focus<0.04' or 'pen>0.5'."""
    scores: Literal["auto", "all"] = "auto"
    """auto: score the pixels of tiles that are decoded anyway; all: decode copied JPEG tiles for that, too."""


@dataclass(frozen=True, kw_only=True)
class TileOptions(_Tissue, Reading, Manifest, Workers, Stalls, Overwriting, Claims):
    """What `wsi.tiling.tiler.tile` is to do."""

    slides: Annotated[tuple[Path, ...], Option(argument="[SLIDES]...", remote="items")] = ()
    """Slide files, and folders in which slides are found."""
    out: Annotated[Path, Option(short="-o", remote="items")] = Path("stores")
    """Folder of the stores; made when missing."""
    target_mpp: Annotated[WantedMpp, Option(name="mpp")] = 0.5
    """um/px of the tiles, the store's level 0."""
    tile_px: Annotated[int | Literal["native"], Option(least=32, most=4096, expected=_TILE_PX)] = 256
    """Side of a tile, an even number; native: the slide's own."""
    codec: Literal["auto", "jpeg", "zstd"] = "auto"
    """zstd opens in napari, neuroglancer, vizarr, tensorstore; jpeg, a fifth the size, only in our pages and viewer and
    in zarr-python programs (napari) beside gigamil; auto: the slide's JPEG tiles, copied, where possible, else zstd."""
    subsampling: Literal["444", "420"] = "444"
    """Of JPEG that is made, not of what is copied. 444: colours at full resolution; 420: at half, a third quicker and
    smaller, colours two to three times as far off."""
    downscale: Literal["area", "dct"] = "area"
    """area: pixels are averaged; dct: JPEG tiles are decoded at the wanted size where that is a 2nd to 8th, faster."""
    pyramid: Literal["halves", "source", "auto"] = "halves"
    """halves: each level is half the one above; source: levels as the slide has them (4, 16, ...), copied undecoded,
    quickest; a slide without JPEG tiles to copy fails; auto: source where there are such, else halves."""
    on_damage: Literal["fail", "skip"] = "fail"
    """fail: a slide with pixels that cannot be decoded fails; skip: they are marked and left out."""
    icc: Literal["srgb"] | None = None
    """srgb: the slide's ICC profile is applied, where it has one; otherwise pixels stay as they are."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, tcp://..., in place of local workers."""
    dashboard: bool = False
    """Print the address of Dask's dashboard, which shows what each worker does; on this machine alone. Needs bokeh."""
    summary: Annotated[Path | None, Option(check="wsi.cohort.summary_table:check_summary_path", remote="output")] = None
    """Write a table of the slides: .csv or .json."""

    def __post_init__(self) -> None:
        """Check every field, and those that belong together."""
        if not self.slides and self.manifest is None:
            raise RequestError("nothing to tile: expected slides, folders of slides, or a --manifest with paths")
        check(self)
        checks = [
            (
                self.tile_px == NATIVE or int(self.tile_px) % 2 == 0,
                "tile-px",
                f"an even number from 32 to 4096, or {NATIVE}",
            ),
            (self.roi is not None or self.roi_mode == "and", "roi-mode", "--roi beside it"),
            (self.roi is not None or not self.roi_class, "roi-class", "--roi beside it"),
            (
                self.roi is None or bool(url_of(self.roi)) or self.roi.exists(),
                "roi",
                "a GeoJSON, a PNG or a folder of them that exists",
            ),
        ]
        for fits, name, expected in checks:
            if not fits:
                raise RequestError(f"--{name} {getattr(self, name.replace('-', '_'))}: expected {expected}")

    def absolute(self) -> "TileOptions":
        """Return the same options with every path absolute."""
        return replace(
            self,
            slides=tuple(path.absolute() for path in self.slides),
            out=self.out.absolute(),
            manifest=self.manifest and self.manifest.absolute(),
            roi=self.roi and self.roi.absolute(),
        )

    def recipe(self) -> dict[str, Any]:
        """Return what was asked and shapes every slide, as JSON; `wsi.tiling.tile_recipe` adds what comes of it."""
        return {
            "target_mpp": self.target_mpp,
            "tile_px": self.tile_px,
            "codec": self.codec,
            "downscale": self.downscale,
            "min_tissue": self.min_tissue,
            "keep_background": self.keep_background,
            "roi_mode": self.roi_mode,
            "roi_class": sorted({name.strip().casefold() for name in self.roi_class}),
            "fill_holes": self.fill_holes,
            "drop": [str(rule) for rule in self.rules],
            "scores": self.scores,
        }

    @property
    def rules(self) -> tuple["Rule", ...]:
        """The rules of ``drop``."""
        from wsi.scores.drop import parse_rules

        return parse_rules(self.drop)

    @property
    def scores_every_tile(self) -> bool:
        """Whether tiles are decoded for their scores alone."""
        from wsi.scores.quality import TILE_SCORES

        return self.scores == "all" or any(rule.score in TILE_SCORES for rule in self.rules)
