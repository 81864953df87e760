"""`gigamil verify`: tile stores, bags, or what a bundle must not hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi.errors import RequestError
from wsi.options import Option, check, shared, stage
from wsi.progress.outcome import Progress, Summary
from wsi.sharing.options import PhiSearch
from wsi.store.options import Thoroughness, VerifyOptions


@dataclass(frozen=True, kw_only=True)
class VerifyItemsOptions(Thoroughness, PhiSearch):
    """What to verify."""

    items: Annotated[tuple[str, ...], Option(argument="ITEMS...", remote="streamed")]
    """Tile stores (*.zarr; s3:// too) or bags (*.h5), or folders that hold them; with --phi any folder."""

    def __post_init__(self) -> None:
        check(self)
        if self.phi != (self.against is not None):
            raise RequestError("--phi and --against belong together: what to search for stands in a cohort table")
        if self.slides and not self.phi:
            raise RequestError("--slides belongs to --phi: expected both")


@stage
def verify_items(options: VerifyItemsOptions, progress: Progress) -> Summary:
    """Check that tile stores are whole, or bags; or that a bundle holds nothing of what a table knows."""
    if options.phi and options.against is not None:
        from wsi.sharing.options import PhiOptions
        from wsi.sharing.phi.search import verify_phi

        folders = tuple(map(Path, options.items))
        return verify_phi(PhiOptions(folders=folders, against=options.against, slides=options.slides), progress)
    bags = tuple(Path(item) for item in options.items if _holds_bags(Path(item)))
    if not bags:
        from wsi.store.verify import verify

        return verify(VerifyOptions(stores=options.items, **shared(VerifyOptions, options)), progress)
    if len(bags) < len(options.items):
        raise RequestError("expected either tile stores or bags, found both: verify one kind after the other")
    from features.bags.options import VerifyBagsOptions
    from features.bags.verify import verify_bags

    return verify_bags(VerifyBagsOptions(bags=bags), progress)


def _holds_bags(path: Path) -> bool:
    return path.suffix == ".h5" or (path.is_dir() and path.suffix != ".zarr" and any(path.glob("*.h5")))
