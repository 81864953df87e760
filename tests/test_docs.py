"""What the texts say of the code is held to the code: options, files, counts, lengths."""

import ast
import re
from pathlib import Path

import pytest
import typer

from cli.app import app
from features.encoders.presets import PRESETS
from mil.heads import HEADS

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "sample_data" / "README.md"]
PACKAGES = ("wsi", "features", "mil", "cli", "sample_data")
NUMBERS = {16: "sixteen"}
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def options_of(verb: str) -> set[str]:
    return {name for parameter in VERBS[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}


EVERY_TEXT = pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)


@EVERY_TEXT
def test_every_command_has_the_verbs_and_options_that_are_named(text: Path) -> None:
    commands = re.findall(r"gigamil ((?:[a-z]+)\b[^`\n]*)", text.read_text("utf-8"))
    known = [(words[0], words[1:]) for words in (command.split("#")[0].split() for command in commands)]
    for verb, words in known:
        if verb in VERBS:
            named = {word.strip("[].,;()").partition("=")[0] for word in words if word.lstrip("[").startswith("-")}
            unknown = {name for name in named if name.startswith("--")} - options_of(verb) - {"--help"}
            assert not unknown, f"{text.name}: gigamil {verb} has no {unknown}"


@EVERY_TEXT
def test_every_file_that_is_named_is_there(text: Path) -> None:
    content = text.read_text("utf-8")
    named = re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests|docs)/[\w/.-]*)`", content)
    named += [target for target in re.findall(r"\]\(([\w/.-]+)\)", content) if not target.startswith("http")]
    missing = [name for name in named if not (ROOT / name).exists() and not (text.parent / name).exists()]
    assert not missing


def test_the_readme_names_every_verb() -> None:
    words = set(re.findall(r"[a-z]+", (ROOT / "README.md").read_text("utf-8")))
    assert set(VERBS) <= words


def test_counts() -> None:
    assert f"{len(HEADS)} of the field's MIL heads" in (ROOT / "README.md").read_text("utf-8")
    heads = (ROOT / "docs" / "HEADS.md").read_text("utf-8")
    assert [name for name in HEADS if f"`{name}`" not in heads] == []
    assert f"{NUMBERS[len(PRESETS)].capitalize()} published" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_no_function_is_longer_than_60_lines_but_lists_of_options() -> None:
    long = []
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lists_options = path.parent.name == "cli" and node.name in VERBS
                if (node.end_lineno or 0) - node.lineno >= 60 and not lists_options:
                    long.append(f"{path}: {node.name}")
    assert not long
