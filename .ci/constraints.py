"""Print what this environment has of gigamil's dependencies, extras included, as constraints for this version of Python.

Names and versions only: no builds, no places. Another Python ignores the lines, each of which names its own.
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

EXTRAS = ("s3", "tune", "export", "dev", "docs")


def installed(name: str, extras: tuple[str, ...], found: dict[str, str], seen: set[tuple[str, str]]) -> None:
    """Fill ``found`` with the public versions of a distribution and of all that it needs here."""
    try:
        held = distribution(name)
    except PackageNotFoundError:
        return
    found[canonicalize_name(name)] = Version(held.version).public
    for requirement in map(Requirement, held.requires or ()):
        for extra in ("", *extras):
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if wanted and (name, f"{extra}:{requirement}") not in seen:
                seen.add((name, f"{extra}:{requirement}"))
                installed(requirement.name, tuple(requirement.extras), found, seen)


def main() -> None:
    """Print one line per distribution, in order of names."""
    found: dict[str, str] = {}
    installed("gigamil", EXTRAS, found, set())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    print("# Written by `make constraints`: the tests have passed with these versions.")
    for name, version in sorted(found.items()):
        if name != "gigamil":
            print(f"{name}=={version} ; python_version == '{python}'")


if __name__ == "__main__":
    main()
