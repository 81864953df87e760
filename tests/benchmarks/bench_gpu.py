"""Everything that only a GPU can show, in one go: exactness, processes, speed as a share of limits, training.

Run: ``python tests/benchmarks/bench_gpu.py [--out FOLDER] [--checks]``, or ``make bench-gpu``. About ten minutes on a
large card; each step is a process with a time limit, and prints one JSON line for each thing, as it is
found. A table comes last; the exit code is 1 where a check failed or a step did not end. ``--checks``: only what is
right or wrong, all steps at once. ``--small --device cpu`` goes through all of it without a GPU, on next to nothing.

On a machine without a network: ``make wheelhouse`` on one that has it, carry the folder, and there
``python3 -m pip install --no-index --find-links wheelhouse gigamil``.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import torch
from gpu_steps import CHECKS, STEPS, Row, Setting
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]


def machine() -> Row:
    """Return what it ran on."""
    found = {"torch": torch.__version__, "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
    if not torch.cuda.is_available():
        return found | {"device": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
    facts = torch.cuda.get_device_properties(0)
    memory = f"{facts.total_memory / 2**30:.0f} GiB"
    return found | {"device": facts.name, "memory": memory, "cuda": torch.version.cuda, "cpus": os.cpu_count()}


def one(step: str, setting: Setting) -> None:
    """Run one step in this process."""
    for row in STEPS[step][0](setting):
        print(json.dumps({"step": step, **row}), flush=True)


def supervised(step: str, arguments: list[str], limit: float) -> Iterator[Row]:
    """Run one step in a process of its own; give its rows as they come, and one where it failed."""
    command = [sys.executable, __file__, *arguments, "--step", step]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as told:
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True, start_new_session=True)
        assert started.stdout is not None
        ending = threading.Timer(limit, os.killpg, (started.pid, signal.SIGKILL))
        ending.start()
        yield from (json.loads(line) for line in started.stdout if line.startswith('{"step"'))
        code, seconds = started.wait(), time.monotonic() - began
        ending.cancel()
        told.seek(0)
        lines = told.read().strip().splitlines()
    if code:
        why = f"ended after its {limit:.0f} s" if seconds >= limit else f"ended with {code}: {' / '.join(lines[-3:])}"
        yield {"step": step, "name": "the step itself", "ok": False, "note": why[:600]}
    yield {"step": step, "name": "seconds", "value": seconds, "unit": "s"}


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table("step", "what", "", "value", "limit", "share", "note")
    for row in rows:
        value, limit = row.get("value"), row.get("limit")
        verdict = {True: "ok", False: "WRONG", None: ""}[row.get("ok")]
        cells = ["" if own is None else f"{own:.4g}" for own in (value, limit)]
        share = f"{value / limit:.2f}" if value is not None and limit else ""
        spent = ", ".join(f"{step} {seconds:.3g}" for step, seconds in row.get("spent", {}).items())
        cells[0] += f" {row['unit']}" if "unit" in row else ""
        table.add_row(row["step"], row["name"], verdict, *cells, share, str(row.get("note") or spent)[:200])
    Console(width=200, soft_wrap=True).print(table)


def main() -> int:
    """Run all steps, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench-gpu"),
        help="folder of results.jsonl, trace.json, card.json (for plan --as)",
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to rehearse")
    parser.add_argument("--small", action="store_true", help="next to nothing of everything")
    parser.add_argument("--only", help="steps, with commas between them")
    parser.add_argument(
        "--checks", action="store_true", help=f"only what is right or wrong, all at once: {', '.join(CHECKS)}"
    )
    parser.add_argument(
        "--patience", type=float, default=1.0, help="factor of the steps' time limits, for slow machines"
    )
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench_gpu: PyTorch sees no GPU here: --small --device cpu rehearses it")
    if asked.step:
        one(asked.step, Setting(asked.device, asked.small, asked.folder))
        return 0
    names = asked.only.split(",") if asked.only else [own for own in STEPS if own != "suite"]
    names = [own for own in (CHECKS if asked.checks else names) if own != "prepare"]
    asked.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = [{"step": "machine", "name": json.dumps(machine())}]
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder, open(asked.out / "results.jsonl", "w") as file:
        arguments = ["--device", asked.device, "--folder", folder, *(["--small"] if asked.small else [])]
        file.write(json.dumps(rows[0]) + "\n")

        def found_by(name: str) -> list[Row]:
            found = []
            for row in supervised(name, arguments, STEPS[name][1] * asked.patience):
                print(json.dumps(row), flush=True)
                file.write(json.dumps(row) + "\n")
                file.flush()
                found.append(row)
            return found

        rows += found_by("prepare")
        with ThreadPoolExecutor(len(names) if asked.checks else 1) as pool:
            prepared = not any(row.get("ok") is False for row in rows)
            rows += chain.from_iterable(pool.map(found_by, names if prepared else []))
        for name in ("trace.json", "card.json"):
            if (made := Path(folder, name)).exists():
                shutil.copy(made, asked.out)
    show(rows)
    return int(any(row.get("ok") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
