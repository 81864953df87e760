"""The rehearsed share on the cluster of [slurm]: submitted as the cohort would be, waited for, and looked at."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from mil.pipeline.cohort.cohort_file import CohortFile, Experiment, read_cohort_file
from mil.pipeline.cohort.tables import EXPERIMENTS, VERBS, CohortTables
from mil.rehearsal import compare
from mil.rehearsal.compare import Difference
from mil.rehearsal.options import Rehearsed
from mil.rehearsal.share import COLUMNS_AS_OURS
from mil.slurm.command import slurm
from mil.slurm.options import SubmitOptions
from mil.slurm.queue import jobs, scripts_folder
from mil.slurm.submit import submit
from wsi.files.atomic import write_text
from wsi.options import specs
from wsi.pages import plural
from wsi.progress.outcome import Progress

SECONDS = 5.0
"""Between two looks at the queue."""
Found = tuple[str, list[Difference], str]
"""A stage, in what it differs, and what is said where it does not."""


def write_cohort(
    file: CohortFile, share: Path, folder: Path, rehearsed: Sequence[Experiment], train: Mapping[str, Any]
) -> Path:
    """Write the cohort file of the share; return its path.

    Parameters
    ----------
    file
        The whole cohort's: its tables [tile], [extract] and [slurm] hold, and [train] where nothing else is said.
    share
        Table of the slides.
    folder
        Of what is made.
    rehearsed
        Experiments; of each the encoders, how they are fused, and the head.
    train
        Options of training by field, in place of the file's; None: as if the file did not name it.
    """
    tables = CohortTables.read(file.path)
    told: dict[str, Any] = {
        "name": f"{file.name}-rehearsal",
        "folder": str(folder),
        "slides": [str(own) for own in file.slides],
        "manifest": str(share),
        "columns": COLUMNS_AS_OURS,
        "slurm": file.slurm,
    }
    for verb in ("tile", "extract", "train"):
        own = {key: value for key, value in tables.found.get(verb, {}).items() if (verb, key) != ("extract", "encoder")}
        values = {**tables.values(verb, own, f"[{verb}]"), **(train if verb == "train" else {})}
        keys = {spec.field: spec.key for spec in specs(VERBS[verb])}
        told[verb] = {keys[field]: _plain(value) for field, value in values.items() if value is not None}
    told["extract"]["encoder"] = [own.joined for own in file.extract]
    told[EXPERIMENTS] = [
        {"name": own.name, "encoder": [*own.encoders], "head": own.options.head}
        | ({"fusion": own.options.fusion} if len(own.encoders) > 1 else {})
        for own in rehearsed
    ]
    path = folder.with_suffix(".toml")
    write_text(path, tomli_w.dumps(told))
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(own) for own in value]
    return str(value) if isinstance(value, Path) else value


def carry_out(path: Path, progress: Progress) -> CohortFile:
    """Submit a cohort and wait until its last job has left the queue; return what was asked.

    The jobs are cancelled where waiting is cut short.

    Raises
    ------
    RequestError
        Slurm refuses, or does not answer.
    """
    file = read_cohort_file(path)
    submit(SubmitOptions(cohort=path))
    told, queue = "", jobs(file)
    try:
        while queue:
            line = ", ".join(f"{job.stage} {job.name} {job.state.lower()}" for job in queue[:4])
            if line != told:
                told = line
                progress.note(f"cluster, {plural(len(queue), 'job')}: {line}")
            time.sleep(SECONDS)
            queue = jobs(file)
    except BaseException:
        slurm(["scancel", *(job.name for job in queue)])
        raise
    return file


def compared(file: CohortFile, plain: Path, here: Path, asked: Rehearsed, progress: Progress) -> Iterator[Found]:
    """Give each stage of a share that the cluster made beside the plain one.

    Training is done once more in this process, on the cluster's bags: what differs then is the cluster's training.
    """
    from mil.train import train

    where = f"not made on the cluster: its jobs' logs are in {scripts_folder(file)}"
    found = _lost("cluster tile", plain / "stores", file.stores, "*.zarr", where)
    found += compare.stores("cluster tile", plain / "stores", file.stores)
    yield "cluster tile", found, "the stores are equal to every pixel of their tiles"
    for extraction in file.extract:
        name, own = f"cluster extract {extraction.joined}", plain / "bags" / extraction.out.name
        found, seen = compare.bags(name, own, extraction.out, asked)
        found = [*_lost(name, own, extraction.out, "*.h5", where), *found]
        yield (
            name,
            found,
            f"features differ by {seen['features']:.2%} at most, the least cosine is {seen['cosine']:.5f}",
        )
    for experiment in file.experiments:
        name, theirs = f"cluster train {experiment.name}", file.run_folder(experiment.name) / "oof.csv"
        if not theirs.exists():
            yield name, [Difference(name, experiment.name, where)], ""
            continue
        train(replace(experiment.options, out=here / experiment.name), progress)
        ours = here / experiment.name / "oof.csv"
        found, largest = compare.scores(name, compare.told_of(ours), compare.told_of(theirs), asked.scores)
        yield name, found, f"what is told of slides differs by {largest:.4f} at most from training here on its bags"


def _lost(stage: str, plain: Path, other: Path, pattern: str, why: str) -> list[Difference]:
    names = sorted({own.name for own in plain.glob(pattern)} - {own.name for own in other.glob(pattern)})
    return [Difference(stage, name.partition(pattern[1:])[0], why) for name in names]
