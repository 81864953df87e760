"""The command line's door: verbs by name, the version, completion. What a verb needs is imported when it is used."""

import gc
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from cli import stopping
from cli.commands import VERBS, Verb
from cli.failing import fail, one_line_errors
from cli.from_dataclass import Command, made, names_of, said
from wsi.errors import GigamilError
from wsi.option_files import nearest, renamed
from wsi.options import specs

_CONFIG = (
    "TOML with options, under those of the command line: a table [{0}], or its options alone. Relative paths in it "
    "start at its folder. `gigamil config {0}` prints one."
)
_SCRATCH = (
    "Where what comes from and goes to URLs lies meanwhile; otherwise GIGAMIL_SCRATCH, or beside temporary files."
)
_SETTINGS = "A tune.json: its settings, over those of --config, where no option here says otherwise."


class Verbs(click.Group):
    """The verbs, each made when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb; the nearest name is told where there is none."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            fail("", f"{cmd_name} is no verb{nearest(cmd_name, list(VERBS)) or ': gigamil --help lists them'}", 2)
        return command_of(verb)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs in their groups, each with its whole summary."""
        for group in dict.fromkeys(verb.group for verb in VERBS.values()):
            with formatter.section(group):
                formatter.write_dl([(verb.name, verb.summary) for verb in VERBS.values() if verb.group == group])


def command_of(verb: Verb) -> click.Command:
    """Return a verb as a command."""
    own = [click.Option(["--config"], metavar="TOML", help=_CONFIG.format(verb.name))]
    own += [click.Option(["--settings"], metavar="PATH", help=_SETTINGS)] if verb.settings else []
    own += (
        [click.Option(["--scratch"], metavar="FOLDER", help=_SCRATCH)]
        if any(own.mark.remote for own in specs(verb.load("options")))
        else []
    )
    own += [click.Option(["--json"], is_flag=True, help="Print the summary as JSON on standard output.")]
    return Command(
        verb.name,
        verb.load("options"),
        params=own,
        help="\n\n".join(filter(None, [verb.summary, verb.more])),
        context_settings={"allow_interspersed_args": not verb.passes_on},
        callback=click.pass_context(lambda ctx, **_: _run(verb, ctx)),
    )


def _run(verb: Verb, ctx: click.Context) -> NoReturn:
    """Make the options, run the verb, leave with its code."""
    if ctx.params.get("scratch"):
        os.environ["GIGAMIL_SCRATCH"] = ctx.params["scratch"]
    with one_line_errors(verb.name):
        raise click.exceptions.Exit(_ran(verb, told_by(verb, ctx), ctx.params["json"]))


def told_by(verb: Verb, ctx: click.Context) -> Any:
    """Return the options: what stands on the command line, over `--settings`, over `--config`."""
    kind, values = verb.load("options"), dict[str, Any]()
    if ctx.params["config"]:
        from cli.verbs.config import read_config

        values |= read_config(Path(ctx.params["config"]), verb)
    if ctx.params.get("settings"):
        values |= verb.load("settings")(Path(ctx.params["settings"]))
    return made(kind, values | said(ctx, kind))


def _ran(verb: Verb, options: Any, json: bool) -> int:
    if verb.shows:
        return int(verb.load("run")(options, json))
    if hasattr(options, "nproc") and int(os.environ.get("RANK", "0")) > 0:
        verb.load("run")(options)  # rank 0 tells for all, and its exit code is that of the run
        return 0
    from features.fork_server import start_for

    start_for(options, verb.run.partition(":")[0])
    from cli.console import run_stage

    return run_stage(verb, options, json_output=json)


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"gigamil {version('gigamil')}")
        ctx.exit()


def _completion(ctx: click.Context, param: click.Parameter, shell: str | None) -> None:
    if shell is not None:
        from cli.completion import install, source

        shell = shell or Path(os.environ.get("SHELL", "bash")).name
        click.echo(install(app, shell) if param.name == "install_completion" else source(app, shell))
        ctx.exit()


def _completion_option(name: str, meaning: str) -> click.Option:
    told: dict[str, Any] = {"metavar": "[bash|zsh|fish]", "help": meaning, "callback": _completion}
    return click.Option([name], is_flag=False, flag_value="", expose_value=False, **told)


app = Verbs(
    "gigamil",
    help="Gigapixel whole-slide images in, patient-level predictions and pages a pathologist can read out.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    params=[
        click.Option(["--version"], is_flag=True, expose_value=False, callback=_version, help="Print the version."),
        _completion_option("--install-completion", "Let this shell complete verbs, options and choices."),
        _completion_option("--show-completion", "Print what --install-completion installs."),
    ],
)


def run(words: list[str]) -> int:
    """Run the command line; return the exit code."""
    verb = next((word for word in words if word in VERBS), "")
    try:
        try:
            return int(app.main(words or ["--help"], prog_name="gigamil", standalone_mode=False) or 0)
        except click.UsageError as error:
            _refuse(verb, error)
        except GigamilError as error:
            fail(verb, str(error), 2)
    except click.exceptions.Exit as end:
        return end.exit_code


def _refuse(verb: str, error: click.UsageError) -> NoReturn:
    """Tell in one line what is wrong: today's name of an option that had another, or the name that is most like it."""
    line = " ".join(error.format_message().split())
    if isinstance(error, click.NoSuchOption):
        name, options = error.option_name, VERBS[verb].load("options") if verb else None
        new = renamed(options).get(name) if options else None
        known = (
            [*names_of(options), "--config", "--scratch", "--json", "--help"] if options else ["--help", "--version"]
        )
        line = f"{name} is now {new}" if new else f"there is no {name}{nearest(name, known)}"
    fail(verb, line, 2)


def main() -> None:
    """Run the command line."""
    stopping.listen()
    with stopping.in_one_line():
        code = stopping.left_code(run(sys.argv[1:]))
    gc.freeze()  # with torch, looking for rubbish at the very end takes a second
    sys.exit(code)
