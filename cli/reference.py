"""The command reference, made of the options alone: ``python -m cli.reference docs/reference/commands.md``."""

import sys
from pathlib import Path

from cli.commands import VERBS, Verb
from cli.from_dataclass import kind_of, shown, texts, title_of
from wsi.options import Spec, specs

_HEAD = """# Commands

Every option of a verb can also stand in a file of TOML (`--config`; `gigamil config VERB` prints one), and is a field
of the verb's options in Python. Options that are shown with dots may be given several times.
"""


def reference() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *(_verb(verb) for verb in VERBS.values())])


def _verb(verb: Verb) -> str:
    options = verb.load("options")
    lines = [f"## gigamil {verb.name}", "", verb.summary, *(["", verb.more] if verb.more else [])]
    known = specs(options)
    ordered = sorted(known, key=lambda spec: not spec.mark.argument)
    for title in dict.fromkeys(title_of(spec, options) for spec in ordered):
        lines += ["", f"**{title}**", "", "| option | value | default | meaning |", "|---|---|---|---|"]
        lines += [_row(spec) for spec in ordered if title_of(spec, options) == title]
    return "\n".join(lines) + "\n"


def _row(spec: Spec) -> str:
    flag = spec.kind is bool
    name = spec.mark.argument or f"--{spec.name}" + (f", --no-{spec.name}" if flag and spec.default is True else "")
    names = ", ".join(f"`{own}`" for own in filter(None, [spec.mark.short, *name.split(", ")]))
    several = " ..." if spec.several and not spec.mark.argument else ""
    value = "" if flag else f"`{kind_of(spec)}`{several}"
    default = "required" if spec.default is not None and not shown(spec.default) and spec.default != "" else ""
    default = default if spec.default != () else ""
    default = f"`{shown(spec.default)}`" if shown(spec.default) and not flag else default
    cells = [names, value, default, texts(spec.group)[spec.field]]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), "utf-8")
