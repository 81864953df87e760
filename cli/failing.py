"""One line for each error that a user can cause, on standard error, and the exit code: 2 wrong request, 1 failure."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from cli import stopping
from wsi.errors import ClaimedError, GigamilError, RequestError, masked


@contextmanager
def one_line_errors(verb: str) -> Iterator[None]:
    """Turn the errors of a verb into a line and a code."""
    try:
        with stopping.in_one_line():
            yield
    except (RequestError, ClaimedError) as error:
        fail(verb, str(error), 2)
    except GigamilError as error:
        fail(verb, str(error), 1)
    except OSError as error:
        fail(verb, f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        fail("", stopping.INTERRUPTED, 130)


def fail(verb: str, line: str, code: int) -> NoReturn:
    """Print one line on standard error and leave with the code."""
    sys.stderr.write(f"gigamil{verb and ' '}{verb}: {masked(line)}\n")
    raise click.exceptions.Exit(code)
