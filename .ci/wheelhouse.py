"""Collect the wheels that a machine without a network needs for gigamil, and gigamil's own, in one folder.

There: ``python3 -m pip install --no-index --find-links wheelhouse gigamil``. Give ``--have`` what `pip freeze` or
`pip list --format=freeze` printed there, and what that machine has is left out: torch above all. Versions are those of
this environment where that Python has wheels of them that suit each other, else the newest.
"""

import argparse
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
GLIBC = range(39, 16, -1)
"""Minor versions of the C library whose wheels run on a machine with the newest of them; pip wants each by name."""


def collect(python: str, have: Iterable[str], extras: Iterable[str], out: Path) -> list[str]:
    """Fetch what gigamil needs under that Python and the machine lacks; return what there is no wheel of."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    waiting, found, missing = [(Requirement(text), "") for text in texts], dict[str, Path](), list[str]()
    seen, opened = {canonicalize_name(name) for name in have}, set[tuple[Path, str]]()
    while waiting:
        need, extra = waiting.pop(0)
        name = canonicalize_name(need.name)
        there = {"extra": extra, "python_version": python, "python_full_version": f"{python}.0"}
        if name in seen or (need.marker is not None and not need.marker.evaluate(there)):
            continue
        if name not in found or not need.specifier.contains(inside(found[name]).version):
            if (wheel := download(need, python, out)) is None:
                missing.append(str(need))
                seen.add(name)
                continue
            if name in found:
                found[name].unlink()
            found[name] = wheel
            waiting += [(Requirement(line), "") for line in inside(wheel).requires or ()]
        for own in {extra for extra in need.extras if (found[name], extra) not in opened}:
            opened.add((found[name], own))
            waiting += [(Requirement(line), own) for line in inside(found[name]).requires or ()]
    return missing


def inside(wheel: Path) -> Distribution:
    """Return what a wheel says of itself."""
    return next(iter(distributions(path=[str(wheel)])))


def download(need: Requirement, python: str, out: Path) -> Path | None:
    """Fetch one wheel: this environment's version where that satisfies and there is one of it, else the newest."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in platforms:
        command += ["--platform", platform]
    asked = [f"{need.name}{need.specifier}"]
    with suppress(PackageNotFoundError):
        held = Version(distribution(need.name).version).public
        asked = [f"{need.name}=={held}", *asked] if need.specifier.contains(held) else asked
    for one in asked:
        with TemporaryDirectory(dir=out) as folder:
            subprocess.run([*command, "--dest", folder, one], stderr=subprocess.DEVNULL, check=False)
            for wheel in Path(folder).glob("*.whl"):
                return wheel.replace(out / wheel.name)
    return None


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
    missing = collect(asked.python, have, asked.extra, asked.out)
    own = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*own, "--wheel-dir", str(asked.out), str(ROOT)], check=True)
    wheels = sorted(asked.out.glob("*.whl"))
    print(f"{asked.out}: {len(wheels)} wheels, {sum(wheel.stat().st_size for wheel in wheels) / 2**20:.0f} MiB")
    if missing:
        raise SystemExit(f"no wheel for Python {asked.python}: {', '.join(missing)}")


if __name__ == "__main__":
    main()
