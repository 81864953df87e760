"""`gigamil submit`: the jobs of a cohort into Slurm's queue; with --dry-run, their scripts on standard output."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mil.slurm.options import SubmitOptions


def submit(options: "SubmitOptions", json: bool) -> int:
    """Submit, and say which jobs there are now."""
    import json as json_module
    import shlex

    from cli.console import stderr
    from mil.pipeline.cohort.cohort_file import read_cohort_file
    from mil.pipeline.rehearsed import why_not_rehearsed
    from mil.slurm.scripts import functions
    from mil.slurm.submit import submit as submit_cohort
    from mil.slurm.submit import words
    from wsi.errors import masked

    file = read_cohort_file(options.cohort)
    if why := "" if options.require_rehearsal else why_not_rehearsed(file):
        stderr.print(masked(f"note: {why}"), markup=False, soft_wrap=True)
    made = submit_cohort(options)
    if json:
        text = masked(json_module.dumps([own.as_dict() for own in made], indent=1)) + "\n"
    elif options.dry_run:  # as it is written: an --signal=B:USR1@120 looks like a credential
        told = [f"# {own.job}: {own.told}\n" for own in made if not own.script]
        scripts = [f"# {shlex.join(words(own))}\n{own.script.text}" for own in made if own.script]
        path, shared = functions(file)
        text = "\n".join([*told, *scripts, f"# {path}\n{shared}"])
    else:
        text = masked("".join(f"{own.job}: {own.told}\n" for own in made))
    sys.stdout.write(text)
    return 0
