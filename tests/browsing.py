"""A real browser for the tests: Debian's or another Chromium, driven by Playwright; what a page does wrong is kept."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest
from making import RGB
from PIL import Image

from wsi.viewing.npm import Package

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HERE = {"", "127.0.0.1", "localhost"}


@dataclass
class Visit:
    """One page in one window, and what went wrong in it."""

    page: "Page"
    faults: list[str] = field(default_factory=list)
    """Console errors and warnings, exceptions, requests that failed or left the machine."""
    requests: list[str] = field(default_factory=list)

    def open(self, address: str, ready: str = "body") -> "Visit":
        self.page.goto(address)
        self.page.wait_for_selector(ready, state="attached")
        return self

    def settled(self) -> "Visit":
        """Wait until nothing moves: the slide's tiles are drawn and the address says where."""
        self.page.wait_for_timeout(60)
        self.page.wait_for_selector("body.still")
        return self

    def pixels(self) -> RGB:
        """What the window shows, uint8 (height, width, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))

    def barriers(self) -> list[str]:
        """What axe finds that keeps people out, one line each; skips where axe is not installed."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
        found = axe.Axe().run(self.page).response["violations"]
        return [f"{own['id']}: {node['html'][:100]}" for own in found for node in own["nodes"]]

    def watch(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", self._failed)
        self.page.on("request", self._asked)

    def _said(self, told: "ConsoleMessage") -> None:
        if told.type in ("error", "warning"):
            self.faults.append(told.text)

    def _failed(self, request: "Request") -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left, or what it shows was zoomed away
            self.faults.append(f"failed: {request.url} {request.failure}")

    def _asked(self, request: "Request") -> None:
        place = urlsplit(request.url)
        self.requests.append(request.url)
        if place.scheme not in ("file", "data", "blob") and place.hostname not in HERE:
            self.faults.append(f"left the machine: {request.url}")


Visits = Callable[..., Visit]


@pytest.fixture(scope="module")  # Playwright keeps an event loop running, beside which no other may start
def browser() -> Iterator["Browser"]:
    """A headless Chromium; skips where Playwright or a browser is missing."""
    pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    from playwright.sync_api import sync_playwright

    path = os.environ.get("GIGAMIL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium, or set GIGAMIL_CHROMIUM to one")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: "Browser") -> Iterator[Visits]:
    """Give a function that opens a window (width, height, dark, and what Playwright's `new_context` takes).

    When the test ends, every window must be without faults; a test that expects one takes it out of `Visit.faults`.
    """
    made: list[Visit] = []
    contexts = []

    def window(width: int = 1400, height: int = 900, dark: bool = False, **others: object) -> Visit:
        scheme = "dark" if dark else "light"
        size = {"width": width, "height": height}
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", **others)  # type: ignore[arg-type]
        contexts.append(context)
        own = Visit(context.new_page())
        own.page.set_default_timeout(30_000)
        own.watch()
        made.append(own)
        return own

    yield window
    for context in contexts:
        context.close()
    faults = [fault for own in made for fault in own.faults]
    assert not faults, faults


AXE = Package(
    "axe-core", "4.10.3", "Xm7bpRXnDSX2YE2YFfBk2FnF0ep6tmG7xPh8iHee8MIcrgq762Nkce856dYtJYLkuIoYZvGfTs/PbZhideTcEg=="
)


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's script, kept in ``.pytest_cache``; skips where it can be neither found nor fetched."""
    path = Path(__file__).resolve().parents[1] / ".pytest_cache" / f"axe-{AXE.version}.js"
    if not path.is_file():
        try:
            (script,) = AXE.read("axe.min.js")
        except OSError as error:
            pytest.skip(f"axe-core cannot be fetched: {error}")
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(script)
        temporary.replace(path)
    return path.read_text("utf-8")


def axe_findings(page: "Page", axe: str) -> list[str]:
    """What axe has against a page: rule, impact and the elements."""
    page.evaluate(axe)
    found = page.evaluate("() => axe.run({preload: false}).then((told) => told.violations)")
    return [f"{own['id']} ({own['impact']}): {[node['target'] for node in own['nodes']]}" for own in found]
