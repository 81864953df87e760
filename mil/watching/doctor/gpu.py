"""Whether the GPUs work: driver, torch, NCCL; tried in a process of its own: a broken driver may hang it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from mil.watching.doctor.finding import Finding, judged

_SECONDS = 120
_PROBE = "from mil.watching.doctor.gpu_probe import probe; probe()"


def gpu() -> Iterator[Finding]:
    """Look at the driver, and compute a little on every GPU."""
    driver = driver_of()
    found = probed()
    if "error" in found:
        yield Finding("torch", "wrong", found["error"], "pip install --force-reinstall torch")
        return
    yield judged("torch", f"{found['torch']}, built for {'CUDA ' + found['cuda'] if found['cuda'] else 'CPUs'}")
    yield judged_driver(driver, found)
    for card in found["cards"]:
        yield judged_card(card)
    if found["cards"]:
        yield judged_nccl(found)


def driver_of() -> dict[str, Any] | str | None:
    """Return version and number of GPUs that the driver tells; in a text why not; None where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi gives no answer ({type(error).__name__})"
    lines = [line.strip() for line in ran.stdout.splitlines() if line.strip()]
    if ran.returncode or not lines:
        return (lines or ran.stderr.strip().splitlines() or ["nvidia-smi tells nothing"])[0]
    return {"version": lines[0], "gpus": len(lines)}


def probed() -> dict[str, Any]:
    """Return what `mil.watching.doctor.gpu_probe` found."""
    try:
        command = [sys.executable, "-c", _PROBE]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        return dict(json.loads(ran.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return {"error": f"gave no answer in {_SECONDS} s: the driver hangs, perhaps (dmesg, nvidia-smi)"}
    except (IndexError, ValueError):
        why = (ran.stderr.strip().splitlines() or [f"ended with {ran.returncode}"])[-1]
        return {"error": why}


def judged_driver(driver: dict[str, Any] | str | None, found: dict[str, Any]) -> Finding:
    """Hold the driver against what torch sees of it."""
    if driver is None:
        return judged("GPU", "none: no NVIDIA driver here; everything runs on the CPU")
    if isinstance(driver, str):
        return Finding(
            "GPU", "wrong", driver, "load or reinstall NVIDIA's driver; in a container, run it with --gpus all"
        )
    told = f"{driver['gpus']} by driver {driver['version']}"
    if not found["cuda"]:
        return Finding("GPU", "wrong", f"{told}, and a torch without CUDA", "install the CUDA build of torch")
    if not found["cards"]:
        why = f": {found['why']}" if found.get("why") else ""
        advice = f"the driver must know CUDA {found['cuda']}: update it, or install a torch for an older CUDA"
        return Finding("GPU", "wrong", f"{told}, none of which torch can use{why}", advice)
    return judged("GPU", f"{told}, {len(found['cards'])} visible to torch (CUDA {found['cuda']})")


def judged_card(card: dict[str, Any]) -> Finding:
    """Judge one GPU: whether it computes right, and whether somebody else fills its memory."""
    name = f"GPU {card['index']}"
    if card.get("error"):
        return Finding(
            name, "wrong", f"{card['name']}: {card['error']}", "see nvidia-smi; is torch built for this GPU?"
        )
    free = card["free"] / max(1, card["total"])
    told = f"{card['name']}, {card['free'] / 2**30:.0f} of {card['total'] / 2**30:.0f} GiB free, computes right"
    advice = "somebody else uses it: choose another by CUDA_VISIBLE_DEVICES"
    return judged(name, told, warning=free < 0.5, advice=advice)


def judged_nccl(found: dict[str, Any]) -> Finding:
    """Judge NCCL, by which several GPUs train one model."""
    told = found["nccl"]
    bad = not told or told.startswith("error")
    return judged("NCCL", told or "not in this torch", warning=bad, advice="several GPUs then go through gloo, slower")
