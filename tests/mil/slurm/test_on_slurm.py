"""Cohorts on a real Slurm, which is started here: what a script does with signals and codes, and a whole chain."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tomli_w
import zarr
from making import picture, write_deflate
from slurm_here import Slurm, logs, running_slurm

from mil.pipeline.cohort.cohort_file import CohortFile, read_cohort_file
from mil.pipeline.options import RunOptions
from mil.pipeline.rehearsed import why_not_rehearsed
from mil.pipeline.run import run
from mil.rehearsal.options import RehearseOptions
from mil.rehearsal.rehearse import rehearse
from mil.slurm.options import SubmitOptions
from mil.slurm.queue import SlurmJob, job_name, jobs
from mil.slurm.scripts import Script, extract_script
from mil.slurm.shell import FUNCTIONS
from mil.slurm.submit import submit
from wsi.errors import RequestError
from wsi.files.atomic import write_text
from wsi.progress.outcome import Status

NAMES = ("texture-mean_pool-hidden=16", "texture-max_pool-hidden=16")
STOPPED = """\
#!/bin/bash
# A program that can be stopped: told softly it leaves with 75, told to end with 143; later it is done at once.
echo "begun $SLURM_RESTART_COUNT $*"
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exit 0
trap 'echo soft; exit 75' USR2
trap 'echo hard; exit 143' TERM
touch ready
while :; do sleep 0.05; done
"""
CODES = """\
#!/bin/bash
# A program that leaves with its task's code, a soft one the first time only.
echo "begun $SLURM_RESTART_COUNT"
codes=({codes})
code=${{codes[${{SLURM_ARRAY_TASK_ID:-0}}]}}
[ "$code" = 75 ] && [ -n "$SLURM_RESTART_COUNT" ] && code=0
exit "$code"
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with running_slurm() as slurm:
        yield slurm


def written(folder: Path, slurm: Mapping[str, Any], **more: Any) -> Path:
    """A cohort file of two slides that are not looked at, in a folder with a space."""
    folder = folder / "a cohort"
    folder.mkdir()
    (folder / "slides").mkdir()
    for name in ("a_0", "b_0"):
        (folder / "slides" / f"{name}.tif").touch()
    (folder / "train.csv").write_text("image_id,center_id,patient_id,image_num,label\na_0,1,a,0,CE\nb_0,1,b,0,LAA\n")
    table = {"slides": ["slides"], "manifest": "train.csv", "slurm": slurm, **more}
    (folder / "cohort.toml").write_text(tomli_w.dumps(table))
    return folder / "cohort.toml"


def standing_in(tmp_path: Path, program: str, **slurm: Any) -> tuple[CohortFile, Path]:
    """A cohort whose Python is another program; and the folder of its logs."""
    place = tmp_path / "program"
    place.write_text(program)
    place.chmod(0o755)
    file = read_cohort_file(written(tmp_path, {"python": str(place), **slurm}))
    return file, file.folder / "slurm"


def send(slurm: Slurm, script: Script, *words: str) -> str:
    write_text(script.file.with_name("functions.sh"), FUNCTIONS)
    write_text(script.file, script.text)
    return slurm.run("sbatch", "--parsable", *words, script.file)


def test_a_preempted_job_is_told_softly_and_is_done_after_its_requeue(slurm: Slurm, tmp_path: Path) -> None:
    file, folder = standing_in(tmp_path, STOPPED, partition="low", sbatch=["--exclusive", "--nodelist=n1"], time="10")
    job = send(slurm, extract_script(file, last=False))
    slurm.until((folder / "ready").exists)
    assert [own.state for own in jobs(file)] == ["RUNNING"]
    slurm.run("sbatch", "--partition=high", "--exclusive", "--nodelist=n1", "--output=/dev/null", "--wrap=true")
    slurm.until(lambda: slurm.state(job) == "COMPLETED")
    told = (folder / f"{job_name(file, 'extract')}-{job}_0.log").read_text()
    assert "soft" in told
    assert "hard" not in told
    assert told.count("begun") == 2
    assert slurm.facts(job)["Restarts"] == "1"


def test_a_cancelled_job_stays_cancelled(slurm: Slurm, tmp_path: Path) -> None:
    file, folder = standing_in(tmp_path, STOPPED)
    job = send(slurm, extract_script(file, last=False))
    slurm.until((folder / "ready").exists)
    slurm.run("scancel", job)
    slurm.until(lambda: slurm.state(job) == "CANCELLED")
    slurm.until(lambda: "hard" in logs(folder))
    assert jobs(file) == []


def test_only_the_task_that_leaves_softly_goes_back_and_a_failed_item_holds_nobody_up(
    slurm: Slurm, tmp_path: Path
) -> None:
    file, folder = standing_in(tmp_path, CODES.format(codes="0 1 75"), extract={"jobs": 3})
    job = send(slurm, extract_script(file, last=False))
    after = slurm.run("sbatch", "--parsable", f"--dependency=afterok:{job}", "--output=/dev/null", "--wrap=true")
    slurm.until(lambda: slurm.state(after) == "COMPLETED")
    name = job_name(file, "extract")
    begun = [(folder / f"{name}-{job}_{task}.log").read_text().count("begun") for task in range(3)]
    assert begun == [1, 1, 2]  # the last task has the array's own number
    assert "some items failed" in (folder / f"{name}-{job}_1.log").read_text()


def test_a_wrong_request_ends_the_chain(slurm: Slurm, tmp_path: Path) -> None:
    file, _ = standing_in(tmp_path, CODES.format(codes="2"))
    job = send(slurm, extract_script(file, last=False))
    depends = f"--dependency=afterok:{job}"
    after = slurm.run("sbatch", "--parsable", depends, "--kill-on-invalid-dep=yes", "--output=/dev/null", "--wrap=true")
    slurm.until(lambda: slurm.state(after) == "CANCELLED")
    assert slurm.facts(job)["ExitCode"] == "2:0"


def test_a_job_goes_back_only_so_often(slurm: Slurm, tmp_path: Path) -> None:
    file, folder = standing_in(tmp_path, "#!/bin/bash\nexit 75\n", requeues=1)
    job = send(slurm, extract_script(file, last=False))
    slurm.until(lambda: slurm.state(job) == "FAILED")
    assert slurm.facts(job)["Restarts"] == "1"
    assert "has gone back into the queue 1 times" in logs(folder)


def test_the_queue_tells_this_cohorts_jobs_alone(slurm: Slurm, tmp_path: Path) -> None:
    file, _ = standing_in(tmp_path, STOPPED, constraint="", extract={"jobs": 2, "array": 1})
    job = send(slurm, extract_script(file, last=False), "--hold")
    other = slurm.run("sbatch", "--parsable", "--hold", f"--job-name={job_name(file, 'extract')}", "--wrap=true")
    told = jobs(file)
    slurm.run("scancel", job, other)
    assert told == [
        SlurmJob(job, task, "extract", "PENDING", "JobHeldUser", "", 0) for task in ("0", "1")
    ]  # the other one lies in another folder


def test_slurm_refuses_in_its_own_words_and_what_was_submitted_is_named(slurm: Slurm, tmp_path: Path) -> None:
    cohort = written(tmp_path, {"tile": {"jobs": 1}, "driver": {}, "extract": {"partition": "nowhere"}})
    with pytest.raises(RequestError, match=r"extract: sbatch: .*[Ii]nvalid partition.*submitted before it: \d+ \d+ \("):
        submit(SubmitOptions(cohort=cohort))
    slurm.run("scancel", *(job.name for job in jobs(read_cohort_file(cohort))))


def test_what_is_in_the_queue_is_not_submitted_again(slurm: Slurm, tmp_path: Path) -> None:
    file, _ = standing_in(tmp_path, "#!/bin/bash\nexit 0\n", sbatch=["--hold"], tile={"jobs": 1})
    first = submit(SubmitOptions(cohort=file.path))
    assert [(own.job, own.new) for own in first] == [
        ("tile", True), ("tile-workers", True), ("extract", True), ("train", True), ("after", False),
    ]  # fmt: skip
    slurm.run("scancel", first[2].job_ids[0])
    slurm.until(lambda: slurm.state(first[2].job_ids[0]) == "CANCELLED")
    again = submit(SubmitOptions(cohort=file.path))
    try:
        assert [(own.job, own.new) for own in again[:4]] == [
            ("tile", False), ("tile-workers", False), ("extract", True), ("train", False),
        ]  # fmt: skip
        assert again[2].after == f"afterok:{first[0].job_ids[0]}"
        assert f"{first[0].job_ids[0]} PENDING" in again[0].told
    finally:
        slurm.run("scancel", *(job.job_id for job in jobs(file)))


def cohort(folder: Path, slides: int, **tables: Any) -> Path:
    """A cohort file of small slides; what is made goes to a folder beside it."""
    (folder / "slides").mkdir(parents=True)
    rows = ["image_id,center_id,patient_id,image_num,label"]
    for number in range(slides):
        write_deflate(folder / "slides" / f"p{number}_0.tif", picture(500, 600, seed=number))
        rows.append(f"p{number}_0,{number % 2},p{number},0,{('CE', 'LAA')[number % 2]}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    table: dict[str, Any] = {
        "slides": ["slides"],
        "manifest": "train.csv",
        "tile": {"assume_mpp": 0.5, "tile_px": 64},
        "train": {"folds": 2, "epochs": 2, "device": "cpu", "baselines": [], "hidden": 16, "attention": 8},
        "slurm": {"interface": "lo", "time": "30", "tile": {"jobs": 2}},
    }
    for name, own in tables.items():
        table[name] = {**table.get(name, {}), **own}
    (folder / "cohort.toml").write_text(tomli_w.dumps(table))
    return folder / "cohort.toml"


def alone(path: Path, folder: Path) -> CohortFile:
    """The same cohort, all of it by one process, in another folder."""
    other = path.with_name("alone.toml")
    other.write_text(f'folder = "{folder}"\n{path.read_text()}')
    assert run(RunOptions(cohort=other, workers=0, nproc=1)).exit_code == 0
    return read_cohort_file(other)


def contents(file: CohortFile) -> dict[str, Any]:
    """What was made: arrays of stores as bytes, hashes of bags, tables of scores."""
    found: dict[str, Any] = {}
    for store in sorted(file.stores.glob("*.zarr")):
        for name, array in zarr.open_group(store, mode="r").members(max_depth=None):
            if isinstance(array, zarr.Array):
                found[f"{store.name}/{name}"] = np.asarray(array[...]).tobytes()
    for bag in sorted((file.folder / "bags").rglob("*.h5")):
        with h5py.File(bag) as opened:
            found[bag.name] = opened.attrs["content_sha256"]
    for scores in sorted((file.folder / "runs").rglob("oof.csv")):
        found[str(scores.relative_to(file.folder))] = scores.read_bytes()
    return found


def check_same(file: CohortFile, path: Path, folder: Path) -> None:
    expected, found = contents(alone(path, folder)), contents(file)
    assert set(found) == set(expected)
    assert len([name for name in found if name.endswith(".h5")]) == len(list(file.slides[0].iterdir()))
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.mark.timeout(900)
def test_a_chain_makes_what_one_process_makes(slurm: Slurm, tmp_path: Path) -> None:
    path = cohort(tmp_path / "a cohort", 8)
    made = submit(SubmitOptions(cohort=path))
    file = read_cohort_file(path)
    slurm.ended(400)
    told = logs(file.folder / "slurm")
    ids = {own.job: own.job_ids for own in made}
    assert [slurm.state(ids[name][0]) for name in ("tile", "extract", "train")] == ["COMPLETED"] * 3, told
    assert told.count("Registered to:") == 2, told
    check_same(file, path, tmp_path / "alone")
    assert [(own.job, own.told) for own in submit(SubmitOptions(cohort=path))] == [
        (name, "nothing left to do") for name in ("tile", "extract", "train", "after")
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rehearsal_on_the_cluster_names_what_the_cluster_alone_does(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mil.rehearsal.cluster.SECONDS", 0.5)
    asked = {"patients": 8, "epochs": 2}
    heads = {"head": ["mean_pool", "max_pool"], "hidden": [16]}
    path = cohort(tmp_path / "a cohort", 10, rehearse=asked, grid=heads, train={"epochs": 30}, report={})
    good = rehearse(RehearseOptions(cohort=path, cluster=True))
    assert [(own.item_id, own.status) for own in good.outcomes if own.item_id.startswith("cluster")] == [
        (f"cluster {name}", Status.DONE) for name in ("tile", "extract texture", *(f"train {NAMES[i]}" for i in (0, 1)))
    ], good.outcomes
    assert "differs by 0.0000 at most from training here" in good.outcomes[-1].reason
    assert not (path.with_suffix("") / "rehearsal").exists()
    path.write_text(path.read_text() + '\n[slurm.train]\nsetup = ["exit 2"]\n')
    bad = rehearse(RehearseOptions(cohort=path, cluster=True))
    assert bad.exit_code == 1
    assert [own.item_id for own in bad.outcomes if own.status is Status.FAILED] == [
        f"cluster train {name}" for name in NAMES
    ]
    assert "not made on the cluster: its jobs' logs are in" in bad.outcomes[-1].reason
    assert "cluster train" in why_not_rehearsed(read_cohort_file(path))
    assert jobs(read_cohort_file(path)) == []
    path.write_text(path.read_text().partition("[slurm]")[0])
    with pytest.raises(RequestError, match=r"--cluster: expected a table \[slurm\]"):
        rehearse(RehearseOptions(cohort=path, cluster=True))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_chain_whose_extraction_is_preempted_makes_what_one_process_makes(slurm: Slurm, tmp_path: Path) -> None:
    path = cohort(
        tmp_path / "a cohort",
        8,
        extract={"nproc": 2, "encoder": "timm:resnet18", "random_weights": 0, "off_recipe": True, "batch_size": 4},
        grid={"head": ["gated_abmil", "mean_pool"]},
        report={},
        slurm={"partition": "low", "extract": {"sbatch": ["--exclusive"]}},
    )
    made = {own.job: own.job_ids[0] for own in submit(SubmitOptions(cohort=path))}
    file = read_cohort_file(path)
    bags = file.folder / "bags"
    slurm.until(lambda: any(bags.rglob("*.h5")) or not slurm.queue(), 300)
    first = {bag: bag.stat().st_mtime_ns for bag in bags.rglob("*.h5")}
    slurm.run("sbatch", "--partition=high", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=true")
    slurm.ended(1200)
    told = logs(file.folder / "slurm")
    assert {name: slurm.state(made[name]) for name in made} == dict.fromkeys(made, "COMPLETED"), told
    assert slurm.facts(made["extract"])["Restarts"] == "1", told
    assert 0 < len(first) < 8
    assert {bag: bag.stat().st_mtime_ns for bag in first} == first
    assert told.count("Registered to:") == 2, told
    check_same(file, path, tmp_path / "alone")
