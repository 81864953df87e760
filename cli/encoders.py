"""``gigamil encoders``: which encoders there are."""

import json as json_module
from typing import Annotated

import typer

from cli.options import Json


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
        rows = [(entry.name_form, entry.licence, entry.description) for entry in entries().values()]
    rows += _timm_rows(search) if search else []
    if json:
        keys = ("name", "licence", "description")
        typer.echo(json_module.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
        return
    table = Table(Column("encoder", no_wrap=True), "licence of its weights", "what it is", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=True).print(table)


def _timm_rows(search: str) -> list[tuple[str, str, str]]:
    import timm

    rows = []
    for name in timm.list_models(f"*{search}*", pretrained=True):
        config = timm.get_pretrained_cfg(name)
        size = config.input_size[-1] if config is not None else "?"
        licence = (config.license if config is not None else None) or "see its card"
        rows.append((f"timm:{name}", licence, f"input {size} px"))
    return rows
