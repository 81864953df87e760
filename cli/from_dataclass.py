"""A dataclass of options as a command: its fields, grouped, with the texts under them; its values, from words.

Options are made of the values of the command line, over those of `--config`; `wsi.options` says what may stand in them.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from wsi.errors import RequestError
from wsi.options import Spec, specs, with_given

ARGUMENTS, GENERAL = "Arguments", "General"
"""Titles of the first and the last group of the help."""


class Word(click.ParamType):  # type: ignore[type-arg]
    """A word of the command line, as it was typed: `Spec.read` makes a value of it."""

    def __init__(self, spec: Spec) -> None:
        self._spec, self.name = spec, kind_of(spec)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the choices, or the kind of value."""
        return self.name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the choices, and paths."""
        if self._spec.choices:
            return [CompletionItem(own) for own in self._spec.choices if own.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file")] if self.name == "PATH" else []


def kind_of(spec: Spec) -> str:
    """Return what the help shows in a value's place."""
    names = re.findall(r"\b(?:Path|int|float|str)\b", str(spec.kind))
    shown = {"Path": "PATH", "int": "N", "float": "X", "str": "TEXT"}
    kinds = [shown[name] for name in dict.fromkeys(names)]
    if spec.choices:
        return "|".join([*spec.choices, *(kind for kind in kinds if kind != "TEXT")])
    return "PATH" if "PATH" in kinds else (kinds or ["TEXT"])[0]


class Command(click.Command):
    """A verb whose help stands in groups."""

    def __init__(self, name: str, options: type, **settings: Any) -> None:
        self.options = options
        params = [parameter_of(spec) for spec in specs(options)]
        arguments = [own for own in params if isinstance(own, click.Argument)]
        rest = [own for own in params if not isinstance(own, click.Argument)]
        super().__init__(name, params=[*arguments, *rest, *settings.pop("params")], **settings)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        known = {spec.field: spec for spec in specs(self.options)}
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            spec = known.get(param.name or "")
            record = (
                (spec.mark.argument, meaning(spec, self.options))
                if spec and spec.mark.argument
                else param.get_help_record(ctx)
            )
            if record:
                groups.setdefault(title_of(spec, self.options) if spec else GENERAL, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=28)


def title_of(spec: Spec, options: type) -> str:
    """Return the title of the group that a field stands in."""
    if spec.mark.argument:
        return ARGUMENTS
    own = spec.group is options
    return "Options" if own else inspect.cleandoc(spec.group.__doc__ or "").splitlines()[0].rstrip(".")


def parameter_of(spec: Spec) -> click.Parameter:
    """Return a field as click knows it."""
    if spec.mark.argument:
        count = 1 if spec.mark.one or not spec.several else -1
        return click.Argument(
            [spec.field], nargs=count, required=False, type=Word(spec), metavar=spec.mark.argument, default=None
        )
    names = [f"--{spec.name}", *filter(None, [spec.mark.short])]
    if spec.kind is bool and spec.default is True:
        names = [f"--{spec.name}/--no-{spec.name}"]
    kind: dict[str, Any] = {"is_flag": True} if spec.kind is bool else {"type": Word(spec), "multiple": spec.several}
    return click.Option([*names, spec.field], help=meaning(spec, spec.group), **kind)


def meaning(spec: Spec, options: type) -> str:
    """Return the text under a field, and its default, as a person reads it."""
    text = texts(spec.group)[spec.field]
    default = shown(spec.default)
    told = "required" if spec.default is MISSING else f"default: {default}" if default and spec.kind is not bool else ""
    return f"{text} [{told}]" if told and not spec.mark.argument else text


def shown(value: Any) -> str:
    """Return a default for a person; nothing where there is none."""
    if value is None or value is MISSING or value == ():
        return ""
    return (
        ", ".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


@cache
def texts(group: type) -> dict[str, str]:
    """Return the text that stands under each field of a class, in one line."""
    body = _classes(inspect.getsourcefile(group) or "")[group.__name__]
    found = {}
    for field, under in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            told = under.value.value if isinstance(under, ast.Expr) and isinstance(under.value, ast.Constant) else ""
            found[field.target.id] = " ".join(str(told).replace("``", "").split())
    return found


@cache
def _classes(file: str) -> dict[str, list[ast.stmt]]:
    tree = ast.parse(Path(file).read_text("utf-8"))
    return {own.name: own.body for own in tree.body if isinstance(own, ast.ClassDef)}


def said(ctx: click.Context, options: type) -> dict[str, Any]:
    """Return the values that stand on the command line, by field."""
    values: dict[str, Any] = {}
    more: dict[str, list[str]] = {}
    for spec in specs(options):
        if ctx.get_parameter_source(spec.field) is not ParameterSource.COMMANDLINE:
            continue
        word = ctx.params[spec.field]
        if spec.kind is bool:
            values[spec.field] = word
            continue
        words = [word] if isinstance(word, str) else list(word)
        if spec.mark.commas:
            words = [own.strip() for each in words for own in each.split(",") if own.strip()]
        if spec.mark.rest:
            words, others = words[:1] or [""], words[1:]
            more |= {spec.mark.rest: others} if others else {}
        if words or spec.several:
            values[spec.field] = spec.read(words if spec.several and not spec.mark.rest else words[0], text=True)
    return values | {field: tuple(dict.fromkeys((*own, *values.get(field, ())))) for field, own in more.items()}


def made(options: type, values: Mapping[str, Any]) -> Any:
    """Return the options of these values; `RequestError` names all that are missing."""
    absent = [spec for spec in specs(options) if spec.default is MISSING and spec.field not in values]
    if absent:
        missing = [spec.shown for spec in sorted(absent, key=lambda spec: not spec.mark.argument)]
        *first, last = missing
        raise RequestError(f"expected {' and '.join([', '.join(first), last] if first else [last])}, found none")
    return options(**with_given(options, values))


def names_of(options: type) -> Iterator[str]:
    """Give every option of a class, with its dashes."""
    for spec in specs(options):
        if not spec.mark.argument:
            yield f"--{spec.name}"
