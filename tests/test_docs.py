"""What the texts say of the code is held to the code: options, files, counts, lengths."""

import ast
import re
from pathlib import Path

import pytest

from cli.app import command_of
from cli.commands import VERBS
from features.encoders.presets import PRESETS
from mil.heads import HEADS

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "sample_data" / "README.md",
    ROOT / "examples" / "README.md",
]
PACKAGES = ("wsi", "features", "mil", "cli", "sample_data")


def options_of(verb: str) -> set[str]:
    params = command_of(VERBS[verb]).params
    return {name for parameter in params for name in (*parameter.opts, *parameter.secondary_opts)}


EXAMPLES = [path for path in sorted((ROOT / "examples").rglob("*")) if path.is_file() and path not in TEXTS]
EVERY_TEXT = pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)


@pytest.mark.parametrize("text", [*TEXTS, *EXAMPLES], ids=lambda path: path.name)
def test_every_command_has_the_verbs_and_options_that_are_named(text: Path) -> None:
    commands = re.findall(r"gigamil ((?:[a-z]+)\b[^`\n]*)", text.read_text("utf-8"))
    known = [(words[0], words[1:]) for words in (command.split("#")[0].split() for command in commands)]
    for verb, words in known:
        if verb in VERBS:
            named = {word.strip("[].,;()").partition("=")[0] for word in words if word.lstrip("[").startswith("-")}
            inner = [own for own in words if VERBS[verb].passes_on and own in VERBS]
            unknown = {name for name in named if name.startswith("--")} - {"--help"}
            unknown -= set().union(*map(options_of, [verb, *inner]))
            assert not unknown, f"{text.name}: gigamil {verb} has no {unknown}"


@EVERY_TEXT
def test_every_file_that_is_named_is_there(text: Path) -> None:
    content = text.read_text("utf-8")
    named = re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests|docs)/[\w/.-]*)`", content)
    named += [target for target in re.findall(r"\]\(([\w/.-]+)\)", content) if not target.startswith("http")]
    missing = [name for name in named if not (ROOT / name).exists() and not (text.parent / name).exists()]
    assert not missing


def test_the_readme_names_every_verb() -> None:
    words = set(re.findall(r"[a-z]+(?:-[a-z]+)*", (ROOT / "README.md").read_text("utf-8")))
    assert set(VERBS) <= words


def test_counts() -> None:
    assert f"{len(HEADS)} of the field's MIL heads" in (ROOT / "README.md").read_text("utf-8")
    heads = (ROOT / "docs" / "HEADS.md").read_text("utf-8")
    assert [name for name in HEADS if f"`{name}`" not in heads] == []
    assert f"{len(PRESETS)} published encoders" in (ROOT / "README.md").read_text("utf-8")


def test_no_function_is_longer_than_60_lines() -> None:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    functions = ((path, node) for path in files for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = [f"{p}: {n.name}" for p, n in functions if isinstance(n, kinds) and (n.end_lineno or 0) - n.lineno >= 60]
    assert not long


def test_no_folder_has_more_than_fifteen_files() -> None:
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    files = {str(own): len([path for path in own.glob("*.py") if path.name != "__init__.py"]) for own in folders}
    assert {own: count for own, count in files.items() if count > 15} == {}
