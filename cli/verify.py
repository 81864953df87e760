"""`gigamil verify`: tile stores, or bags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi.errors import RequestError
from wsi.options import Option, check, shared
from wsi.outcome import Progress, Summary
from wsi.store.options import Thoroughness, VerifyOptions


@dataclass(frozen=True, kw_only=True)
class VerifyItemsOptions(Thoroughness):
    """What to verify."""

    items: Annotated[tuple[str, ...], Option(argument="ITEMS...")]
    """Tile stores (*.zarr; s3:// too) or bags (*.h5), or folders that hold them."""

    def __post_init__(self) -> None:
        check(self)


def verify_items(options: VerifyItemsOptions, progress: Progress) -> Summary:
    """Check that tile stores are whole, or bags."""
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
