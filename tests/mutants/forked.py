"""Tests in a fork of a process that has loaded the libraries already: of a mutant's seconds, most were imports."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LOADED = """
import sys, pytest
pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", "tests/mil/evaluation", "tests/wsi/store"])
root = sys.argv[1]
for name, module in list(sys.modules.items()):
    if "site-packages" in str(getattr(module, "__file__", "")):
        print("loaded", name)
"""


def preload(root: Path) -> None:
    """Load the libraries that tests load, and nothing of our own tree: that is loaded afresh by each fork."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    os.environ["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-c", LOADED, str(root)]
    told = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout
    names = [line.removeprefix("loaded ") for line in told.splitlines() if line.startswith("loaded ")]
    for name in names:
        if "pytest" not in name:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def run_tests(tree: Path, tests: tuple[str, ...], most_s: float) -> tuple[bool, float]:
    """Run tests until one fails; return whether all passed in time, and the seconds that they took."""
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_tests(tree, tests)
    status = None
    while status is None and time.monotonic() < begun + most_s:
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what the tests have started, too
    if status is None:
        os.waitpid(child, 0)
    return status == 0, time.monotonic() - begun


def _be_tests(tree: Path, tests: tuple[str, ...]) -> None:
    """Never return."""
    code = 70
    try:
        os.setsid()
        os.chdir(tree)
        log = os.open(tree / "tests.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["PYTHONPATH"] = str(tree)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a mutant of the same second and size would not be seen
        sys.dont_write_bytecode = True
        sys.path[:] = [str(tree), *(entry for entry in sys.path if "mutants" not in entry)]
        import pytest
        from hypothesis import Phase, settings

        settings.register_profile("found", phases=(Phase.explicit, Phase.generate))  # that it fails is enough
        settings.load_profile("found")
        known = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that are loaded already
        code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *known, *tests]))
    finally:
        os._exit(code)
