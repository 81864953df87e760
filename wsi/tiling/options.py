"""The options of the tiling stage."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsi.errors import RequestError
from wsi.pixels.icc import SRGB
from wsi.readers.resolution import POSSIBLE_MPP, WANTED_MPP, is_possible_mpp, is_wanted_mpp
from wsi.scores.drop import Rule, parse_rules
from wsi.scores.quality import TILE_SCORES
from wsi.slide import READERS
from wsi.store.codecs import AUTO, CODEC_CHOICES
from wsi.tissue.roi import MODES

AREA, DCT = "area", "dct"
"""How pixels are made smaller."""
NATIVE = "native"


@dataclass(frozen=True, kw_only=True, slots=True)
class TileOptions:
    """What `wsi.tiling.tiler.tile` is to do."""

    slides: tuple[Path, ...]
    """Slide files, and folders in which slides are found."""
    out: Path
    """Folder of the stores."""
    manifest: Path | None = None
    """Cohort table; only its slides are tiled."""
    target_mpp: float = 0.5
    """um/px of the store's level 0."""
    tile_px: int | str = 256
    """Side of a tile, an even number, or ``native``: the slide's own."""
    codec: str = AUTO
    """How chunks are compressed: ``auto`` (JPEG tiles copied where possible, else zstd), ``jpeg`` or ``zstd``."""
    downscale: str = AREA
    """``area``: pixels are averaged. ``dct``: JPEG tiles are decoded at the wanted size where that is a 2nd to 8th."""
    min_tissue: float = 0.1
    """Least share of tissue of a listed tile; tiles with any tissue at all are stored."""
    keep_background: bool = False
    """Store the tiles without tissue, too."""
    assume_mpp: float | None = None
    """um/px of slides that do not say it, or say nonsense."""
    on_damage: str = "fail"
    """``fail``: a slide with pixels that cannot be decoded fails. ``skip``: they are marked and left out."""
    roi: Path | None = None
    """Regions drawn by hand: a GeoJSON or PNG file, or a folder with one for each image id."""
    roi_mode: str = "and"
    """``and``: tissue inside the regions. ``replace``: all of the regions, tissue or not."""
    roi_class: tuple[str, ...] = ()
    """Of a GeoJSON, only regions of these classes; none: all but those that QuPath ignores."""
    fill_holes: bool = False
    """Fill the holes of the tissue, and of the regions."""
    drop: tuple[str, ...] = ()
    """Rules by which tiles are left out of the list, such as ``focus<0.04``."""
    scores: str = "auto"
    """``auto``: score the pixels of tiles that are decoded anyway. ``all``: decode tiles for that, too."""
    reader: str | None = None
    """Force this reader."""
    scene: int | None = None
    """Which scene of files with several, from 0; None: the largest."""
    icc: str | None = None
    """``srgb``: the slide's ICC profile is applied, where it has one. None: pixels stay as they are."""
    workers: int | None = None
    """Worker processes; None: one per usable CPU; 0: none, everything runs in this process."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, in place of local workers."""
    overwrite: bool = False
    """Replace stores that were made with other settings."""

    def __post_init__(self) -> None:
        """Check every field."""
        size_fits = self.tile_px == NATIVE or (
            isinstance(self.tile_px, int) and 32 <= self.tile_px <= 4096 and self.tile_px % 2 == 0
        )
        if not self.slides and self.manifest is None:
            raise RequestError("nothing to tile: expected slides, folders of slides, or a --manifest with paths")
        checks = [
            (is_wanted_mpp(self.target_mpp), "mpp", WANTED_MPP),
            (size_fits, "tile-px", f"an even number from 32 to 4096, or {NATIVE}"),
            (self.codec in CODEC_CHOICES, "codec", f"one of {', '.join(CODEC_CHOICES)}"),
            (self.downscale in {AREA, DCT}, "downscale", f"{AREA} or {DCT}"),
            (0 <= self.min_tissue <= 1, "min-tissue", "0 to 1"),
            (self.assume_mpp is None or is_possible_mpp(self.assume_mpp), "assume-mpp", POSSIBLE_MPP),
            (self.on_damage in {"fail", "skip"}, "on-damage", "fail or skip"),
            (self.roi_mode in MODES, "roi-mode", "and or replace"),
            (self.roi is not None or self.roi_mode == "and", "roi-mode", "--roi beside it"),
            (self.roi is not None or not self.roi_class, "roi-class", "--roi beside it"),
            (self.roi is None or self.roi.exists(), "roi", "a GeoJSON, a PNG or a folder of them that exists"),
            (self.scores in {"auto", "all"}, "scores", "auto or all"),
            (self.reader is None or self.reader in READERS, "reader", f"one of {', '.join(READERS)}"),
            (self.scene is None or self.scene >= 0, "scene", "0 or more"),
            (self.icc in {None, SRGB}, "icc", SRGB),
            (self.workers is None or self.workers >= 0, "workers", "0 (in this process) or more"),
        ]
        parse_rules(self.drop)
        for fits, name, expected in checks:
            if not fits:
                found = self.target_mpp if name == "mpp" else getattr(self, name.replace("-", "_"))
                raise RequestError(f"--{name} {found}: expected {expected}")

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
    def rules(self) -> tuple[Rule, ...]:
        """The rules of ``drop``."""
        return parse_rules(self.drop)

    @property
    def scores_every_tile(self) -> bool:
        """Whether tiles are decoded for their scores alone."""
        return self.scores == "all" or any(rule.score in TILE_SCORES for rule in self.rules)
