"""`gigamil verify`."""

from typing import Annotated

import typer

from cli.options import Json


def verify(
    stores: Annotated[list[str], typer.Argument(help="Tile stores (*.zarr), or folders that hold them; s3:// too.")],
    quick: Annotated[bool, typer.Option("--quick", help="Check the shards' indexes, without decoding.")] = False,
    json: Json = False,
) -> None:
    """Check that tile stores are whole: every shard, every chunk, the tile list, the metadata."""
    from cli.console import one_line_errors, run_stage
    from wsi.verify import VerifyOptions
    from wsi.verify import verify as run

    with one_line_errors():
        options = VerifyOptions(stores=tuple(stores), quick=quick)
    run_stage(lambda progress: run(options, progress), json_output=json)
