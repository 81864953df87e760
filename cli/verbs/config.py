"""`gigamil config`, and what `--config` reads: the options of one verb, or of a whole project, as TOML."""

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cli.commands import VERBS, Verb
from cli.from_dataclass import shown, texts, title_of
from wsi.errors import RequestError
from wsi.files.documents import read_toml
from wsi.option_files import nearest, table_values
from wsi.options import Option, Spec, check, decided, specs


@dataclass(frozen=True, kw_only=True)
class ConfigOptions:
    """Which verbs' options to print."""

    verbs: Annotated[tuple[str, ...], Option(argument="[VERB]...")] = ()
    """Verbs; otherwise all."""

    def __post_init__(self) -> None:
        check(self)
        for name in self.verbs:
            if name not in VERBS:
                raise RequestError(f"{name} is no verb{nearest(name, list(VERBS))}")


def config(options: ConfigOptions, json: bool) -> int:
    """Print TOML with every option at its default and what it means, which `--config` takes; of run, a cohort file."""
    if options.verbs == ("run",):
        from cli.verbs.cohort_config import cohort_text

        sys.stdout.write(cohort_text())
        return 0
    for name in options.verbs or [name for name in VERBS if name != "config"]:
        sys.stdout.write(written(VERBS[name]) + "\n")
    return 0


def written(verb: Verb) -> str:
    """Return a verb's options as a table of TOML: what has no default is commented out."""
    options = verb.load("options")
    lines, title = [f"# {verb.summary}", f"[{verb.name}]"], ""
    for spec in specs(options):
        if title_of(spec, options) != title:
            title = title_of(spec, options)
            lines += ["", f"# -- {title}"]
        lines += [f"# {texts(spec.group)[spec.field]}", line_of(spec, decided(options))]
    return "\n".join(lines) + "\n"


def line_of(spec: Spec, decided_by_others: Collection[str] = ()) -> str:
    """Return a key at its default; as a comment where it has none, or where standing there would decide something."""
    import tomli_w

    if spec.field in decided_by_others:
        return f"# {line_of(spec)}"
    if spec.default is None or (not shown(spec.default) and not isinstance(spec.default, str | tuple)):
        choices = f" {' or '.join(spec.choices)}" if spec.choices else ""
        return f"# {spec.key} ={choices}{' (required)' if spec.default is not None else ''}"
    value = [*map(_plain, spec.default)] if isinstance(spec.default, tuple) else _plain(spec.default)
    return tomli_w.dumps({spec.key: value}).strip()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def read_config(path: Path, verb: Verb) -> dict[str, Any]:
    """Return a verb's values of a file, by field; relative paths in it start at its own folder.

    The file holds a table for each verb, or the options of one verb alone.

    Raises
    ------
    RequestError
        No such file, no TOML, no such option, or a value does not fit.
    """
    return table_values(verb.load("options"), _table(path, verb), path.parent, verb.name, str(path))


def _table(path: Path, verb: Verb) -> dict[str, Any]:
    found = read_toml(path)
    tables = {name: value for name, value in found.items() if isinstance(value, dict)}
    if not tables:
        return found
    wrong = [name for name in tables if name not in VERBS]
    if wrong:
        raise RequestError(f"{path}: [{wrong[0]}] is no verb{nearest(wrong[0], list(VERBS))}")
    if len(tables) < len(found):
        flat = next(name for name in found if name not in tables)
        raise RequestError(f"{path}: {flat} stands outside the tables of the verbs: expected it in one of them")
    if verb.name not in tables:
        raise RequestError(f"{path}: expected a table [{verb.name}], found [{'], ['.join(tables)}]")
    return dict(tables[verb.name])
