"""`gigamil profile`: the words after it are those of another verb, made as that verb would be, and profiled."""

from typing import Any

import click

from cli.commands import VERBS
from mil.watching.profiling.options import ProfileOptions
from wsi.errors import RequestError


def profile(options: ProfileOptions, json: bool) -> int:
    """Profile a verb; return the exit code."""
    from mil.watching.profiling.command import profile as run

    verb = VERBS[options.words[0]]
    return run(options, verb.run, asked_of(verb.name, list(options.words[1:])), json)


def asked_of(name: str, words: list[str]) -> Any:
    """Return a verb's options, as its words say.

    Raises
    ------
    RequestError
        The verb would refuse them.
    """
    from cli.app import command_of, told_by

    command = command_of(VERBS[name])
    try:
        with command.make_context(name, words) as context:
            return told_by(VERBS[name], context)
    except click.UsageError as error:
        raise RequestError(f"{name}: {' '.join(error.format_message().split())}") from None
