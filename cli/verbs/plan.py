"""`gigamil plan`: a plan as tables for a person, or as JSON."""

from typing import TYPE_CHECKING

from wsi.pages import plural

if TYPE_CHECKING:
    from rich.console import Console

    from mil.planning.estimate import Plan
    from mil.planning.options import PlanOptions

_NAMED = 20
"""Slides that cannot be read, named one by one."""


def plan(options: "PlanOptions", json: bool) -> int:
    """Show what a cohort will take; return 1 with --strict where it does not fit, or a slide cannot be read."""
    import json as json_module
    import sys

    from rich.console import Console

    from cli.console import progress_bars
    from mil.planning.plan import plan as make_plan
    from wsi.errors import masked

    with progress_bars() as progress:
        made = make_plan(options, progress)
    if json:
        sys.stdout.write(masked(json_module.dumps(made.as_dict(), indent=1)) + "\n")
    else:
        show(made, Console(width=None if Console().is_terminal else 160, highlight=False))
    return int(options.strict and (bool(made.failures) or not made.fits))


def show(made: "Plan", console: "Console") -> None:
    """Print a plan."""
    from mil.planning.wording import size, sizes, span
    from wsi.errors import masked

    console.print(
        f"{plural(made.slides, 'slide')}, {size(made.slide_bytes)} to be tiled; on {made.machine}", markup=False
    )
    console.print(_table(made))
    told = f"all: {span(made.seconds)}, {sizes(made.disk_bytes) or '0 B'} of disk, {size(made.free_bytes)} free"
    if made.price:
        told += f"; {made.cost.expected:.2f} ({made.cost.low:.2f} to {made.cost.high:.2f}) at {made.price:g} an hour"
    console.print(told, markup=False)
    for own in made.stages:
        if own.todo and own.bottleneck:
            console.print(f"{own.stage} {own.name}".rstrip() + f", slowest: {own.bottleneck}", markup=False)
    for line in [*made.advice, *made.notes, *(note for own in made.stages for note in own.notes), *made.earlier]:
        console.print(masked(f"- {line}"), markup=False)
    for name, why in list(made.failures.items())[:_NAMED]:
        console.print(masked(f"- {name} is left out of every sum: {why}"), markup=False)
    if len(made.failures) > _NAMED:
        console.print(f"- and {len(made.failures) - _NAMED} more slides are left out", markup=False)


def _table(made: "Plan") -> object:
    from rich.markup import escape
    from rich.table import Table

    from mil.planning.wording import counts, size, sizes, span

    table = Table("stage", "to do", "done", "tiles", "time", "memory", "GPU memory", "disk")
    for own in made.stages:
        cells = [
            f"{own.stage} {own.name}".rstrip(),
            f"{own.todo:,}",
            f"{own.done:,}",
            counts(own.tiles),
            span(own.seconds) if own.todo else "",
            sizes(own.peak_bytes) if own.todo else "",
            size(own.gpu_bytes) if own.gpu_bytes.expected else "",
            sizes(own.disk_bytes),
        ]
        table.add_row(*map(escape, cells))
    return table
