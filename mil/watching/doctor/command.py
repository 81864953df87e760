"""`gigamil doctor`: every check in its turn, a line each; 1 where something is wrong."""

import json as json_module
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

from rich.text import Text

from mil.watching.doctor.disk import disk
from mil.watching.doctor.finding import Check, Finding, findings_of
from mil.watching.doctor.gpu import gpu
from mil.watching.doctor.hub import hub
from mil.watching.doctor.installation import installation
from mil.watching.doctor.machine import machine
from mil.watching.doctor.options import DoctorOptions
from mil.watching.shown import console
from wsi.errors import masked
from wsi.pages import plural

_MARKS = {"ok": ("ok", "green"), "warning": ("WARN", "yellow"), "wrong": ("WRONG", "bold red")}


def doctor(options: DoctorOptions, json: bool) -> int:
    """Look at everything; return 1 where something is wrong, else 0."""
    found = []
    screen = console()
    for finding in all_findings(options):
        found.append(finding)
        if not json:
            for line in lines_of(finding):
                screen.print(line, soft_wrap=not screen.is_terminal)
    wrong = [own for own in found if own.level == "wrong"]
    warnings = sum(own.level == "warning" for own in found)
    if json:
        told = {"findings": [asdict(own) for own in found], "wrong": len(wrong), "warnings": warnings}
        sys.stdout.write(masked(json_module.dumps(told, indent=1)) + "\n")
    else:
        screen.print(f"{plural(len(found), 'check')}: {len(wrong)} wrong, {plural(warnings, 'warning')}")
    return 1 if wrong else 0


def all_findings(options: DoctorOptions) -> Iterator[Finding]:
    """Give the findings of all checks, as they are made."""
    checks: dict[str, Check] = {
        "installation": installation,
        "machine": machine,
        "folder": partial(disk, options.folder),
        "GPU": gpu,
        "hub": partial(hub, online=options.online),
    }
    for name, check in checks.items():
        yield from findings_of(name, check)


def lines_of(finding: Finding) -> Iterator[Text]:
    """Give a finding's lines for a person: what was found, and below it what to do."""
    mark, style = _MARKS[finding.level]
    yield Text.assemble((f"{mark:<6}", style), (f"{finding.check}: ", "bold"), masked(finding.found))
    if finding.advice:
        yield Text(f"{'':<6}-> {masked(finding.advice)}")
