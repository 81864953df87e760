"""What verifying, exporting and packing bags can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi.option_groups import Overwriting
from wsi.options import Option, check


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


@dataclass(frozen=True, kw_only=True)
class PackOptions(Overwriting):
    """Options of `features.bags.pack.pack_bags`."""

    bags: Annotated[tuple[Path, ...], Option(argument="BAGS...")]
    """Bags (.h5), or folders of bags; with --unpack packs."""
    out: Annotated[Path, Option(short="-o")]
    """File to write (.h5), with a group for each bag; with --unpack the folder of the bags."""
    unpack: bool = False
    """Write the bags of packs as files again."""

    def __post_init__(self) -> None:
        check(self)
