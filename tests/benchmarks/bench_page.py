"""Writing a slide's page, as a ratio to a plain copy of the same page, measured in the same run.

Run: ``python tests/benchmarks/bench_page.py [STORE] [--size 20000] [--folder FOLDER] [--out bench-page.json]``, or
``make bench-wsi``. Without a store a slide of JPEG tiles is made and tiled, copied and as zstd. The copy is ``cp -r``
of the finished page, which makes as many files; the page's time holds its document, its thumbnail and having all of it
on the disk, which the copy's does not.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from sample_data.make import make_slide
from sample_data.spec import SlideSpec
from wsi.machine.cpu import usable_cpus
from wsi.progress.outcome import Silent
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
from wsi.viewing.pages.folder import Wanted, write_pages
from wsi.viewing.pages.stores_alone import StoresAlone

ROUNDS = 3
TISSUE_SHARE = 0.5
GOAL = {"jpeg": 0.3}
"""Of a copy's speed, by the codec of the finest level."""


def measure(path: Path, folder: Path) -> dict[str, object]:
    """Return seconds of both ways, taken in turn, and the median ratio of the copy's to the page's."""
    page_s, copy_s, store = [], [], TileStore(path)
    out, copy = folder / "page", folder / "copy"
    for _ in range(ROUNDS):
        for place in (out, copy):
            shutil.rmtree(place, ignore_errors=True)
        began = time.perf_counter()
        stores = [TileStore(path)]
        (outcome,) = write_pages(Wanted(out, stores, False, 1, usable_cpus()), StoresAlone(stores), Silent())
        page_s.append(time.perf_counter() - began)
        assert outcome.facts["tiles"], outcome
        began = time.perf_counter()
        subprocess.run(["cp", "-r", out, copy], check=True)
        copy_s.append(time.perf_counter() - began)
    return {
        "store": path.name,
        "codec": store.codec_names[0],
        "megapixels": store.shape_yx.y * store.shape_yx.x / 1e6,
        "files": outcome.facts["tiles"],
        "mb": outcome.facts["tile_bytes"] / 1e6,
        "page_s": median(page_s),
        "copy_s": median(copy_s),
        "ratio": median(c / p for c, p in zip(copy_s, page_s, strict=True)),
        "goal": GOAL.get(store.codec_names[0]),
    }


def make_stores(folder: Path, size: int) -> list[Path]:
    """Make a slide and its stores: JPEG tiles copied, and zstd."""
    slide = folder / f"page-{size}.tif"
    if not slide.exists():
        spec = SlideSpec(height_px=size, width_px=size, kind="jpeg-pyramid", tissue_share=TISSUE_SHARE)
        make_slide(slide, spec, threads=usable_cpus())
    for codec in ("auto", "zstd"):
        tile(TileOptions(slides=(slide,), out=folder / codec, assume_mpp=0.5, codec=codec, workers=0))
    return [folder / codec / f"{slide.stem}.zarr" for codec in ("auto", "zstd")]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=20_000, help="side of the slide, pixels")
    parser.add_argument("--folder", type=Path, help="where slide and stores are kept between runs")
    parser.add_argument("--out", type=Path, default=Path("bench-page.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        kept = arguments.folder or Path(temporary)
        stores = [arguments.store] if arguments.store else make_stores(kept, arguments.size)
        result = [measure(store, Path(temporary)) for store in stores]
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
