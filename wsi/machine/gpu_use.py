"""How busy the GPUs of this process are, as the driver tells it; nothing where there are none."""

import os
import shutil
import subprocess
from contextlib import suppress
from typing import Any

_ASKED = {
    "index": "index",
    "utilization.gpu": "use_percent",
    "memory.used": "memory_used_mib",
    "memory.total": "memory_mib",
}
_SECONDS = 10.0


def gpu_use() -> list[dict[str, Any]]:
    """Return for each visible GPU its index, use in percent, used and total memory in MiB; takes 0.1 s or so.

    Asks ``nvidia-smi``, which every driver brings along; where it answers nothing within ten seconds, nothing is told.
    """
    program = shutil.which("nvidia-smi")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if program is None or visible == "":
        return []
    only = ["-i", visible] if visible else []
    command = [program, f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits", *only]
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
        return [_row(line) for line in told.splitlines() if line.strip()]
    return []


def _row(line: str) -> dict[str, Any]:
    """Return one GPU's line as numbers; None for what the driver does not tell."""
    words = [word.strip() for word in line.split(",")]
    return {name: int(word) if word.isdigit() else None for name, word in zip(_ASKED.values(), words, strict=False)}
