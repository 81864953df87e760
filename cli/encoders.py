"""``gigamil encoders``: which encoders there are."""

import json as json_module
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Json

if TYPE_CHECKING:
    from features.encoder import EncoderEntry

Row = tuple[str, str, str, str, str, str, str]
"""Name, dim, input px, um/px, gated, licence, description."""
WIDTH = 200
"""Columns: one line for each encoder; a narrower terminal breaks them."""


def encoders(
    search: Annotated[str, typer.Argument(help="Also list timm's pretrained models whose name holds this text.")] = "",
    json: Json = False,
) -> None:
    """List the encoders that `gigamil extract --encoder` knows."""
    from rich.console import Console
    from rich.table import Column, Table

    from cli.console import one_line_errors
    from features.encoder import entries

    with one_line_errors():
        rows = [_row(entry) for entry in entries().values()]
    rows += _timm_rows(search) if search else []
    if json:
        keys = ("name", "dim", "input_px", "mpp", "gated", "licence", "description")
        typer.echo(json_module.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
        return
    columns = ("dim", "px", "um/px", "gated", "licence", "what it is")
    table = Table(Column("encoder", no_wrap=True), *columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=WIDTH, soft_wrap=True).print(table)


def _row(entry: "EncoderEntry") -> Row:
    return (
        entry.name_form,
        str(entry.dim or ""),
        str(entry.input_px or ""),
        ", ".join(f"{mpp:g}" for mpp in entry.mpps),
        "yes" if entry.gated else "",
        entry.licence,
        entry.description,
    )


def _timm_rows(search: str) -> list[Row]:
    import timm

    rows = []
    for name in timm.list_models(f"*{search}*", pretrained=True):
        config = timm.get_pretrained_cfg(name)
        size = str(config.input_size[-1]) if config is not None else ""
        licence = (config.license if config is not None else None) or "see its card"
        rows.append((f"timm:{name}", "", size, "", "", licence, ""))
    return rows
