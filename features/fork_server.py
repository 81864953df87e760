"""Processes that start with torch loaded: forked from one that has imported it and does nothing else.

A new interpreter needs three seconds of processor time to import torch, and as much again for timm. Python's own fork
server (`multiprocessing`, start method ``forkserver``) imports them once for all processes that this one starts, while
this one still reads and plans. It never computes, opens no data and touches no GPU, so its forks are as good as new.
"""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from wsi.machine.interrupt import interrupts_held

_TIMM = "features.encoders.timm_encoder"


def start_for(options: Any, module: str) -> None:
    """Let the server load ``module`` beside this process where the options ask for several ranks."""
    if getattr(options, "nproc", 1) > 1:
        fresh_processes(module, *([_TIMM] if getattr(options, "encoder", "texture") != "texture" else []))


def fresh_processes(*modules: str) -> ForkServerContext | SpawnContext:
    """Return how processes are started: forked from the server, which imports torch and ``modules`` at its own start.

    A server that runs stays as it is. Where there can be none (its socket's path would be too long for the system),
    processes are new interpreters. What begins in one calls `begin_process` first.
    """
    try:
        _start(modules)
    except OSError:
        return get_context("spawn")
    return get_context("forkserver")


def begin_process(environment: Mapping[str, str]) -> None:
    """Take the environment of the process that asked for this one, and what SIGTERM does: the server has its own."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _start(modules: tuple[str, ...]) -> None:
    with interrupts_held():  # in the tracker, too, for good
        resource_tracker.ensure_running()  # it lets SIGINT and SIGTERM through to this process again
    forkserver.set_forkserver_preload(["torch", *modules, "features.settled"])
    with interrupts_held(), _environment_of_the_server():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # one to a whole group would end it before its forks
        forkserver.ensure_running()


@contextmanager
def _environment_of_the_server() -> Iterator[None]:
    """Show the server this process's modules and not the current folder's; let it ask no GPU's driver for anything."""
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONSAFEPATH": "1",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    before = dict(os.environ)
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
