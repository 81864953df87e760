"""The site: its pages are all there, build without a warning, and fetch nothing from elsewhere."""

import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import doc_tables
import pytest
import torch

from features.encoders.presets import PRESETS
from features.encoders.spec import WeightsChoice
from features.encoders.tile_input import TileInput
from mil.heads import HEADS, HeadSpec
from mil.heads.contract import check_head
from mil.ragged.instances import Instances
from wsi.cohort.slides import EXTENSIONS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def test_the_navigation_names_every_page() -> None:
    told = set(re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    assert told == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="the extra docs is not installed")
def test_the_site_builds_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?(https?:)?//|<link[^>]*rel=[\"']?(?:stylesheet|preconnect|"
            r"preload)[^>]*href=[\"']?(https?:)?//",
            page.read_text("utf-8"),
        )
        assert not fetched, page
    assert "url(http" not in "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.css"))


def test_the_table_of_encoders_is_the_codes() -> None:
    assert doc_tables.between((DOCS / "encoders.md").read_text("utf-8")) == doc_tables.encoders()


def test_the_table_of_colours_is_what_is_measured() -> None:
    def cells(table: str) -> list[list[str]]:
        return [line.split("|")[1:-1] for line in table.splitlines()[2:]]

    told, measured = (cells(t) for t in (doc_tables.between((DOCS / "COLOUR.md").read_text()), doc_tables.colours()))
    for row, found in zip(told, measured, strict=True):
        assert row[:3] == found[:3]
        for one, other in zip(row[3:], found[3:], strict=True):  # libraries differ by tenths from release to release
            assert one == other or abs(float(one) - float(other)) < 0.3


def test_formats_and_encoders_are_all_told() -> None:
    formats, usage = ((DOCS / name).read_text("utf-8") for name in ("slide-formats.md", "usage.md"))
    assert set(re.search(r"end in `([^`]+)`", formats)[1].split()) == EXTENSIONS  # type: ignore[index]
    assert f"{len(HEADS)} of the field's MIL heads" in usage
    named = re.search(r"`gigamil encoders` lists them: (.+?) and more", usage)
    assert named is not None
    assert set(re.findall(r"`([\w-]+)`", named[1])) <= set(PRESETS)


def example(number: int) -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "extend.md").read_text("utf-8"), re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(blocks[number], "extend.md", "exec"), namespace)
    return namespace


def test_the_example_of_an_encoder_encodes() -> None:
    encoder = example(0)["ENTRY"].build("colour", WeightsChoice())
    tiles = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    features = encoder.encode(TileInput(encoder.spec, torch.device("cpu"))(tiles))
    torch.testing.assert_close(features, tiles.float().mean((2, 3)) / 255)


def test_the_example_of_a_head_gives_logits_and_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("example")  # where pickle looks for the class
    vars(module).update(example(1))
    monkeypatch.setitem(sys.modules, "example", module)
    head = module.Wide(HeadSpec(name="wide", dim=5, n_classes=3, hidden=4)).eval()
    rows = torch.randn(7, 5)
    output = head(Instances(rows, [0, 3, 7]))
    assert output.logits_BC.shape == (2, 3)
    torch.testing.assert_close(output.logits_BC[1:], head(Instances(rows[3:], [0, 4])).logits_BC)
    check_head(module.Wide)


def test_constraints_hold_names_and_versions_only() -> None:
    printed = ROOT / "constraints.txt"
    for line in printed.read_text("utf-8").splitlines()[1:]:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+ ; python_version == '3\.\d+'", line), line


def test_the_program_that_writes_constraints_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / ".ci" / "constraints.py"), run_name="__main__")
    assert f"torch=={torch.__version__.partition('+')[0]} ; python_version" in capsys.readouterr().out
