"""Slurm's own programs, run."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from wsi.errors import RequestError

_SECONDS = 60
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_TIME_FORMAT")
"""What says where Slurm is. The rest tells of the job in which we run, and would be told to the jobs that we submit."""


def slurm(words: Sequence[str]) -> str:
    """Run one of Slurm's programs; return what it printed.

    Raises
    ------
    RequestError
        It is not installed, Slurm refuses, or does not answer: in Slurm's own words.
    """
    name = words[0]
    if shutil.which(name) is None:
        raise RequestError(f"{name}: not found: run this on a node that submits to Slurm, or see --dry-run")
    outer = {key: value for key, value in os.environ.items() if key in _KEPT or not key.startswith("SLURM_")}
    try:
        ran = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False, env=outer)
    except subprocess.TimeoutExpired:
        raise RequestError(f"{name}: Slurm has not answered for {_SECONDS} s: try again later") from None
    if "Could not establish a configuration source" in ran.stderr:
        raise RequestError(f"{name}: no cluster known here (no slurm.conf): run this on a node that submits to Slurm")
    if ran.returncode:
        told = "; ".join(line.removeprefix(f"{name}: ") for line in ran.stderr.strip().splitlines())
        raise RequestError(f"{name}: {told or f'ended with {ran.returncode}'}")
    return ran.stdout


def has_slurm() -> bool:
    """Tell whether Slurm's programs are here."""
    return shutil.which("squeue") is not None
