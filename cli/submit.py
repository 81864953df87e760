"""`gigamil submit`: the jobs of a cohort into Slurm's queue; with --dry-run, their scripts on standard output."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mil.slurm.options import SubmitOptions


def submit(options: "SubmitOptions", json: bool) -> int:
    """Submit, and say which jobs there are now."""
    import json as json_module
    import shlex

    from mil.slurm.submit import submit as submit_cohort
    from mil.slurm.submit import words
    from wsi.errors import masked

    made = submit_cohort(options)
    if json:
        text = json_module.dumps([own.as_dict() for own in made], indent=1) + "\n"
    elif options.dry_run:
        scripts = [f"# {shlex.join(words(own))}\n{own.script.text}" for own in made if own.script]
        text = "\n".join([*(f"# {own.job}: {own.told}" for own in made if not own.script), *scripts])
    else:
        text = "".join(f"{own.job}: {own.told}\n" for own in made)
    sys.stdout.write(masked(text))
    return 0
