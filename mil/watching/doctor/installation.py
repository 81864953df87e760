"""Whether everything is installed, in versions that go together."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from packaging.requirements import Requirement
from packaging.version import Version

from mil.watching.doctor.finding import Finding, judged

NAME = "gigamil"
CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"
"""In a source tree alone."""
_EXTRAS = {"dashboard": "bokeh", "profile": "py-spy", "s3": "s3fs", "tune": "optuna", "export": "onnx"}
_SLURM = ("sbatch", "squeue", "scontrol", "srun")
_SLURM_CONFIGS = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/run/slurm/conf/slurm.conf")
_SECONDS = 10
_NAMED = 4


def installation() -> Iterator[Finding]:
    """Look at packages, native libraries, the front end, and programs that help."""
    yield judged("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}")
    yield packages(requires(NAME) or [])
    yield tested_versions(CONSTRAINTS, requires(NAME) or [])
    yield openslide()
    yield codecs()
    yield front_end()
    yield extras()
    yield tesseract()
    yield slurm_tools()


def packages(required: list[str]) -> Finding:
    """Hold what is installed against what is required (lines of PEP 508; those of extras are left out)."""
    try:
        own = version(NAME)
    except PackageNotFoundError:
        return Finding("packages", "wrong", f"{NAME} is not installed", f"pip install {NAME}, or pip install -e .")
    bad, wanted = [], _wanted(required)
    for requirement in wanted:
        found = _installed(requirement.name)
        if found is None:
            bad.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            bad.append(f"{requirement.name} {found}, expected {requirement.specifier}")
    if bad:
        return Finding("packages", "wrong", "; ".join(bad), f"pip install --upgrade {NAME}")
    return judged("packages", f"{NAME} {own}, {len(wanted)} packages as required")


def _wanted(required: list[str]) -> list[Requirement]:
    found = map(Requirement, required)
    return [own for own in found if own.marker is None or own.marker.evaluate({"extra": ""})]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def tested_versions(constraints: Path, required: list[str]) -> Finding:
    """Tell which of the required packages have other versions than those that the tests have passed with."""
    if not constraints.is_file():
        return judged("tested versions", "not known here: constraints.txt comes with the source")
    tested = pinned(constraints.read_text("utf-8"))
    other = []
    for requirement in _wanted(required):
        name, found = _canonical(requirement.name), _installed(requirement.name)
        if found and name in tested and Version(found).base_version != Version(tested[name]).base_version:
            other.append(f"{requirement.name} {found} (tested: {tested[name]})")
    told = ", ".join(other[:_NAMED]) + (f" and {len(other) - _NAMED} more" if len(other) > _NAMED else "")
    return judged(
        "tested versions",
        told or "as tested",
        warning=bool(other),
        advice=f"where something is odd: pip install {NAME} -c constraints.txt",
    )


def pinned(text: str) -> Mapping[str, str]:
    """Return the versions of a constraints file that hold for this Python, by name."""
    found = {}
    for line in text.splitlines():
        if line.partition("#")[0].strip():
            own = Requirement(line.partition("#")[0].strip())
            exact = [str(spec.version) for spec in own.specifier if spec.operator == "=="]
            if exact and (own.marker is None or own.marker.evaluate()):
                found[_canonical(own.name)] = exact[0]
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def openslide() -> Finding:
    """Load the OpenSlide library."""
    try:
        import openslide as library
    except (ImportError, OSError) as error:
        why = (str(error).splitlines() or [""])[0]
        return Finding("OpenSlide", "wrong", f"does not load: {why}", "pip install openslide-bin openslide-python")
    return judged("OpenSlide", f"library {library.__library_version__}, Python {library.__version__}")


def codecs() -> Finding:
    """Send a picture through every codec that slides and stores need."""
    import imagecodecs

    y, x = np.mgrid[:64, :64]
    picture = np.stack([y * 4, x * 4, y + x], axis=-1).astype(np.uint8)
    bad = []
    for name, loss in {"jpeg8": 12, "jpeg2k": 0, "deflate": 0, "lzw": 0, "zstd": 0, "webp": 0}.items():
        try:
            back = _back(imagecodecs, name, picture)
            off = int(np.abs(back.astype(int) - picture).max())
            if off > loss:
                bad.append(f"{name} gives other pixels (by {off})")
        except Exception as error:  # each codec has errors of its own
            bad.append(f"{name}: {(str(error).splitlines() or [type(error).__name__])[0]}")
    told = "; ".join(bad) or "JPEG, JPEG 2000, WebP, LZW, deflate, zstd come back as they went in"
    return judged("codecs", told, wrong=bool(bad), advice="pip install --force-reinstall imagecodecs")


_SETTINGS: dict[str, dict[str, Any]] = {
    "jpeg8": {"level": 95, "subsampling": "444"},
    "jpeg2k": {"level": 0},
    "webp": {"lossless": True},
}
"""Of the codecs that take pictures; the others take bytes."""


def _back(imagecodecs: Any, name: str, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture as it comes back from a codec."""
    encode, decode = getattr(imagecodecs, f"{name}_encode"), getattr(imagecodecs, f"{name}_decode")
    if name in _SETTINGS:
        return np.asarray(decode(encode(picture, **_SETTINGS[name])))
    return np.frombuffer(decode(encode(picture.tobytes())), np.uint8).reshape(picture.shape)


def front_end() -> Finding:
    """Look for the files of pages and viewer."""
    from wsi.errors import RequestError
    from wsi.viewing.frontend import assets

    try:
        size = sum(map(len, assets().values()))
    except RequestError as error:
        return Finding("front end", "wrong", str(error), "without it, no pages and no viewer")
    return judged("front end", f"OpenSeadragon and our own, {size / 1e6:.1f} MB")


def extras() -> Finding:
    """Name the optional parts."""
    there = [extra for extra, module in _EXTRAS.items() if _installed(module)]
    absent = [extra for extra in _EXTRAS if extra not in there]
    told = f"installed: {', '.join(there) or 'none'}" + (f"; not: {', '.join(absent)}" if absent else "")
    return judged("extras", told)


def tesseract() -> Finding:
    """Look for the program that reads what is written in pictures."""
    there = shutil.which("tesseract")
    told = there or "not installed: `gigamil verify --phi` then cannot read what is written in pictures"
    return judged("tesseract", told, warning=not there, advice="apt install tesseract-ocr, where bundles are shared")


def slurm_tools() -> Finding:
    """Look for Slurm's programs, and whether the controller answers."""
    there = [name for name in _SLURM if shutil.which(name)]
    if not there:
        return judged("Slurm", "none here")
    absent = [name for name in _SLURM if name not in there]
    if absent:
        return Finding("Slurm", "warning", f"without {', '.join(absent)}", "add Slurm's folder to PATH")
    if not os.environ.get("SLURM_CONF") and not any(Path(path).exists() for path in _SLURM_CONFIGS):
        return judged("Slurm", "its programs are here, and no cluster that they belong to")
    try:
        command = ["squeue", "--noheader", "--me"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        ran = subprocess.CompletedProcess(command, 1, "", f"squeue gave no answer in {_SECONDS} s")
    if ran.returncode:
        why = (ran.stderr.strip().splitlines() or ["no answer"])[0]
        return Finding("Slurm", "wrong", why, "use a node of the cluster; see slurmctld and munge there")
    jobs = len(ran.stdout.splitlines())
    return judged("Slurm", f"answers; {jobs} of your jobs are in the queue")
