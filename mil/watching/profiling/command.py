"""`gigamil profile VERB ...`: run a stage for some seconds on outputs that are thrown away; say where the time went."""

import json as json_module
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mil.watching.profiling.options import ProfileOptions
from mil.watching.profiling.samples import read_raw, speedscope
from mil.watching.profiling.verdict import judge, lines_of
from wsi.errors import ItemError, RequestError, masked
from wsi.files.atomic import write_text
from wsi.files.regular import first_bytes
from wsi.progress.events import EVENTS, read_events

_SECONDS_TO_BEGIN = 120.0
_ALONE: dict[str, Any] = {"workers": {"tile": 0, "train": 1}, "nproc": 1}
_NO_PTRACE = (
    "py-spy may not look at processes here (ptrace): as root, with --cap-add SYS_PTRACE in a container, or with "
    "kernel.yama.ptrace_scope at 1 or 0; or leave --tool out"
)


def profile(options: ProfileOptions, run: str, asked: Any, json: bool) -> int:
    """Profile the verb's function ``run`` (``module:name``) with the options ``asked``; return 0, or 1 where it failed.

    Raises
    ------
    RequestError
        py-spy is missing, or may not look at processes.
    ItemError
        The stage ended before anything was seen of it.
    """
    scratch, prefix = options.scratch, "gigamil-profile-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=scratch, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        own = aside(asked, folder, options.words[0], alone=options.tool == "own")
        told, stacks = _ran(options, run, own, folder)
        measured = measured_steps(folder)
    write_text(options.trace_path, speedscope(stacks, f"gigamil {options.words[0]}"), _is_trace)
    verdict = judge(stacks)
    if json:
        rest = {name: told[name] for name in ("seconds", "ended", "reason", "gpu")}
        content = {"verb": options.words[0], **rest, **verdict.as_dict(), "measured": measured}
        sys.stdout.write(masked(json_module.dumps(content | {"trace": str(options.trace_path)}, indent=1)) + "\n")
    else:
        lines = [*_head(options, told), *lines_of(verdict, measured), *_tail(options, told)]
        sys.stdout.write(masked("\n".join(lines)) + "\n")
    return 1 if told["ended"] == "failed" else 0


def aside(asked: Any, folder: Path, verb: str, *, alone: bool) -> Any:
    """Return the options with outputs in a folder of ours; with ``alone``, for one process that does everything."""
    known = {own.name for own in fields(asked)}
    changes: dict[str, Any] = {"out": folder / "out" / (asked.out.name if asked.out else verb)}
    changes |= {name: None for name in ("summary",) if name in known}
    changes |= {name: () for name in ("track",) if name in known}
    changes |= {"overwrite": False} if "overwrite" in known else {}
    if alone:
        changes |= {"workers": _ALONE["workers"][verb]} if verb in _ALONE["workers"] else {}
        changes |= {"nproc": 1} if "nproc" in known else {}
    (folder / "out").mkdir(parents=True)
    return replace(asked, **changes)


def measured_steps(folder: Path) -> dict[str, float]:
    """Return the seconds by step that the stage itself counted, of what it had finished when it was stopped."""
    found: Counter[str] = Counter()
    for event in read_events(folder / "events.jsonl"):
        spent = event.facts.get("spent")
        if event.kind in ("item_ended", "stage_ended", "steps") and isinstance(spent, dict):
            found.update(spent)
    for receipt in (folder / "out").rglob("receipt-*.json"):  # of slides that were not finished
        with suppress(ValueError, OSError):
            found.update(json_module.loads(receipt.read_text()).get("seconds", {}))
    return {step: round(seconds, 3) for step, seconds in found.items()}


def _ran(options: ProfileOptions, run: str, own: Any, folder: Path) -> tuple[dict[str, Any], Counter[str]]:
    """Run the child; return what it told, and the stacks."""
    order = {"run": run, "options": own, "seconds": options.seconds, "samples": options.tool == "own"}
    (folder / "order.pickle").write_bytes(pickle.dumps(order))
    command = [*_before(options, folder), sys.executable, "-m", "mil.watching.profiling.child", str(folder)]
    environment = os.environ | {EVENTS: str(folder / "events.jsonl")}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as child:
        try:
            _, err = child.communicate(timeout=options.seconds + _SECONDS_TO_BEGIN)
        except subprocess.TimeoutExpired:
            raise ItemError(f"{options.words[0]} did not end {_SECONDS_TO_BEGIN:.0f} s after it was to") from None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # whatever it has started
    last = (err.strip().splitlines() or ["it left nothing"])[-1]
    raw = folder / "raw.txt"
    if options.tool == "py-spy" and not (raw.is_file() and raw.stat().st_size):
        raise RequestError(_NO_PTRACE if "ermission" in err or "ptrace" in err else f"--tool py-spy: {last}")
    try:
        told = json_module.loads((folder / "told.json").read_text())
    except (OSError, ValueError):
        raise ItemError(f"{options.words[0]} ended with {child.returncode} before anything was told: {last}") from None
    return told, read_raw(raw.read_text()) if options.tool == "py-spy" else Counter(told["stacks"])


def _before(options: ProfileOptions, folder: Path) -> Sequence[str]:
    if options.tool == "own":
        return ()
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        raise RequestError("--tool py-spy needs py-spy: pip install 'gigamil[profile]', or leave --tool out")
    settings = ["--format", "raw", "--rate", "100", "--subprocesses", "--threads", "--idle", "--full-filenames"]
    return [program, "record", *settings, "--nonblocking", "--output", str(folder / "raw.txt"), "--"]


def _head(options: ProfileOptions, told: dict[str, Any]) -> list[str]:
    how = "one process, which did everything" if options.tool == "own" else "all its processes"
    ended = {"stopped": "then stopped", "done": "to its end", "failed": f"until it failed: {told['reason']}"}
    return [f"{options.words[0]}: {told['seconds']:.1f} s of {how}, {ended[told['ended']]}; outputs thrown away"]


def _tail(options: ProfileOptions, told: dict[str, Any]) -> list[str]:
    busy = [] if told["gpu"] is None else [f"GPUs were busy {told['gpu']:.0f} % of the time, says their driver"]
    return [*busy, f"trace: {options.trace_path} (open it with speedscope)"]


def _is_trace(path: Path) -> bool:
    return b"speedscope" in first_bytes(path, 100)
