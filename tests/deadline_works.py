"""Work for a process of its own; apart from the tests, so that the process imports little."""

import os
import subprocess
import sys
import time

from mil.inference.deadline import Channel
from wsi.errors import RequestError


def endless(channel: Channel) -> None:
    """Find one thing, start a process, tell its id, and never end."""
    channel.found("first")
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    channel.found(other.pid)
    time.sleep(600)


def failing(channel: Channel) -> None:
    raise RequestError("as it was put")


def dying(channel: Channel) -> None:
    os._exit(3)


def short(channel: Channel) -> None:
    channel.begin("work", 1, "pieces")
    channel.found([0, 1, 2])
