"""The report as PDF: whole, from a page without links out, or one clear line and nothing."""

import os
import re
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner
from witness import Trained

from cli.app import app
from mil.report.options import ReportOptions
from mil.report.printing import find_browser, print_pdf
from mil.report.report import report
from wsi.errors import RequestError


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def chromium() -> str:
    try:
        return find_browser()
    except RequestError as error:
        pytest.skip(str(error))


def test_the_report_is_printed_on_a4_without_a_path_of_this_machine(
    trained: Trained, chromium: str, tmp_path: Path
) -> None:
    assert report(ReportOptions(run=trained.out, pdf=True)).exit_code == 0
    data = (trained.out / "report.pdf").read_bytes()
    (trained.out / "report.pdf").unlink()
    boxes = set(re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", data))
    assert {(round(float(w)), round(float(h))) for w, h in boxes} <= {(595, 842), (594, 841), (596, 842)}
    assert b"file:" not in data
    assert str(trained.out).encode() not in data
    streams = re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL)
    assert b"file:" not in b"".join(zlib.decompressobj().decompress(own) for own in streams if own[:1] == b"x")


def test_only_links_out_are_left_out(tmp_path: Path, chromium: str) -> None:
    page = '<!doctype html><title>t</title><p id="a"><a href="b.html">out</a> <a href="#a">in</a>'
    print_pdf(page, tmp_path / "a.pdf", chromium)
    data = (tmp_path / "a.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    assert b"/URI" not in data
    assert b"/Dest" in data, "links within the page stay"


def test_no_browser_is_one_line_and_nothing_is_written(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROME", raising=False)
    before = (trained.out / "report.html").stat().st_mtime_ns
    done = CliRunner().invoke(app, ["report", str(trained.out), "--pdf"])
    assert done.exit_code == 2
    assert "expected Chromium or Google Chrome, found none" in done.output
    assert len(done.output.splitlines()) == 1
    assert (trained.out / "report.html").stat().st_mtime_ns == before
    monkeypatch.setenv("CHROME", str(tmp_path / "none"))
    with pytest.raises(RequestError, match="found no such program"):
        find_browser()
    monkeypatch.setenv("CHROME", program(tmp_path / "own", "exit 0"))
    assert find_browser() == str(tmp_path / "own")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("echo no display >&2; exit 3", "no display"),
        ("exit 0", "printed no PDF: print"),
        ('for a; do case $a in --print-to-pdf=*) printf %%PDF-1.4 > "${a#*=}";; esac; done', "no PDF"),
    ],
)
def test_a_browser_that_fails_leaves_the_old_pdf(tmp_path: Path, what: str, told: str) -> None:
    target = tmp_path / "report.pdf"
    target.write_bytes(b"old")
    with pytest.raises(RequestError, match=told):
        print_pdf("<p>", target, program(tmp_path / "browser", what))
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["browser", "report.pdf"]


def test_a_browser_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    hangs = program(tmp_path / "browser", f"sleep 300 & echo $! > {tmp_path}/child; sleep 300")
    start = time.monotonic()
    with pytest.raises(RequestError, match="not within 1 s"):
        print_pdf("<p>", tmp_path / "a.pdf", hangs, seconds=1)
    assert time.monotonic() - start < 30
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True, check=False)
        if not state.stdout.strip() or state.stdout.startswith("Z"):
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        pytest.fail("what the browser started goes on")
