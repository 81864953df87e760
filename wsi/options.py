"""The options of the tiling stage."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi.codecs import CODECS
from wsi.errors import RequestError
from wsi.slide import READERS

NATIVE = "native"


@dataclass(frozen=True, kw_only=True, slots=True)
class TileOptions:
    """What `wsi.tiler.tile` is to do."""

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
    codec: str = "zstd"
    """How chunks are compressed."""
    min_tissue: float = 0.1
    """Least share of tissue of a listed tile; tiles with any tissue at all are stored."""
    keep_background: bool = False
    """Store the tiles without tissue, too."""
    assume_mpp: float | None = None
    """um/px of slides that do not say it, or say nonsense."""
    on_damage: str = "fail"
    """``fail``: a slide with pixels that cannot be decoded fails. ``skip``: they are marked and left out."""
    reader: str | None = None
    """Force this reader."""
    workers: int | None = None
    """Worker processes; None: one per usable CPU."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, in place of local workers."""
    overwrite: bool = False
    """Replace stores that were made with other settings."""

    def __post_init__(self) -> None:
        """Check every field."""
        size_fits = self.tile_px == NATIVE or (
            isinstance(self.tile_px, int) and 32 <= self.tile_px <= 4096 and self.tile_px % 2 == 0
        )
        checks = [
            (bool(self.slides) or self.manifest is not None, "slides", "at least one slide, folder or manifest"),
            (0.05 <= self.target_mpp <= 20, "mpp", "0.05 to 20 um/px"),
            (size_fits, "tile-px", f"an even number from 32 to 4096, or {NATIVE}"),
            (self.codec in CODECS, "codec", f"one of {', '.join(CODECS)}"),
            (0 <= self.min_tissue <= 1, "min-tissue", "0 to 1"),
            (self.assume_mpp is None or 0.05 <= self.assume_mpp <= 100, "assume-mpp", "0.05 to 100 um/px"),
            (self.on_damage in {"fail", "skip"}, "on-damage", "fail or skip"),
            (self.reader is None or self.reader in READERS, "reader", f"one of {', '.join(READERS)}"),
            (self.workers is None or self.workers >= 1, "workers", "1 or more"),
        ]
        for fits, name, expected in checks:
            if not fits:
                raise RequestError(
                    f"--{name} {getattr(self, name.replace('-', '_'), '')}: expected {expected}".replace("  ", " ")
                )

    def recipe(self) -> dict[str, Any]:
        """Return what shapes the pixels and the tile list, as JSON values."""
        return {
            "target_mpp": self.target_mpp,
            "tile_px": self.tile_px,
            "codec": self.codec,
            "min_tissue": self.min_tissue,
            "keep_background": self.keep_background,
            "assume_mpp": self.assume_mpp,
            "on_damage": self.on_damage,
            "reader": self.reader,
        }
