"""A page as PDF, printed by a Chromium of this machine: without a network, and without a user's profile."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from wsi.errors import RequestError
from wsi.files.atomic import write_bytes

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_OF_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
SECONDS = 120
"""After which printing is given up."""
_LINK = re.compile(r'<a (class="screen" )?href="(?!#)[^"]*"')
_FLAGS = (
    "--headless", "--disable-gpu", "--no-pdf-header-footer", "--no-first-run", "--no-default-browser-check",
    "--disable-extensions", "--disable-sync", "--disable-background-networking", "--disable-component-update",
    "--disable-dev-shm-usage", "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>",
)  # fmt: skip


def find_browser() -> str:
    """Return a Chromium: what the environment's CHROME names, else one of `BROWSERS` on the path.

    Raises
    ------
    RequestError
        There is none.
    """
    given = os.environ.get("CHROME")
    names = (given,) if given else (*BROWSERS, str(_OF_MAC))
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise RequestError(
            f"CHROME={given}: expected a Chromium or Google Chrome, found no such program"
            if given
            else "--pdf: expected Chromium or Google Chrome, found none: install one, or name it in the environment "
            "variable CHROME; or open report.html and print it from there"
        )
    return found


def print_pdf(page: str, target: Path, browser: str, seconds: float = SECONDS) -> None:
    """Print a page that stands alone into a PDF, whole or not at all; a PDF that is there is replaced.

    Links to other files are left out: a PDF would name them by where they lie on this machine.

    Raises
    ------
    RequestError
        The browser fails, or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="gigamil-print-", ignore_cleanup_errors=True) as folder:
        source, printed = Path(folder) / "page.html", Path(folder) / "page.pdf"
        source.write_text(_LINK.sub("<a", page), "utf-8")
        command = [browser, *_FLAGS, f"--user-data-dir={folder}/profile", f"--print-to-pdf={printed}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium has no sandbox for root, and will not start
            command.append("--no-sandbox")
        said = _said([*command, source.as_uri()], seconds)
        data = printed.read_bytes() if printed.is_file() else b""
    if not data.startswith(b"%PDF-") or b"%%EOF" not in data[-64:]:
        raise RequestError(
            f"--pdf: {browser} printed no PDF{f' ({said})' if said else ''}: print the page from a browser"
        )
    write_bytes(target, data)


def _said(command: list[str], seconds: float) -> str:
    """Run the browser and return its last line; whatever it started has ended, too."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            lines = process.communicate(timeout=seconds)[1].decode(errors="replace").strip().splitlines()
        except subprocess.TimeoutExpired:
            return f"not within {seconds:g} s"
        finally:
            _end(process)
    return lines[-1][:200] if lines else ""


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
