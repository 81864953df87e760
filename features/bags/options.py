"""What verifying and exporting bags can be told."""

from dataclasses import dataclass
from pathlib import Path

from wsi.option_groups import Overwriting
from wsi.options import check


@dataclass(frozen=True, kw_only=True)
class VerifyBagsOptions:
    """Options of `features.bags.verify.verify_bags`."""

    bags: tuple[Path, ...]
    """Bags, or folders that hold them."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class StampOptions(Overwriting):
    """Options of `features.bags.stamp.export_stamp`."""

    bags: tuple[Path, ...]
    """Bags, or folders that hold them."""
    out: Path
    """Folder of the files, one per bag, of the bag's name."""

    def __post_init__(self) -> None:
        check(self)
