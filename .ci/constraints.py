"""Print what this environment has of gigamil's dependencies, extras included, as constraints for this Python.

Names and versions only: no builds, no places. Another Python ignores the lines, each of which names its own.
"""

import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def find(requirements: Iterable[str], extras: Iterable[str], found: dict[str, str], seen: set[str]) -> None:
    """Fill ``found`` with the public versions of what is required, and of all that it needs here."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
        own = requirement.name + ",".join(sorted(requirement.extras))
        if not wanted or own in seen:
            continue
        seen.add(own)
        try:
            held = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        found[canonicalize_name(requirement.name)] = Version(held.version).public
        find(held.requires or (), requirement.extras, found, seen)


def main() -> None:
    """Print one line per distribution, in order of names."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    found: dict[str, str] = {}
    for requirements in (project["dependencies"], *project["optional-dependencies"].values()):
        find(requirements, (), found, set())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    print("# Written by `make constraints`: the tests have passed with these versions.")
    for name, version in sorted(found.items()):
        print(f"{name}=={version} ; python_version == '{python}'")


if __name__ == "__main__":
    main()
