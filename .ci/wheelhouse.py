"""Collect the wheels that a machine without a network needs for gigamil, and gigamil's own, in one folder.

There: ``python3 -m pip install --no-index --find-links wheelhouse gigamil``. Give ``--have`` what `pip freeze` or
`pip list --format=freeze` printed there, and what that machine has is left out: torch above all. Versions are those of
this environment where that Python has a wheel of them, else the newest.
"""

import argparse
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
GLIBC = range(39, 16, -1)
"""Minor versions of the C library whose wheels run on a machine with the newest of them; pip wants each by name."""


def wanted(python: str, have: Iterable[str], extras: Iterable[str]) -> dict[str, str]:
    """Return what gigamil needs under that Python, and the machine lacks: names and versions ("": the newest)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    left_out, found, seen = {canonicalize_name(name) for name in have}, dict[str, str](), set[str]()
    waiting = [(text, "") for text in project["dependencies"]]
    waiting += [(text, "") for extra in extras for text in project["optional-dependencies"][extra]]
    while waiting:
        text, extra = waiting.pop()
        need = Requirement(text)
        name = canonicalize_name(need.name)
        there = {"extra": extra, "python_version": python, "python_full_version": f"{python}.0"}
        if name in left_out or (need.marker is not None and not need.marker.evaluate(there)):
            continue
        for own in ("", *sorted(need.extras)):
            if (key := f"{name}[{own}]") in seen:
                continue
            seen.add(key)
            try:
                held = distribution(name)
            except PackageNotFoundError:
                found[name] = ""
                continue
            found[name] = Version(held.version).public
            waiting += [(line, own) for line in held.requires or ()]
    return found


def download(name: str, version: str, python: str, out: Path) -> bool:
    """Fetch one wheel; False where there is none of that version."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", "--dest", str(out)]
    for platform in platforms:
        command += ["--platform", platform]
    asked = f"{name}=={version}" if version else name
    return subprocess.run([*command, asked], stderr=subprocess.DEVNULL, check=False).returncode == 0


def main() -> None:
    """Fetch, and say what was left out and how much there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="such as 3.12")
    parser.add_argument("--have", type=Path, help="what the machine has: lines of `pip freeze`, or names")
    parser.add_argument("--out", type=Path, default=Path("wheelhouse"))
    parser.add_argument("--extra", action="append", default=[], help="s3, tune, export; may be given several times")
    asked = parser.parse_args()
    lines = asked.have.read_text("utf-8").replace(",", "\n").splitlines() if asked.have else []
    have = [line.partition("=")[0].split("@")[0].strip() for line in lines if line.strip()]
    asked.out.mkdir(parents=True, exist_ok=True)
    missing = []
    for name, version in sorted(wanted(asked.python, have, asked.extra).items()):
        if not (download(name, version, asked.python, asked.out) or download(name, "", asked.python, asked.out)):
            missing.append(name)
    own = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*own, "--wheel-dir", str(asked.out), str(ROOT)], check=True)
    wheels = sorted(asked.out.glob("*.whl"))
    print(f"{asked.out}: {len(wheels)} wheels, {sum(wheel.stat().st_size for wheel in wheels) / 2**20:.0f} MiB")
    if missing:
        raise SystemExit(f"no wheel for Python {asked.python}: {', '.join(missing)}")


if __name__ == "__main__":
    main()
