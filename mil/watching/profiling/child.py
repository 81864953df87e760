"""The process that is profiled: runs a verb's function on outputs that are thrown away, and ends it after a while."""

import json
import os
import pickle
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

from mil.watching.profiling.samples import WATCHER, Sampler
from wsi.errors import GigamilError
from wsi.machine.gpu_use import gpu_use

_SECONDS_TO_END = 20.0
_GPU_SECONDS = 1.0


def main(folder: Path) -> None:
    """Do what ``order.pickle`` says; leave ``told.json``."""
    order: dict[str, Any] = pickle.loads((folder / "order.pickle").read_bytes())
    module, _, name = order["run"].partition(":")
    function = getattr(import_module(module), name)
    sampler, ends, gpus = Sampler() if order["samples"] else None, threading.Event(), list[float]()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target in (_stop_after, _watch_gpus):
        threading.Thread(target=target, args=(order["seconds"], ends, gpus), daemon=True, name=WATCHER).start()
    if sampler:
        sampler.start()
    began, ended, reason = time.monotonic(), "done", ""
    try:
        summary = function(order["options"])
        failures = [outcome.reason for outcome in summary.outcomes if outcome.status == "failed"]
        ended, reason = ("failed", failures[0]) if failures else (ended, reason)
    except KeyboardInterrupt:
        ended = "stopped"
    except (GigamilError, OSError) as error:
        ended, reason = "failed", str(error)
    seconds = time.monotonic() - began
    ends.set()
    if sampler:
        sampler.stop()
    stacks = dict(sampler.stacks) if sampler else {}
    told = {"seconds": seconds, "ended": ended, "reason": reason, "stacks": stacks, "gpu": mean(gpus) if gpus else None}
    (folder / "told.json").write_text(json.dumps(told))
    sys.stdout.flush()
    os._exit(0)  # threads may stand in work that nobody wants


def _stop_after(seconds: float, ends: threading.Event, gpus: list[float]) -> None:
    if not ends.wait(seconds):
        os.kill(os.getpid(), signal.SIGINT)
        if not ends.wait(_SECONDS_TO_END):
            os._exit(3)


def _watch_gpus(seconds: float, ends: threading.Event, gpus: list[float]) -> None:
    while (found := gpu_use()) and not ends.wait(_GPU_SECONDS):
        gpus.append(mean(float(gpu["use_percent"] or 0) for gpu in found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
