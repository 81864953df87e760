"""What the tests of the command line share: commands that end with the test."""

from collections.abc import Callable, Iterator

import pytest
from commanding import Command


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def started(*arguments: object) -> Command:
        commands.append(Command(*arguments))
        return commands[-1]

    yield started
    for command in commands:
        command.kill()
