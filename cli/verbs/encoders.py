"""``gigamil encoders``: which encoders there are."""

import json as json_module
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from wsi.options import Option, check

if TYPE_CHECKING:
    from features.encoders.registry import EncoderEntry

Row = dict[str, Any]
"""Name, dim, input_px, mpp (um/px), crop_pct, gated, licence, description, hub, source, needs; None where it is not one
for all models. ``of``: tiles, or slides, whose encoders `gigamil embed` takes."""
SHOWN = ("name", "dim", "input_px", "mpp", "crop_pct", "needs", "licence", "description")
WIDTH = 200
"""Columns: one line for each encoder; a narrower terminal breaks them."""


@dataclass(frozen=True, kw_only=True)
class EncodersOptions:
    """Which encoders to list."""

    search: Annotated[str, Option(argument="[SEARCH]")] = ""
    """Also list timm's pretrained models whose name holds this text."""

    def __post_init__(self) -> None:
        check(self)


def encoders(options: EncodersOptions, json: bool) -> int:
    """List the encoders that `gigamil extract --encoder` knows, then those of `gigamil embed --encoder`."""
    from rich.console import Console
    from rich.table import Column, Table

    from cli.console import stderr
    from features.encoders.registry import entries

    known, cautions = entries()
    rows = [_row(entry) for entry in known.values()] + (_timm_rows(options.search) if options.search else [])
    rows += _slide_rows()
    for line in cautions:
        stderr.print(f"caution: {line}", markup=False, soft_wrap=True)
    if json:
        sys.stdout.write(json_module.dumps(rows, indent=1) + "\n")
        return 0
    columns = ("dim", "px", "um/px", "crop", "needs", "licence", "what it is")
    console = Console(width=WIDTH, soft_wrap=True)
    for of, title in (("tiles", "encoder"), ("slides", "slide encoder (gigamil embed)")):
        table = Table(Column(title, no_wrap=True), *columns, box=None, pad_edge=False)
        for row in rows:
            if row["of"] == of:
                table.add_row(*(_cell(row[key]) for key in SHOWN))
        console.print(table)
    return 0


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{item:g}" for item in value)
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else str(value)


def _row(entry: "EncoderEntry") -> Row:
    return {
        "name": entry.name_form,
        "dim": entry.dim,
        "input_px": entry.input_px,
        "mpp": list(entry.mpps),
        "crop_pct": None,
        "gated": entry.gated,
        "licence": entry.licence,
        "description": entry.description,
        "hub": entry.hub,
        "source": entry.source,
        "needs": entry.needs,
        "of": "tiles",
    }


def _slide_rows() -> list[Row]:
    from features.slide_encoders.pools import POOLS
    from features.slide_encoders.presets import SLIDE_PRESETS

    nothing = {"dim": None, "input_px": None, "crop_pct": None, "hub": "", "source": "", "of": "slides"}
    pools: list[Row] = [
        {
            **nothing, "name": name, "mpp": [], "gated": False, "licence": "MIT (part of this software)",
            "description": told, "needs": "nothing",
        }
        for name, (_, _, told) in POOLS.items()
    ]  # fmt: skip
    return pools + [
        {
            **nothing, "name": name, "dim": own.dim, "mpp": [own.mpp], "gated": own.gated, "licence": own.licence,
            "description": f"of bags of {own.tile_encoders[0]}, tiles of {own.tile_um:g} um; {own.source}",
            "hub": own.hub, "source": own.source, "needs": own.needs,
        }
        for name, own in SLIDE_PRESETS.items()
    ]  # fmt: skip


def _timm_rows(search: str) -> list[Row]:
    import timm

    rows: list[Row] = []
    for name in timm.list_models(f"*{search}*", pretrained=True):
        config = timm.get_pretrained_cfg(name)
        known = config is not None
        rows.append(
            {
                "name": f"timm:{name}",
                "dim": None,
                "input_px": int(config.input_size[-1]) if known else None,
                "mpp": [],
                "crop_pct": float(config.crop_pct) if known else None,
                "gated": False,
                "licence": (config.license if known else None) or "see its card",
                "description": "",
                "hub": (config.hf_hub_id if known else None) or "",
                "source": "",
                "needs": "a download",
                "of": "tiles",
            }
        )
    return rows
