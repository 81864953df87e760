"""The command line's door: the verbs by name, and the version. Heavy imports wait inside the verbs."""

from inspect import signature
from typing import Annotated

import typer

from cli import stopping
from cli.compare import compare
from cli.demo import demo
from cli.encoders import encoders
from cli.export import export
from cli.extract import extract
from cli.finetune import finetune
from cli.heatmap import heatmap
from cli.info import info
from cli.options import claiming, with_columns
from cli.predict import predict
from cli.qc import qc
from cli.report import report
from cli.sample import sample
from cli.similar import similar
from cli.tile import tile
from cli.train import train
from cli.tune import tune
from cli.verify import verify

app = typer.Typer(
    name="gigamil",
    help="Gigapixel whole-slide images in, patient-level predictions and pages a pathologist can read out.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help answers in half the time
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _verb in (
    demo,
    sample,
    info,
    tile,
    qc,
    verify,
    export,
    extract,
    encoders,
    finetune,
    train,
    tune,
    predict,
    heatmap,
    report,
    compare,
    similar,
):
    _reads_manifest, _writes = "manifest" in signature(_verb).parameters, _verb not in {info, verify, encoders}
    _verb = with_columns(_verb) if _reads_manifest else _verb
    app.command()(claiming(_verb) if _writes else _verb)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"gigamil {version('gigamil')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line."""
    stopping.listen()
    with stopping.in_one_line():
        app()
