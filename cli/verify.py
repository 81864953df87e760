"""`gigamil verify`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json


def verify(
    items: Annotated[
        list[str], typer.Argument(help="Tile stores (*.zarr; s3:// too) or bags (*.h5), or folders that hold them.")
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Check the shards' indexes, without decoding.")] = False,
    json: Json = False,
) -> None:
    """Check that tile stores are whole, every shard, every chunk, the tile list; or bags, every row."""
    from cli.console import one_line_errors, run_stage
    from wsi.errors import RequestError
    from wsi.store.verify import VerifyOptions
    from wsi.store.verify import verify as run

    bags = [Path(item) for item in items if _holds_bags(Path(item))]
    if bags:
        from features.bags.verify import VerifyBagsOptions, verify_bags

        with one_line_errors():
            if len(bags) < len(items):
                raise RequestError("expected either tile stores or bags, found both: verify one kind after the other")
        run_stage(lambda progress: verify_bags(VerifyBagsOptions(bags=bags), progress), json_output=json)
        return
    with one_line_errors():
        options = VerifyOptions(stores=tuple(items), quick=quick)
    run_stage(lambda progress: run(options, progress), json_output=json)


def _holds_bags(path: Path) -> bool:
    return path.suffix == ".h5" or (path.is_dir() and path.suffix != ".zarr" and any(path.glob("*.h5")))
